#include "devmodel/handover/schema.hpp"

#include "devmodel/handover/schema_tables/tables.hpp"
#include "devmodel/handover/stream.hpp"

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <utility>

namespace airlock::handover
{

namespace
{

constexpr int subsectionMark = 0x05; // migration/migration.h

constexpr std::size_t widthOf(Encoding encoding)
{
    switch (encoding)
    {
    case Encoding::U16:
        return 2;
    case Encoding::U32:
    case Encoding::I32:
        return 4;
    case Encoding::U64:
        return 8;
    default:
        return 1;
    }
}

/** Of 1, 2, 4 or 8 bytes. */
std::uint64_t bigEndian(ByteView view)
{
    const auto pair = [&](std::size_t at) -> std::uint64_t {
        return static_cast<std::uint64_t>(view[at]) << 8 | view[at + 1];
    };
    switch (view.size())
    {
    case 1:
        return view[0];
    case 2:
        return pair(0);
    case 4:
        return pair(0) << 16 | pair(2);
    default:
        return pair(0) << 48 | pair(2) << 32 | pair(4) << 16 | pair(6);
    }
}

constexpr bool isNumber(Encoding encoding)
{
    return encoding != Encoding::Bytes && encoding != Encoding::Unused &&
           encoding != Encoding::Struct;
}

/** Whether an array of this struct can be Rows. */
bool isFlat(const Schema& schema)
{
    return schema.subsections.empty() &&
           std::ranges::all_of(schema.fields, [](const Field& field) {
               return (isNumber(field.encoding) ||
                       field.encoding == Encoding::Unused) &&
                      !field.countOf && !field.presentIn;
           });
}

std::size_t cellsPerRow(const Schema& row)
{
    std::size_t cells = 0;
    for (const Field& field : row.fields)
    {
        cells += isNumber(field.encoding) ? field.count : 0;
    }
    return cells;
}

std::size_t bytesPerRow(const Schema& row)
{
    std::size_t bytes = 0;
    for (const Field& field : row.fields)
    {
        bytes += widthOf(field.encoding) * field.count;
    }
    return bytes;
}

std::string join(const std::string& path, std::string_view name)
{
    if (name.empty())
    {
        return path;
    }
    return path.empty()
               ? std::string(name)
               : path + (path.ends_with('/') ? "" : ".") + std::string(name);
}

std::string indexed(const std::string& path, std::size_t index)
{
    return path + "[" + std::to_string(index) + "]";
}

std::string hex(std::uint64_t value)
{
    constexpr std::string_view digits = "0123456789abcdef";
    std::string text;
    do
    {
        text.insert(text.begin(), digits[value & 15]);
        value >>= 4;
    } while (value != 0);
    return "0x" + text;
}

/** One parse. It keeps the path of the field it is at, so that every refusal
 * names it. */
class Parser
{
  public:
    explicit Parser(ByteReader& reader) : reader_(reader) {}

    Record table(const Schema& schema, const std::string& path,
                 const Record* outer)
    {
        Record record(schema);
        const Record& context = outer ? *outer : record;
        for (std::size_t i = 0; i < schema.fields.size(); ++i)
        {
            const Field& field = schema.fields[i];
            if (!field.presentIn || field.presentIn(record, context))
            {
                record.values()[i] =
                    value(field, join(path, field.name), record, context);
            }
        }
        subsections(record, path);
        return record;
    }

  private:
    Record::Value value(const Field& field, const std::string& path,
                        const Record& self, const Record& outer)
    {
        const std::size_t count = countFor(field, path, self, outer);
        switch (field.encoding)
        {
        case Encoding::Bytes: {
            ByteView view = need(path, count);
            return Bytes(view.begin(), view.end());
        }
        case Encoding::Unused:
            unused(path, need(path, count));
            return std::monostate{};
        case Encoding::Struct:
            return structures(field, path, count, self);
        default:
            return numbers(field, path, count);
        }
    }

