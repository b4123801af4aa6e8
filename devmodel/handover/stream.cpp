#include "devmodel/handover/stream.hpp"

#include "common/json.hpp"
#include "devmodel/handover/format.hpp"

#include <algorithm>
#include <set>

namespace airlock::handover
{

namespace
{

constexpr std::string_view kStream = "stream";
constexpr std::string_view kConfiguration = "configuration";
constexpr std::string_view kNoDescription = "{}";
constexpr std::size_t kMaxCapabilities = 64;
/** qemu_vm_cmd: says that no more iterations follow; no contents. */
constexpr std::uint16_t kCmdSwitchoverStart = 0x0b;

/** Frame of a section: the id that its footer repeats. */
struct Header
{
    std::uint32_t frame = 0;
    SectionId id;
};

void checkSize(ByteView stream, std::size_t most)
{
    if (stream.size() > most)
    {
        throw Refused(kStream, "has " + std::to_string(stream.size()) +
                                   " bytes, " + std::to_string(most) +
                                   " are allowed");
    }
}

void readMagic(ByteReader& in)
{
    if (in.be32() != kVmFileMagic)
    {
        throw Refused(kStream, "is no QEMU migration stream");
    }
    if (std::uint32_t version = in.be32(); version != kVmFileVersion)
    {
        throw Refused(kStream, "has version " + std::to_string(version) +
                                   ", only 3 is known");
    }
}

/** What a reader is in that has left a section behind. */
std::string behind(const SectionId& id)
{
    return std::string(kStream) + " behind " + label(id);
}

/** Reads up to the payload and is in the section then. */
Header readHeader(ByteReader& in)
{
    Header header;
    header.frame = in.be32();
    header.id.idstr = readCountedName(in);
    header.id.instance = in.be32();
    header.id.version = in.be32();
    in.enter(label(header.id));
    return header;
}

/** Leaves the section. */
void readFooter(ByteReader& in, std::uint32_t frame, const SectionId& id)
{
    std::size_t offset = in.offset();
    if (in.u8() != kVmSectionFooter || in.be32() != frame)
    {
        throw Refused(label(id), "section does not end at offset " +
                                     std::to_string(offset));
    }
    in.enter(behind(id));
}

std::string readMachine(ByteReader& in)
{
    in.enter(kConfiguration);
    std::uint32_t length = in.be32();
    std::string name(asText(in.take(length)));
    if (name.empty() || name.size() > kMaxIdstr || !isPrintable(name))
    {
        throw Refused(kConfiguration, "bad machine name " + printable(name));
    }
    return name;
}

std::vector<std::string> readCapabilities(ByteReader& in)
{
    std::uint32_t count = in.be32();
    if (count > kMaxCapabilities)
    {
        throw Refused(kConfiguration, "lists too many capabilities");
    }
    std::vector<std::string> names;
    for (std::uint32_t i = 0; i < count; ++i)
    {
        names.push_back(readCountedName(in));
        if (names.back() != kIgnoreShared)
        {
            throw Refused(kConfiguration, "capability " +
                                              printable(names.back()) +
                                              " is not supported");
        }
    }
    return names;
}

/** The subsections are known, so no description is needed (and QEMU's own is
 * wrong about `capabilities`, an array of strings of several lengths). */
void readSubsection(ByteReader& in, Configuration& out)
{
    std::string name = readCountedName(in);
    std::uint32_t version = in.be32();
    if (version == 1 && name == "configuration/capabilities" &&
        out.capabilities.empty())
    {
        out.capabilities = readCapabilities(in);
    }
    else if (version == 1 && name == "configuration/uuid" && !out.uuid)
    {
        ByteView uuid = in.take(16);
        out.uuid.emplace();
        std::copy(uuid.begin(), uuid.end(), out.uuid->begin());
    }
    else
    {
        throw Refused(kConfiguration, "unknown subsection " + printable(name));
    }
}

Configuration readConfiguration(ByteReader& in)
{
    if (in.u8() != kVmConfiguration)
    {
        throw Refused(kConfiguration, "section is missing");
    }
    Configuration out{.machine = readMachine(in)};
    while (in.peek() == kVmSubsection)
    {
        in.u8();
        readSubsection(in, out);
    }
    return out;
}

/** Where the description starts that fills the stream up to its end.
 *
 * JSON has no zero byte, the byte before its length mark is the EOF mark, and
 * the length's first byte is zero too: so at most 3 bytes lie between the
 * last zero byte and it. A wrong guess fails later: parsing the sections has to
 * end just there.
 */
std::size_t findDescription(ByteView stream)
{
    auto lastZero = std::find(stream.rbegin(), stream.rend(), 0);
    auto zeroEnd = static_cast<std::size_t>(stream.rend() - lastZero);
    constexpr std::size_t mark = 1 + 1 + 4;
    std::size_t last = std::min(zeroEnd + 3, stream.size());
    for (std::size_t at = std::max(zeroEnd, mark); at <= last; ++at)
    {
        ByteReader in(stream.subspan(at - mark, mark), kStream);
        if (in.u8() == kVmEof && in.u8() == kVmDescription &&
            in.be32() == stream.size() - at)
        {
            return at;
        }
    }
    throw Refused(kStream, "does not end with a description (vmdesc); it is "
                           "cut short or no QEMU migration stream");
}

/** Takes a boot stream apart. Used once. */
class BootParser
{
  public:
    explicit BootParser(ByteView stream)
        : descriptionAt_(findDescription(stream)),
          in_(stream.first(descriptionAt_ - 5), kStream)
    {
        out_.description = parseVmDesc(asText(stream.subspan(descriptionAt_)));
    }

