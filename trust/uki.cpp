#include "trust/uki.hpp"

#include <algorithm>
#include <array>

namespace airlock::trust
{

namespace
{

constexpr std::uint16_t dosMagic = 0x5a4d;    // "MZ"
constexpr std::uint32_t peMagic = 0x00004550; // "PE\0\0"
constexpr std::uint16_t pe32Magic = 0x010b;
constexpr std::uint16_t pe32PlusMagic = 0x020b;
constexpr std::size_t coffSize = 20;
constexpr std::size_t sectionSize = 40;
constexpr std::size_t maxSections = 96;
constexpr std::size_t certificateEntry = 4; // of the data directories

/** The sections that the stub measures, in the order in which it does. */
constexpr std::array<std::string_view, 10> measuredSections = {
    ".linux",  ".osrel", ".cmdline", ".initrd", ".ucode",
    ".splash", ".dtb",   ".uname",   ".sbat",   ".pcrpkey"};

/** Those that stubs before this version do not measure, though they are there:
 * seen with 252 and 254. */
constexpr unsigned measuresUname = 254;
constexpr std::array<std::string_view, 2> lateSections = {".uname", ".sbat"};

/** Where the stub says which one it is:
 * "#### LoaderInfo: systemd-stub 252.39-1 ####". */
constexpr const char* magicSection = ".sdmagic";
constexpr std::string_view stubName = "systemd-stub ";

/** Sections whose measurement depends on the machine. */
constexpr std::array<std::string_view, 4> unpredictable = {
    ".profile", ".dtbauto", ".hwids", ".efifw"};

/** Little-endian reads at an offset, checked. */
class Image
{
  public:
    Image(ByteView data, const std::string& where) : data_(data), where_(where)
    {}

    template <typename T>
    T at(std::size_t offset) const
    {
        T value = 0;
        ByteView bytes = part(offset, sizeof(T));
        for (std::size_t i = 0; i < sizeof(T); ++i)
        {
            value =
                static_cast<T>(value | (static_cast<T>(bytes[i]) << (8 * i)));
        }
        return value;
    }

    ByteView part(std::size_t offset, std::size_t size) const
    {
        if (offset > data_.size() || size > data_.size() - offset)
        {
            refuse("is cut off");
        }
        return data_.subspan(offset, size);
    }

    std::size_t size() const { return data_.size(); }

    [[noreturn]] void refuse(std::string_view what) const
    {
        throw Refused(where_, what);
    }