    std::size_t countFor(const Field& field, const std::string& path,
                         const Record& self, const Record& outer) const
    {
        if (!field.countOf)
        {
            return field.count;
        }
        const std::uint64_t count = field.countOf(self, outer);
        if (count > field.count)
        {
            refuse(path, "has " + std::to_string(count) +
                             " elements, at most " +
                             std::to_string(field.count) + " are possible");
        }
        return static_cast<std::size_t>(count);
    }

    Record::Value numbers(const Field& field, const std::string& path,
                          std::size_t count)
    {
        const std::size_t width = widthOf(field.encoding);
        ByteView view = need(path, width * count);
        if (!field.list)
        {
            return number(field, path, view);
        }
        Numbers values(count);
        for (std::size_t i = 0; i < count; ++i)
        {
            values[i] = number(field, path, view.subspan(i * width, width));
        }
        return values;
    }

    Record::Value structures(const Field& field, const std::string& path,
                             std::size_t count, const Record& self)
    {
        if (field.list && isFlat(*field.structure))
        {
            return rows(*field.structure, path, count);
        }
        std::vector<Record> records;
        records.reserve(count);
        for (std::size_t i = 0; i < count; ++i)
        {
            records.push_back(table(
                *field.structure, field.list ? indexed(path, i) : path, &self));
        }
        return records;
    }

    /** A thousand of these are in each virtio device, so this is where most of
     * the time goes. */
    Rows rows(const Schema& row, const std::string& path, std::size_t count)
    {
        Rows rows(row, count);
        const std::size_t bytes = bytesPerRow(row);
        std::span<std::uint64_t> cells = rows.cells();
        for (std::size_t i = 0; i < count; ++i)
        {
            cells = cells.subspan(oneRow(row, path, need(path, bytes), cells));
            if (!row.name.empty() && subsectionAhead(row.name))
            {
                refuse(indexed(path, i), "is followed by what QEMU would take "
                                         "for a subsection of it");
            }
        }
        return rows;
    }

    /** The number of cells that were filled. */
    std::size_t oneRow(const Schema& row, const std::string& path,
                       ByteView view, std::span<std::uint64_t> cells) const
    {
        std::size_t cell = 0;
        std::size_t at = 0;
        for (const Field& field : row.fields)
        {
            const std::size_t width = widthOf(field.encoding);
            if (field.encoding == Encoding::Unused)
            {
                unused(path, view.subspan(at, field.count));
                at += field.count;
                continue;
            }
            for (std::size_t n = 0; n < field.count; ++n, at += width)
            {
                cells[cell++] = number(field, path, view.subspan(at, width));
            }
        }
        return cell;
    }

    std::uint64_t number(const Field& field, const std::string& path,
                         ByteView view) const
    {
        std::uint64_t value = bigEndian(view);
        if (field.encoding == Encoding::I32)
        {
            value = static_cast<std::uint64_t>(static_cast<std::int64_t>(
                static_cast<std::int32_t>(static_cast<std::uint32_t>(value))));
        }
        if (field.encoding == Encoding::Bool && value > 1)
        {
            refuse(path, "is " + hex(value) + ", not 0 or 1");
        }
        if (!field.refusal.empty() && value != 0)
        {
            refuse(path, std::string(field.refusal));
        }
        return value;
    }

    void unused(const std::string& path, ByteView view) const
    {
        if (std::ranges::any_of(view, [](auto byte) { return byte != 0; }))
        {
            refuse(path, "has data in bytes that are not used");
        }
    }

    /** QEMU looks for subsections behind *every* table, also where there can
     * be none (vmstate.c:vmstate_subsection_load), so this does too: what
     * QEMU would read differently must be refused here. */
    void subsections(Record& record, const std::string& path)
    {
        const Schema& schema = record.schema();
        if (schema.name.empty())
        {
            return; // a group is no VMStateDescription
        }
        std::size_t next = 0; // index of the first one still allowed
        while (auto name = subsectionAhead(schema.name))
        {
            const std::string where =
                path.empty() ? *name + "/" : path + "." + *name + "/";
            const std::size_t index = indexOf(schema, *name, where);
            if (index < next)
            {
                refuse(where, "is there twice or out of order");
            }
            next = index + 1;
            record.subsections().push_back(
                subsection(schema.subsections[index], where, record));
        }
    }

