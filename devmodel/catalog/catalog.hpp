#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace airlock::catalog
{

/** Why a device exists; see devices.def, the table behind this header. */
enum class DeviceClass
{
    Required,   ///< on the boot machine and on the production machine
    Legacy,     ///< boot machine only, needed to boot
    Extraneous, ///< boot machine only, by option
};

/** "required", "legacy", "extraneous". */
std::string_view toString(DeviceClass deviceClass);

/** One row. Lists are words separated by single spaces: split(). */
struct Device
{
    std::string_view id; ///< also the boot machine's on/off property
    DeviceClass deviceClass;
    bool onByDefault;
    std::string_view types;        ///< QOM types
    std::string_view sections;     ///< savevm names after the last '/'
    std::string_view memoryBlocks; ///< names after the PCI address
    std::string_view ports;        ///< ranges: parseRanges()
    std::string_view mmio;         ///< ranges: parseRanges()
    std::string_view purpose;

    /** True when the boot machine can be told to leave it out. */
    bool optional() const { return deviceClass != DeviceClass::Required; }
};

/** All rows, in the order of devices.def. */
std::span<const Device> devices();

/** Lookups; nullptr when the catalog has no such device. */
const Device* findById(std::string_view id);
/** By savevm name: a whole idstr ("0000:00:02.0/virtio-blk") or its end. */
const Device* findBySection(std::string_view idstr);
/** By QOM type; any CPU model ("qemu64-x86_64-cpu") finds the CPU row. */
const Device* findByType(std::string_view type);
/** By memory block name, with or without PCI address. */
const Device* findByMemoryBlock(std::string_view block);

/** The words of a list. */
std::vector<std::string_view> split(std::string_view list);

/** Inclusive range of ports or addresses. */
struct Range
{
    std::uint64_t first;
    std::uint64_t last;

    std::uint64_t size() const { return last - first + 1; }
    bool operator==(const Range&) const = default;
};

/** The ranges of a `ports` or `mmio` list; nullopt if one is malformed, which
 * the catalog's unit test rules out. */
std::optional<std::vector<Range>> parseRanges(std::string_view list);

} // namespace airlock::catalog