    BootStream parse()
    {
        readMagic(in_);
        out_.configuration = readConfiguration(in_);
        while (readPart())
        {}
        if (!in_.atEnd())
        {
            throw Refused(kStream, "goes on after its end mark at offset " +
                                       std::to_string(in_.offset()));
        }
        checkComplete();
        return std::move(out_);
    }

  private:
    /** One section or command; false at the end mark. */
    bool readPart()
    {
        std::size_t offset = in_.offset();
        switch (std::uint8_t type = in_.u8())
        {
        case kVmEof:
            return false;
        case kVmSectionStart:
            startRam(offset);
            return true;
        case kVmSectionPart:
        case kVmSectionEnd:
            continueRam(offset, type == kVmSectionEnd);
            return true;
        case kVmSectionFull:
            readFull();
            return true;
        case kVmCommand:
            readCommand();
            return true;
        default:
            throw Refused(kStream, "unknown section type " +
                                       std::to_string(type) + " at offset " +
                                       std::to_string(offset));
        }
    }

    void readFull()
    {
        Header header = readHeader(in_);
        const DeviceDesc& device = nextDescription(header.id);
        ByteReader rest(in_.rest(), label(header.id));
        ByteView payload = rest.take(device.body.size);
        in_.take(payload.size());
        readFooter(in_, header.frame, header.id);
        checkPayload(device, payload);
        out_.sections.push_back(
            {std::move(header.id), Bytes(payload.begin(), payload.end())});
    }

    /** Descriptions come in the order of the sections. An old-style one has
     * no version. */
    const DeviceDesc& nextDescription(const SectionId& id) const
    {
        std::size_t index = out_.sections.size();
        if (index >= out_.description.devices.size())
        {
            throw Refused(label(id), "section is not in the description");
        }
        const DeviceDesc& device = out_.description.devices[index];
        bool oldStyle = device.body.name.empty();
        if (device.idstr != id.idstr || device.instance != id.instance ||
            (!oldStyle && device.body.version != id.version))
        {
            throw Refused(label(id), "section stands where the description "
                                     "has " +
                                         device.idstr + "/" +
                                         std::to_string(device.instance));
        }
        return device;
    }

    void startRam(std::size_t offset)
    {
        Header header = readHeader(in_);
        if (ram_ || header.id != SectionId{"ram", 0, kRamVersion})
        {
            throw Refused(label(header.id),
                          "unexpected iterable section; only one, ram "
                          "version 4, is known");
        }
        bool addresses = !out_.configuration.capabilities.empty();
        ram_.emplace(addresses);
        ramFrame_ = header.frame;
        ram_->readBlocks(in_);
        endChunk(offset);
    }

    void continueRam(std::size_t offset, bool last)
    {
        std::uint32_t frame = in_.be32();
        if (!ram_ || ramEnded_ || frame != ramFrame_)
        {
            throw Refused(kStream, "continues a section that is not open, at "
                                   "offset " +
                                       std::to_string(offset));
        }
        in_.enter(label({"ram", 0, kRamVersion}));
        ramEnded_ = last;
        ram_->readPages(in_);
        endChunk(offset);
    }

    void endChunk(std::size_t offset)
    {
        readFooter(in_, ramFrame_, {"ram", 0, kRamVersion});
        ++out_.ram.chunks;
        out_.ram.bytes += in_.offset() - offset;
    }

    void readCommand()
    {
        std::uint16_t command = in_.be16();
        std::uint16_t length = in_.be16();
        if (command != kCmdSwitchoverStart || length != 0)
        {
            throw Refused(kStream, "carries command " +
                                       std::to_string(command) +
                                       ", which is not expected in a file");
        }
    }