    std::size_t indexOf(const Schema& schema, const std::string& name,
                        const std::string& where) const
    {
        auto found =
            std::ranges::find(schema.subsections, name, &Subsection::name);
        if (found == schema.subsections.end())
        {
            refuse(where, "is not a subsection that this device has");
        }
        if (!found->schema)
        {
            refuse(where, std::string(found->refusal));
        }
        return static_cast<std::size_t>(found - schema.subsections.begin());
    }

    Record subsection(const Subsection& sub, const std::string& where,
                      const Record& outer)
    {
        reader_.take(2 + sub.name.size());
        need(where, 4, false);
        const std::uint32_t version = reader_.be32();
        if (version != sub.schema->version)
        {
            refuse(where, "has version " + std::to_string(version) + ", not " +
                              std::to_string(sub.schema->version));
        }
        return table(*sub.schema, where, &outer);
    }

    /** The name of the subsection that QEMU would see here, if any. */
    std::optional<std::string> subsectionAhead(std::string_view prefix) const
    {
        if (reader_.peek() != subsectionMark)
        {
            return std::nullopt;
        }
        const int length = reader_.peek(1);
        if (length < 0 ||
            static_cast<std::size_t>(length) < prefix.size() + 1 ||
            reader_.left() < 2 + static_cast<std::size_t>(length))
        {
            return std::nullopt;
        }
        std::string name;
        for (std::size_t i = 0; i < static_cast<std::size_t>(length); ++i)
        {
            name.push_back(static_cast<char>(reader_.peek(2 + i)));
        }
        // QEMU's strcmp() would end at a zero byte. printable() turns it into
        // something that is in no table, so such a name is refused.
        return name.starts_with(prefix) ? std::optional(printable(name))
                                        : std::nullopt;
    }

    static std::string printable(std::string name)
    {
        std::ranges::replace_if(
            name, [](char c) { return c < ' ' || c > '~'; }, '?');
        return name;
    }

    /** The next n bytes, or a refusal that names the field. */
    ByteView need(const std::string& path, std::size_t n, bool take = true)
    {
        if (n > reader_.left())
        {
            refuse(path, "is cut short: wants " + std::to_string(n) +
                             " bytes, " + std::to_string(reader_.left()) +
                             " are left");
        }
        return take ? reader_.take(n) : ByteView{};
    }

    [[noreturn]] void refuse(const std::string& path,
                             const std::string& reason) const
    {
        throw Refused(reader_.where() + ": " + path, reason);
    }

    ByteReader& reader_;
};

void write(ByteWriter& out, Encoding encoding, std::uint64_t value)
{
    switch (widthOf(encoding))
    {
    case 2:
        return out.be16(static_cast<std::uint16_t>(value));
    case 4:
        return out.be32(static_cast<std::uint32_t>(value));
    case 8:
        return out.be64(value);
    default:
        return out.u8(static_cast<std::uint8_t>(value));
    }
}

void writeRows(ByteWriter& out, const Rows& rows)
{
    auto cell = rows.cells().begin();
    for (std::size_t i = 0; i < rows.size(); ++i)
    {
        for (const Field& field : rows.row().fields)
        {
            for (std::size_t n = 0; n < field.count; ++n)
            {
                write(out, field.encoding,
                      field.encoding == Encoding::Unused ? 0 : *cell++);
            }
        }
    }
}

void writeTable(ByteWriter& out, const Record& record);

struct ValueWriter
{
    ByteWriter& out;
    const Field& field;

