#include "tools/airlock-bundle/state_file.hpp"

#include "common/file.hpp"
#include "devmodel/handover/format.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace airlock::bundletool
{

using namespace handover;

namespace
{

/** Only a production stream ends with an empty description. */
bool isProduction(ByteView stream)
{
    constexpr std::uint8_t end[] = {kVmEof, kVmDescription, 0, 0, 0, 2, '{',
                                    '}'};
    return stream.size() >= std::size(end) &&
           std::equal(std::begin(end), std::end(end),
                      stream.last(std::size(end)).begin());
}

void parseInto(StateFile& file, ByteView stream)
{
    file.production = isProduction(stream);
    if (file.production)
    {
        ProductionStream parsed = parseProductionStream(stream, sectionSize);
        file.machine = std::move(parsed.machine);
        file.sections = std::move(parsed.sections);
        return;
    }
    BootStream parsed = parseBootStream(stream);
    file.machine = std::move(parsed.configuration.machine);
    file.sections = std::move(parsed.sections);
    file.ram = std::move(parsed.ram);
    file.description = std::move(parsed.description);
}

std::string hex(ByteView bytes)
{
    std::string text = "0x";
    for (std::uint8_t byte : bytes)
    {
        text += fmt::format("{:02x}", byte);
    }
    return bytes.empty() ? "" : text;
}

std::vector<Leaf> describedFields(const DeviceDesc& device, ByteView payload)
{
    std::vector<Leaf> fields;
    for (const FieldSpan& span : layOut(device, payload))
    {
        fields.push_back(
            {span.path, hex(payload.subspan(span.offset, span.size))});
    }
    return fields;
}

std::vector<Leaf> fields(const StateFile& file, std::size_t index,
                         Naming naming)
{
    const Section& section = file.sections.at(index);
    switch (naming)
    {
    case Naming::Schema:
        return leaves(parseSection(section));
    case Naming::Description:
        return describedFields(file.description.devices.at(index),
                               section.payload);
    case Naming::Payload:
        break;
    }
    return {{"payload", hex(section.payload)}};
}

} // namespace

StateFile openStateFile(const std::filesystem::path& path)
{
    StateFile file;
    file.path = path;
    if (std::filesystem::is_directory(path))
    {
        file.bundle = Bundle::open(path);
        parseInto(file, file.bundle->deviceState());
        return file;
    }
    parseInto(file, readFile(path, kMaxBootStream));
    return file;
}

std::optional<std::vector<Leaf>> fieldsOf(const StateFile& file,
                                          std::size_t section, Naming naming)
{
    if (naming == Naming::Description && file.description.devices.empty())
    {
        return std::nullopt;
    }
    try
    {
        return fields(file, section, naming);
    }
    catch (const Refused&)
    {
        return std::nullopt;
    }
}

} // namespace airlock::bundletool