    void checkComplete()
    {
        if (ram_ && !ramEnded_)
        {
            throw Refused("ram/0", "section has no end");
        }
        if (out_.sections.size() != out_.description.devices.size())
        {
            throw Refused("vmdesc", "describes sections that are missing");
        }
        refuseDuplicates(out_.sections);
        if (ram_)
        {
            out_.ram.blocks = ram_->blocks();
        }
    }

    std::size_t descriptionAt_;
    ByteReader in_;
    BootStream out_;
    std::optional<RamReader> ram_;
    std::uint32_t ramFrame_ = 0;
    bool ramEnded_ = false;
};

Section readProductionSection(ByteReader& in, std::size_t index,
                              const PayloadSize& payloadSize)
{
    Header header = readHeader(in);
    if (header.frame != index || index >= kMaxSections)
    {
        throw Refused(label(header.id),
                      "section has number " + std::to_string(header.frame) +
                          ", expected " + std::to_string(index));
    }
    ByteReader rest(in.rest(), label(header.id));
    ByteView payload = rest.take(payloadSize(header.id, in.rest()));
    in.take(payload.size());
    readFooter(in, header.frame, header.id);
    return {std::move(header.id), Bytes(payload.begin(), payload.end())};
}

void readNoDescription(ByteReader& in)
{
    if (in.u8() != kVmDescription || in.be32() != kNoDescription.size() ||
        asText(in.take(kNoDescription.size())) != kNoDescription)
    {
        throw Refused(kStream, "does not end with an empty description");
    }
    if (!in.atEnd())
    {
        throw Refused(kStream, "goes on after its description");
    }
}

void writeSection(ByteWriter& out, std::uint32_t frame, const Section& section)
{
    const std::string& idstr = section.id.idstr;
    if (idstr.empty() || idstr.size() > kMaxIdstr)
    {
        throw Error("section name of " + std::to_string(idstr.size()) +
                    " bytes does not fit a stream");
    }
    out.u8(kVmSectionFull);
    out.be32(frame);
    out.u8(static_cast<std::uint8_t>(idstr.size()));
    out.text(idstr);
    out.be32(section.id.instance);
    out.be32(section.id.version);
    out.bytes(section.payload);
    out.u8(kVmSectionFooter);
    out.be32(frame);
}

} // namespace

std::string label(const SectionId& id)
{
    return id.idstr + "/" + std::to_string(id.instance);
}

void refuseDuplicates(std::span<const Section> sections)
{
    std::set<std::pair<std::string_view, std::uint32_t>> seen;
    for (const Section& section : sections)
    {
        if (!seen.emplace(section.id.idstr, section.id.instance).second)
        {
            throw Refused(label(section.id), "section appears twice");
        }
    }
}

BootStream parseBootStream(ByteView stream)
{
    checkSize(stream, kMaxBootStream);
    return BootParser(stream).parse();
}

ProductionStream parseProductionStream(ByteView stream,
                                       const PayloadSize& payloadSize)
{
    checkSize(stream, kMaxProductionStream);
    ByteReader in(stream, kStream);
    readMagic(in);
    if (in.u8() != kVmConfiguration)
    {
        throw Refused(kConfiguration, "section is missing");
    }
    ProductionStream out{.machine = readMachine(in)};
    std::uint8_t type = in.u8();
    for (; type == kVmSectionFull; type = in.u8())
    {
        out.sections.push_back(
            readProductionSection(in, out.sections.size(), payloadSize));
    }
    if (type != kVmEof)
    {
        throw Refused(kStream, "unknown section type " + std::to_string(type) +
                                   " at offset " +
                                   std::to_string(in.offset() - 1));
    }
    readNoDescription(in);
    refuseDuplicates(out.sections);
    return out;
}

Bytes writeProductionStream(std::string_view machine,
                            std::span<const Section> sections)
{
    if (machine.empty() || machine.size() > kMaxIdstr ||
        sections.size() > kMaxSections)
    {
        throw Error("machine name or number of sections does not fit a "
                    "stream");
    }
    ByteWriter out;
    out.be32(kVmFileMagic);
    out.be32(kVmFileVersion);
    out.u8(kVmConfiguration);
    out.be32(static_cast<std::uint32_t>(machine.size()));
    out.text(machine);
    std::uint32_t frame = 0;
    for (const Section& section : sections)
    {
        writeSection(out, frame++, section);
    }
    out.u8(kVmEof);
    out.u8(kVmDescription);
    out.be32(static_cast<std::uint32_t>(kNoDescription.size()));
    out.text(kNoDescription);
    if (out.size() > kMaxProductionStream)
    {
        throw Error("device state of " + std::to_string(out.size()) +
                    " bytes does not fit a stream");
    }
    return out.release();
}

} // namespace airlock::handover