    void operator()(std::monostate) const
    {
        if (field.encoding == Encoding::Unused)
        {
            out.bytes(Bytes(field.count));
        }
    }
    void operator()(std::uint64_t value) const
    {
        write(out, field.encoding, value);
    }
    void operator()(const Numbers& values) const
    {
        for (std::uint64_t value : values)
        {
            write(out, field.encoding, value);
        }
    }
    void operator()(const Bytes& value) const { out.bytes(value); }
    void operator()(const Rows& value) const { writeRows(out, value); }
    void operator()(const std::vector<Record>& value) const
    {
        for (const Record& record : value)
        {
            writeTable(out, record);
        }
    }
};

void writeTable(ByteWriter& out, const Record& record)
{
    const Schema& schema = record.schema();
    for (std::size_t i = 0; i < schema.fields.size(); ++i)
    {
        std::visit(ValueWriter{out, schema.fields[i]}, record.values()[i]);
    }
    for (const Record& sub : record.subsections())
    {
        const std::string_view name = sub.schema().name;
        out.u8(subsectionMark);
        out.u8(static_cast<std::uint8_t>(name.size()));
        out.text(name);
        out.be32(sub.schema().version);
        writeTable(out, sub);
    }
}

void addLeaves(std::vector<Leaf>& out, const Record& record,
               const std::string& path);

struct LeafWriter
{
    std::vector<Leaf>& out;
    const Field& field;
    const std::string& path;

