#include "devmodel/handover/vmdesc.hpp"

#include "common/json.hpp"
#include "devmodel/handover/format.hpp"

#include <algorithm>

namespace airlock::handover
{

namespace
{

constexpr JsonLimits kJsonLimits{.bytes = 4U << 20, .depth = 64};
/** Commas and brackets bound the number of JSON values, and so the memory
 * that the parsed tree takes; 64 vCPUs need about a tenth of this. */
constexpr std::ptrdiff_t kMaxJsonMarks = 1 << 19;
/** Bytes of all names that a walk over one device makes up. Nesting and array
 * lengths multiply, so this is what keeps a walk short. */
constexpr std::size_t kMaxNames = 16U << 20;

std::string readName(const JsonField& field)
{
    std::string name = field.string(kMaxIdstr);
    if (name.empty() || !isPrintable(name))
    {
        field.refuse("is no printable name");
    }
    return name;
}

/** Adds size * count to total. Both are at most kMaxBootStream, so that the
 * product fits 64 bits; the sum is checked. */
void grow(std::size_t& total, std::size_t size, std::size_t count,
          const JsonField& where)
{
    static_assert(kMaxBootStream <= (std::size_t{1} << 31));
    total += size * count;
    if (total > kMaxBootStream)
    {
        where.refuse("describes more bytes than a stream may have");
    }
}

StructDesc readStruct(const JsonField& json);

bool hasSubsections(const StructDesc& desc)
{
    return !desc.subsections.empty() ||
           std::any_of(desc.fields.begin(), desc.fields.end(),
                       [](const FieldDesc& field) {
                           return !field.inner.empty() &&
                                  hasSubsections(field.inner[0]);
                       });
}

/** QEMU writes `array_len` only when all elements look the same, which rules
 * subsections out (vmsd_can_compress); checkPayload() relies on it. */
void checkInner(const FieldDesc& field, const JsonField& json)
{
    const StructDesc& inner = field.inner[0];
    if (inner.size != field.size)
    {
        json.refuse("says " + std::to_string(field.size) +
                    " bytes, its parts add up to " +
                    std::to_string(inner.size));
    }
    if (field.count > 1 && hasSubsections(inner))
    {
        json.refuse("is an array of structs with subsections");
    }
}

FieldDesc readField(const JsonField& json)
{
    FieldDesc field;
    field.name = readName(json.at("name"));
    field.type = readName(json.at("type"));
    field.size = json.at("size").u64(kMaxBootStream);
    if (auto count = json.find("array_len"))
    {
        field.count = count->u64(kMaxBootStream);
    }
    if (auto index = json.find("index"))
    {
        field.index = index->u64(kMaxBootStream);
    }
    if (auto inner = json.find("struct"))
    {
        field.inner.push_back(readStruct(*inner));
        checkInner(field, json);
    }
    return field;
}

void readFields(StructDesc& desc, const JsonField& json)
{
    JsonField fields = json.at("fields");
    std::size_t count = fields.arraySize();
    for (std::size_t i = 0; i < count; ++i)
    {
        JsonField element = fields.element(i);
        const FieldDesc& field = desc.fields.emplace_back(readField(element));
        grow(desc.size, field.size, field.count, element);
    }
}

void readSubsections(StructDesc& desc, const JsonField& json)
{
    std::optional<JsonField> list = json.find("subsections");
    std::size_t count = list ? list->arraySize() : 0;
    for (std::size_t i = 0; i < count; ++i)
    {
        JsonField element = list->element(i);
        const StructDesc& sub =
            desc.subsections.emplace_back(readStruct(element));
        grow(desc.size, subsectionHeaderSize(sub.name) + sub.size, 1, element);
    }
}

/** Recursion is bounded by the JSON depth limit. */
StructDesc readStruct(const JsonField& json)
{
    StructDesc desc;
    desc.name = readName(json.at("vmsd_name"));
    desc.version = static_cast<std::uint32_t>(
        json.at("version").u64(std::numeric_limits<std::uint32_t>::max()));
    readFields(desc, json);
    readSubsections(desc, json);
    return desc;
}

/** vmstate_save_old_style(): no VMState, one field "data". */
StructDesc readOldStyle(const JsonField& json)
{
    StructDesc desc;
    readFields(desc, json);
    if (desc.fields.size() != 1 || !desc.fields[0].inner.empty())
    {
        json.refuse("is neither a VMState nor one piece of data");
    }
    return desc;
}

DeviceDesc readDevice(const JsonField& json)
{
    DeviceDesc device;
    device.idstr = readName(json.at("name"));
    device.instance = static_cast<std::uint32_t>(
        json.at("instance_id").u64(std::numeric_limits<std::uint32_t>::max()));
    device.body =
        json.find("vmsd_name") ? readStruct(json) : readOldStyle(json);
    return device;
}

/** Goes over a payload along its description. With `spans` it also names
 * what it passes. */
class Walk
{
  public:
    Walk(ByteReader& reader, std::vector<FieldSpan>* spans)
        : reader_(reader), spans_(spans)
    {}