  private:
    ByteView data_;
    std::string where_;
};

struct Section
{
    std::string name;
    std::size_t virtualSize = 0;
    std::size_t rawSize = 0;
    std::size_t rawOffset = 0;
};

/** Where the parts of a PE image are. */
struct Headers
{
    std::size_t checksum = 0;        ///< four bytes that are not hashed
    std::size_t certificateSlot = 0; ///< eight bytes that are not hashed
    std::size_t certificateSize = 0; ///< at the end of the file
    std::size_t size = 0;            ///< SizeOfHeaders
    std::vector<Section> sections;
};

std::string sectionName(ByteView field)
{
    auto end = std::find(field.begin(), field.end(), 0);
    return {field.begin(), end};
}

std::vector<Section> readSections(const Image& image, std::size_t at,
                                  std::size_t count)
{
    if (count > maxSections)
    {
        image.refuse("has more than 96 sections");
    }
    std::vector<Section> out;
    for (std::size_t i = 0; i < count; ++i, at += sectionSize)
    {
        Section section;
        section.name = sectionName(image.part(at, 8));
        section.virtualSize = image.at<std::uint32_t>(at + 8);
        section.rawSize = image.at<std::uint32_t>(at + 16);
        section.rawOffset = image.at<std::uint32_t>(at + 20);
        if (section.rawSize != 0)
        {
            image.part(section.rawOffset, section.rawSize);
        }
        out.push_back(std::move(section));
    }
    return out;
}

Headers readHeaders(const Image& image)
{
    if (image.at<std::uint16_t>(0) != dosMagic)
    {
        image.refuse("is no PE image");
    }
    const std::size_t pe = image.at<std::uint32_t>(0x3c);
    if (image.at<std::uint32_t>(pe) != peMagic)
    {
        image.refuse("is no PE image");
    }
    const std::size_t coff = pe + 4;
    const std::size_t optional = coff + coffSize;
    const auto magic = image.at<std::uint16_t>(optional);
    if (magic != pe32Magic && magic != pe32PlusMagic)
    {
        image.refuse("has an unknown kind of header");
    }
    const std::size_t directories =
        optional + (magic == pe32PlusMagic ? 112U : 96U);
    const std::size_t optionalSize = image.at<std::uint16_t>(coff + 16);
    Headers out;
    out.checksum = optional + 64;
    out.certificateSlot = directories + certificateEntry * 8;
    if (image.at<std::uint32_t>(directories - 4) <= certificateEntry ||
        out.certificateSlot + 8 > optional + optionalSize)
    {
        image.refuse("has no place for a signature");
    }
    out.certificateSize = image.at<std::uint32_t>(out.certificateSlot + 4);
    const std::size_t certificates =
        image.at<std::uint32_t>(out.certificateSlot);
    if (out.certificateSize > image.size() ||
        (out.certificateSize != 0 &&
         certificates != image.size() - out.certificateSize))
    {
        image.refuse("has a signature that is not at its end");
    }
    out.size = image.at<std::uint32_t>(optional + 60);
    if (out.size < out.certificateSlot + 8)
    {
        image.refuse("has headers that are too short");
    }
    out.sections = readSections(image, optional + optionalSize,
                                image.at<std::uint16_t>(coff + 2));
    return out;
}

/** The Authenticode rules: headers without checksum and signature entry, then
 * the sections in the order of the file, then what is behind them but is no
 * signature. */
Digest authenticodeOf(const Image& image, const Headers& headers)
{
    Sha256 hash;
    hash.update(image.part(0, headers.checksum));
    const std::size_t second = headers.checksum + 4;
    hash.update(image.part(second, headers.certificateSlot - second));
    const std::size_t third = headers.certificateSlot + 8;
    hash.update(image.part(third, headers.size - third));
    std::vector<Section> sections = headers.sections;
    std::stable_sort(sections.begin(), sections.end(),
                     [](const Section& a, const Section& b) {
                         return a.rawOffset < b.rawOffset;
                     });
    std::size_t hashed = headers.size;
    for (const Section& section : sections)
    {
        if (section.rawSize == 0)
        {
            continue;
        }
        if (section.rawOffset < hashed)
        {
            image.refuse("has sections that overlap");
        }
        hash.update(image.part(section.rawOffset, section.rawSize));
        hashed = section.rawOffset + section.rawSize;
    }
    const std::size_t end = image.size() - headers.certificateSize;
    if (hashed < end)
    {
        hash.update(image.part(hashed, end - hashed));
    }
    return hash.finish();
}

/** As it is in memory: zeros behind what the file has. */
Bytes contents(const Image& image, const Section& section)
{
    ByteView raw = image.part(section.rawOffset,
                              std::min(section.rawSize, section.virtualSize));
    if (section.virtualSize > image.size())
    {
        image.refuse("has a section that is larger than the file");
    }
    Bytes out(raw.begin(), raw.end());
    out.resize(section.virtualSize);
    return out;
}

template <std::size_t n>
bool isOneOf(const std::array<std::string_view, n>& names,
             std::string_view name)
{
    return std::find(names.begin(), names.end(), name) != names.end();
}

Digest nameDigest(const std::string& name)
{
    // The stub measures the terminating zero too.
    return sha256(
        {reinterpret_cast<const std::uint8_t*>(name.c_str()), name.size() + 1});
}

/** The number in the section that names the stub; 0 when there is none. */
unsigned stubVersion(ByteView magic)
{
    constexpr unsigned most = 100'000;
    const auto name = std::search(magic.begin(), magic.end(), stubName.begin(),
                                  stubName.end());
    unsigned out = 0;
    if (name == magic.end())
    {
        return out;
    }
    for (auto at = name + static_cast<std::ptrdiff_t>(stubName.size());
         at != magic.end() && *at >= '0' && *at <= '9' && out < most; ++at)
    {
        out = out * 10 + (*at - unsigned{'0'});
    }
    return out;
}

} // namespace

Uki Uki::parse(ByteView data, const std::string& where)
{
    if (data.size() > maxSize)
    {
        throw Refused(where, "is larger than 1 GiB");
    }
    const Image image(data, where);
    const Headers headers = readHeaders(image);
    Uki out;
    out.authenticode_ = authenticodeOf(image, headers);
    for (const Section& section : headers.sections)
    {
        if (isOneOf(unpredictable, section.name))
        {
            throw Refused(where, "has a section " + printable(section.name) +
                                     ": what is measured then depends on the "
                                     "machine");
        }
        if (section.name == magicSection)
        {
            const unsigned version = stubVersion(contents(image, section));
            out.olderStub_ = version != 0 && version < measuresUname;
        }
        if (!isOneOf(measuredSections, section.name))
        {
            continue;
        }
        if (!out.sections_.emplace(section.name, contents(image, section))
                 .second)
        {
            throw Refused(where, "has two sections " + section.name);
        }
    }
    return out;
}

Bytes Uki::section(const std::string& name) const
{
    auto found = sections_.find(name);
    return found == sections_.end() ? Bytes() : found->second;
}

Digest Uki::pcr11() const
{
    Digest out{};
    for (std::string_view view : measuredSections)
    {
        const std::string name(view);
        if (olderStub_ && isOneOf(lateSections, name))
        {
            continue;
        }
        if (auto found = sections_.find(name); found != sections_.end())
        {
            out = extended(out, nameDigest(name));
            out = extended(out, sha256(found->second));
        }
    }
    return out;
}

std::map<std::string, Digest> Uki::digests() const
{
    std::map<std::string, Digest> out;
    out["image"] = authenticode_;
    for (const auto& [name, data] : sections_)
    {
        out[name] = sha256(data);
    }
    if (has(".linux"))
    {
        const Bytes kernel = section(".linux");
        const Image image(kernel, ".linux");
        out["kernel"] = authenticodeOf(image, readHeaders(image));
    }
    return out;
}

PcrValues predict(const EventLog& log, const Uki& before, const Uki& after)
{
    const auto old = before.digests();
    const auto fresh = after.digests();
    EventLog changed = log;
    bool image = false;
    for (Event& event : changed.events())
    {
        for (const auto& [what, digest] : old)
        {
            if (!event.measured || event.digest != digest)
            {
                continue;
            }
            auto next = fresh.find(what);
            if (next == fresh.end())
            {
                throw Refused("prediction", "the new image has no " + what);
            }
            image = image || (what == "image" && event.pcr == 4);
            event.digest = next->second;
            break;
        }
    }
    if (!image)
    {
        throw Refused("prediction", "the log was not taken with the old "
                                    "image: PCR 4 does not have it");
    }
    PcrValues now = log.replay();
    if (now[11] != before.pcr11())
    {
        throw Refused("prediction", "PCR 11 of the log is not what the old "
                                    "image's sections give");
    }
    PcrValues out = changed.replay();
    // Sections may have come or gone: worked out, not replaced.
    out[11] = after.pcr11();
    return out;
}

} // namespace airlock::trust