    void operator()(std::monostate) const {}
    void operator()(std::uint64_t value) const
    {
        out.push_back({path, hex(value)});
    }
    void operator()(const Numbers& values) const
    {
        for (std::size_t i = 0; i < values.size(); ++i)
        {
            out.push_back({indexed(path, i), hex(values[i])});
        }
    }
    void operator()(const Bytes& value) const
    {
        for (std::size_t i = 0; i < value.size(); ++i)
        {
            out.push_back({indexed(path, i), hex(value[i])});
        }
    }
    void operator()(const Rows& rows) const
    {
        auto cell = rows.cells().begin();
        for (std::size_t i = 0; i < rows.size(); ++i)
        {
            for (const Field& inner : rows.row().fields)
            {
                if (inner.encoding == Encoding::Unused)
                {
                    continue;
                }
                const std::string name = join(indexed(path, i), inner.name);
                for (std::size_t n = 0; n < inner.count; ++n)
                {
                    out.push_back(
                        {inner.list ? indexed(name, n) : name, hex(*cell++)});
                }
            }
        }
    }
    void operator()(const std::vector<Record>& value) const
    {
        for (std::size_t i = 0; i < value.size(); ++i)
        {
            addLeaves(out, value[i], field.list ? indexed(path, i) : path);
        }
    }
};

void addLeaves(std::vector<Leaf>& out, const Record& record,
               const std::string& path)
{
    const Schema& schema = record.schema();
    for (std::size_t i = 0; i < schema.fields.size(); ++i)
    {
        const Field& field = schema.fields[i];
        const std::string name = join(path, field.name);
        std::visit(LeafWriter{out, field, name}, record.values()[i]);
    }
    for (const Record& sub : record.subsections())
    {
        const std::string name(sub.schema().name);
        addLeaves(out, sub, (path.empty() ? name : path + "." + name) + "/");
    }
}

} // namespace

Rows::Rows(const Schema& row, std::size_t count)
    : row_(&row), size_(count), width_(cellsPerRow(row)), cells_(count * width_)
{}

std::size_t Rows::column(std::string_view name, std::size_t element) const
{
    std::size_t column = 0;
    for (const Field& field : row_->fields)
    {
        if (field.name == name && element < field.count)
        {
            return column + element;
        }
        column += isNumber(field.encoding) ? field.count : 0;
    }
    throw std::logic_error("no column " + std::string(name));
}

Record::Record(const Schema& schema)
    : schema_(&schema), values_(schema.fields.size())
{}

const Record::Value* Record::find(std::string_view name) const
{
    for (std::size_t i = 0; i < values_.size(); ++i)
    {
        const Field& field = schema_->fields[i];
        if (std::holds_alternative<std::monostate>(values_[i]))
        {
            continue;
        }
        if (field.name == name)
        {
            return &values_[i];
        }
        if (field.name.empty() && field.encoding == Encoding::Struct)
        {
            const auto& group = std::get<std::vector<Record>>(values_[i]);
            if (const Value* found = group.front().find(name))
            {
                return found;
            }
        }
    }
    return nullptr;
}

template <typename T>
const T& Record::get(std::string_view name) const
{
    const Value* value = find(name);
    if (!value || !std::holds_alternative<T>(*value))
    {
        throw std::logic_error(std::string(schema_->name) +
                               " has no such field here: " + std::string(name));
    }
    return std::get<T>(*value);
}

std::uint64_t Record::number(std::string_view name) const
{
    return get<std::uint64_t>(name);
}

const Numbers& Record::numbers(std::string_view name) const
{
    return get<Numbers>(name);
}

const Bytes& Record::bytes(std::string_view name) const
{
    return get<Bytes>(name);
}

const Rows& Record::rows(std::string_view name) const
{
    return get<Rows>(name);
}

const Record& Record::record(std::string_view name) const
{
    return get<std::vector<Record>>(name).front();
}

const Record* Record::subsection(std::string_view name) const
{
    for (const Record& sub : subsections_)
    {
        if (sub.schema().name == name)
        {
            return &sub;
        }
    }
    for (std::size_t i = 0; i < values_.size(); ++i)
    {
        const auto* group = std::get_if<std::vector<Record>>(&values_[i]);
        if (!group || !schema_->fields[i].name.empty())
        {
            continue;
        }
        if (const Record* sub = group->front().subsection(name))
        {
            return sub;
        }
    }
    return nullptr;
}

std::uint64_t& Record::number(std::string_view name)
{
    return const_cast<std::uint64_t&>(get<std::uint64_t>(name));
}

Numbers& Record::numbers(std::string_view name)
{
    return const_cast<Numbers&>(get<Numbers>(name));
}

Bytes& Record::bytes(std::string_view name)
{
    return const_cast<Bytes&>(get<Bytes>(name));
}

Rows& Record::rows(std::string_view name)
{
    return const_cast<Rows&>(get<Rows>(name));
}

Record& Record::record(std::string_view name)
{
    return const_cast<Record&>(get<std::vector<Record>>(name).front());
}

Record* Record::subsection(std::string_view name)
{
    return const_cast<Record*>(std::as_const(*this).subsection(name));
}

Record parse(ByteReader& reader, const Schema& schema)
{
    return Parser(reader).table(schema, "", nullptr);
}

Record parseSection(const Section& section)
{
    const std::string name = label(section.id);
    const Schema* schema = findSchema(section.id);
    if (!schema)
    {
        throw Refused(name, "there is no table for this section in version " +
                                std::to_string(section.id.version));
    }
    ByteReader reader(section.payload, name);
    Record record = parse(reader, *schema);
    if (!reader.atEnd())
    {
        throw Refused(name, std::to_string(reader.left()) +
                                " bytes are left over behind its fields");
    }
    return record;
}

Bytes serialise(const Record& record)
{
    constexpr std::size_t virtioDevice = 48U << 10; // the largest sections
    ByteWriter out;
    out.reserve(record.has("vq") ? virtioDevice : 0);
    writeTable(out, record);
    return out.release();
}

std::size_t sectionSize(const SectionId& id, ByteView rest)
{
    const Schema* schema = findSchema(id);
    if (!schema)
    {
        throw Refused(label(id),
                      "there is no table for this section in version " +
                          std::to_string(id.version));
    }
    ByteReader reader(rest, label(id));
    parse(reader, *schema);
    return reader.offset();
}

const Schema* findSchema(const SectionId& id)
{
    const std::string name = vmstateName(id.idstr);
    for (const Schema* schema : tables::all())
    {
        if (schema->name == name && schema->version == id.version)
        {
            return schema;
        }
    }
    return nullptr;
}

std::vector<Leaf> leaves(const Record& record)
{
    std::vector<Leaf> out;
    addLeaves(out, record, "");
    return out;
}

} // namespace airlock::handover