    void body(const StructDesc& desc, const std::string& prefix)
    {
        for (const FieldDesc& field : desc.fields)
        {
            one(field, prefix);
        }
        for (const StructDesc& sub : desc.subsections)
        {
            header(sub);
            body(sub, sub.name + ": ");
        }
    }

  private:
    void one(const FieldDesc& field, const std::string& prefix)
    {
        std::string path = prefix + field.name;
        if (field.index)
        {
            path += "[" + std::to_string(*field.index) + "]";
        }
        spend(path);
        if (field.inner.empty())
        {
            leaf(std::move(path), field.size * field.count);
        }
        else if (field.count == 1)
        {
            body(field.inner[0], path + ".");
        }
        else
        {
            array(field, path);
        }
    }

    /** Its elements have no headers to check: checkInner(). */
    void array(const FieldDesc& field, const std::string& path)
    {
        if (spans_ == nullptr)
        {
            reader_.take(field.size * field.count);
            return;
        }
        for (std::size_t i = 0; i < field.count; ++i)
        {
            std::string element = path + "[" + std::to_string(i) + "]";
            spend(element);
            body(field.inner[0], element + ".");
        }
    }

    void leaf(std::string path, std::size_t size)
    {
        std::size_t offset = reader_.offset();
        reader_.take(size);
        if (spans_ != nullptr)
        {
            spans_->push_back({std::move(path), offset, size});
        }
    }

    void header(const StructDesc& sub)
    {
        std::size_t offset = reader_.offset();
        std::uint8_t mark = reader_.u8();
        ByteView name = reader_.take(reader_.u8());
        std::uint32_t version = reader_.be32();
        if (mark != kVmSubsection || version != sub.version ||
            !std::equal(name.begin(), name.end(), sub.name.begin(),
                        sub.name.end()))
        {
            throw Refused(reader_.where(),
                          "no subsection " + printable(sub.name) +
                              " at offset " + std::to_string(offset) +
                              " as the description says");
        }
        if (spans_ != nullptr)
        {
            spans_->push_back(
                {sub.name + ": header", offset, reader_.offset() - offset});
        }
    }

    void spend(const std::string& name)
    {
        names_ += name.size();
        if (names_ > kMaxNames)
        {
            throw Refused(reader_.where(), "has too many fields to list");
        }
    }

    ByteReader& reader_;
    std::vector<FieldSpan>* spans_;
    std::size_t names_ = 0;
};

void walk(const DeviceDesc& device, ByteView payload,
          std::vector<FieldSpan>* spans)
{
    ByteReader reader(payload,
                      device.idstr + "/" + std::to_string(device.instance));
    Walk(reader, spans).body(device.body, "");
    if (!reader.atEnd())
    {
        throw Refused(reader.where(), "has " + std::to_string(reader.left()) +
                                          " bytes more than its description");
    }
}

} // namespace

std::size_t subsectionHeaderSize(std::string_view name)
{
    return 1 + 1 + name.size() + 4;
}

VmDesc parseVmDesc(std::string_view json)
{
    auto marks = std::count_if(json.begin(), json.end(), [](char c) {
        return c == ',' || c == '[' || c == '{';
    });
    if (marks > kMaxJsonMarks)
    {
        throw Refused("vmdesc", "has too many values");
    }
    Json tree = parseJson(json, "vmdesc", kJsonLimits);
    JsonField devices = JsonField(tree, "vmdesc").at("devices");
    std::size_t count = devices.arraySize(kMaxSections);
    VmDesc out;
    out.devices.reserve(count);
    for (std::size_t i = 0; i < count; ++i)
    {
        out.devices.push_back(readDevice(devices.element(i)));
    }
    return out;
}

void checkPayload(const DeviceDesc& device, ByteView payload)
{
    walk(device, payload, nullptr);
}

std::vector<FieldSpan> layOut(const DeviceDesc& device, ByteView payload)
{
    std::vector<FieldSpan> spans;
    walk(device, payload, &spans);
    return spans;
}

} // namespace airlock::handover
