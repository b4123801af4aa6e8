#pragma once

#include "common/json.hpp"
#include "common/qmp.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace airlock::vm
{

/** A range of ports or physical addresses, both ends included, and the memory
 * region behind it. */
struct AddressRange
{
    std::uint64_t first = 0;
    std::uint64_t last = 0;
    std::string name;
};

/** What a machine shows its guest, taken from a running QEMU. */
struct Survey
{
    /** QOM type of each device, and how many there are. */
    std::map<std::string, unsigned> devices;
    /** Ports that a device answers, PCI BARs left out: where those are is up
     * to the guest. */
    std::vector<AddressRange> ports;
    /** The same for memory; RAM and ROM left out. */
    std::vector<AddressRange> mmio;

    unsigned deviceCount() const;
    std::uint64_t portCount() const;
    std::uint64_t mmioBytes() const;
};

/** Asks a machine over QMP. Throws Refused when an answer is not understood.
 */
Survey survey(QmpCommands& qmp);

/** Device regions of one address space in the text of QEMU's `info mtree -f`
 * (system/memory.c, mtree_print_flatview); neighbours of the same region are
 * joined. RAM, ROM, holes and the regions in `empty` are left out. */
std::vector<AddressRange> flatRanges(std::string_view text,
                                     std::string_view addressSpace);

/** "0x60-0x6f", or "0x64" for a single address. */
std::string describe(const AddressRange& range);

} // namespace airlock::vm
