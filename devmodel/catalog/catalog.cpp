#include "devmodel/catalog/catalog.hpp"

#include <algorithm>
#include <charconv>

namespace airlock::catalog
{

namespace
{

constexpr DeviceClass REQUIRED = DeviceClass::Required;
constexpr DeviceClass LEGACY = DeviceClass::Legacy;
constexpr DeviceClass EXTRANEOUS = DeviceClass::Extraneous;

constexpr Device kDevices[] = {
#define AIRLOCK_DEVICE(id, deviceClass, on, types, sections, blocks, ports,    \
                       mmio, purpose)                                          \
    {#id,    deviceClass, (on) != 0, types,  sections,                         \
     blocks, ports,       mmio,      purpose},
#include "devmodel/catalog/devices.def"
};

/** Every CPU model's type is "<model>-x86_64-cpu". */
constexpr std::string_view kCpuType = "x86_64-cpu";

bool hasWord(std::string_view list, std::string_view word)
{
    auto words = split(list);
    return std::find(words.begin(), words.end(), word) != words.end();
}

const Device* findByWord(std::string_view Device::*list, std::string_view word)
{
    auto found = std::find_if(
        std::begin(kDevices), std::end(kDevices),
        [&](const Device& row) { return hasWord(row.*list, word); });
    return found == std::end(kDevices) ? nullptr : found;
}

std::optional<std::uint64_t> parseHex(std::string_view text)
{
    std::uint64_t value = 0;
    if (!text.starts_with("0x"))
    {
        return std::nullopt;
    }
    text.remove_prefix(2);
    auto [end, error] =
        std::from_chars(text.data(), text.data() + text.size(), value, 16);
    bool whole = error == std::errc() && end == text.data() + text.size();
    return whole ? std::optional(value) : std::nullopt;
}

std::optional<Range> parseRange(std::string_view text)
{
    std::size_t dash = text.find('-');
    auto first = parseHex(text.substr(0, dash));
    auto last = dash == text.npos ? first : parseHex(text.substr(dash + 1));
    if (!first || !last || *first > *last)
    {
        return std::nullopt;
    }
    return Range{*first, *last};
}

} // namespace

std::string_view toString(DeviceClass deviceClass)
{
    switch (deviceClass)
    {
    case DeviceClass::Required:
        return "required";
    case DeviceClass::Legacy:
        return "legacy";
    case DeviceClass::Extraneous:
        return "extraneous";
    }
    return "";
}

std::span<const Device> devices()
{
    return kDevices;
}

const Device* findById(std::string_view id)
{
    auto found = std::find_if(std::begin(kDevices), std::end(kDevices),
                              [&](const Device& row) { return row.id == id; });
    return found == std::end(kDevices) ? nullptr : found;
}

const Device* findBySection(std::string_view idstr)
{
    return findByWord(&Device::sections,
                      idstr.substr(idstr.find_last_of('/') + 1));
}

const Device* findByType(std::string_view type)
{
    bool cpu = type.ends_with(kCpuType) &&
               (type.size() == kCpuType.size() ||
                type[type.size() - kCpuType.size() - 1] == '-');
    return findByWord(&Device::types, cpu ? kCpuType : type);
}

const Device* findByMemoryBlock(std::string_view block)
{
    // qemu_ram_set_idstr() puts the device's path before the name. Only PCI
    // devices have one here, and only theirs starts with a bus number.
    bool hasAddress = block.starts_with("0000:");
    std::size_t slash = block.find('/');
    return findByWord(&Device::memoryBlocks,
                      hasAddress ? block.substr(slash + 1) : block);
}

std::vector<std::string_view> split(std::string_view list)
{
    std::vector<std::string_view> words;
    while (!list.empty())
    {
        std::size_t space = list.find(' ');
        words.push_back(list.substr(0, space));
        list.remove_prefix(space == list.npos ? list.size() : space + 1);
    }
    return words;
}

std::optional<std::vector<Range>> parseRanges(std::string_view list)
{
    std::vector<Range> ranges;
    for (std::string_view word : split(list))
    {
        std::optional<Range> range = parseRange(word);
        if (!range)
        {
            return std::nullopt;
        }
        ranges.push_back(*range);
    }
    return ranges;
}

} // namespace airlock::catalog
