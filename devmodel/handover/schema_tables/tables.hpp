#pragma once

#include "devmodel/handover/schema.hpp"

#include <span>

/** The reviewed tables, one per section of the production machine. Each .cpp
 * file names the QEMU sources it follows; the file `reviewed` has every
 * definition in them that the tables were held against, and suite `schema`
 * fails when a build has others. */
namespace airlock::handover::tables
{

extern const Schema timer;
extern const Schema kvmclock;
extern const Schema airlockPm;

extern const Schema cpuCommon;
extern const Schema cpu;

extern const Schema apic;
extern const Schema ioapic;

extern const Schema pciDevice; ///< part of mch and of every virtio device
extern const Schema pciHost;
extern const Schema pciBus;
extern const Schema mch;

extern const Schema virtioBlk;
extern const Schema virtioNet;
extern const Schema virtioConsole;
extern const Schema virtioRng;

/** Every section that can be parsed. */
std::span<const Schema* const> all();

// QEMU's limits that tables and admission rules share.
constexpr std::uint32_t pciConfigSize = 256; // PCI_CONFIG_SPACE_SIZE
constexpr std::uint32_t virtioQueueMax = 1024;
constexpr std::uint32_t virtioConfigMax = 256;
constexpr std::uint32_t msixEntryMax = 2048; // PCI_MSIX_FLAGS_QSIZE + 1
constexpr std::uint32_t msixEntrySize = 16;

/** MSI-X as a PCI config space describes it; 0 entries: no such capability.
 * Walks the capability list, bounded. */
struct MsixCapability
{
    std::uint32_t offset = 0; ///< of the capability in config space
    std::uint32_t entries = 0;
};
MsixCapability msixCapability(ByteView config);

} // namespace airlock::handover::tables
