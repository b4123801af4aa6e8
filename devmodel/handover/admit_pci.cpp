#include "devmodel/handover/admit_rules.hpp"
#include "devmodel/handover/schema_tables/tables.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <optional>

// The PCI side: host bridge, config space, BARs, MSI-X, INTx.
//
// Config space has to be the reference's but for the registers that the device
// lets its guest write (hw/pci/pci.c: pci_init_wmask(), the capabilities'
// wmask). QEMU's own check on loading, get_pci_config_device(), covers only
// bits in its cmask and forgives everything behind the standard header.

namespace airlock::handover::rules
{

namespace
{

// Offsets in config space (include/standard-headers/linux/pci_regs.h).
constexpr std::size_t command = 0x04;
constexpr std::size_t cacheLineSize = 0x0c;
constexpr std::size_t firstBar = 0x10;
constexpr std::size_t capabilityPointer = 0x34;
constexpr std::size_t interruptLine = 0x3c;

constexpr std::uint16_t commandMemory = 0x0002;
constexpr std::uint16_t commandWritable = 0x0507; // and SERR, master

constexpr std::uint16_t msixEnable = 0x8000;
constexpr std::uint16_t msixMaskAll = 0x4000;

std::uint16_t le16(ByteView bytes, std::size_t at)
{
    return static_cast<std::uint16_t>(bytes[at] | bytes[at + 1] << 8);
}
std::uint32_t le32(ByteView bytes, std::size_t at)
{
    return le16(bytes, at) | static_cast<std::uint32_t>(le16(bytes, at + 2))
                                 << 16;
}
std::uint64_t le64(ByteView bytes, std::size_t at)
{
    return le32(bytes, at) | static_cast<std::uint64_t>(le32(bytes, at + 4))
                                 << 32;
}

/** Which bits of a config space the guest can write. */
class WriteMask
{
  public:
    void allow(std::size_t at, std::uint64_t bits, std::size_t size)
    {
        for (std::size_t i = 0; i < size; ++i)
        {
            mask_.at(at + i) |= static_cast<std::uint8_t>(bits >> (8 * i));
        }
    }
    std::uint8_t at(std::size_t offset) const { return mask_.at(offset); }

    static WriteMask header()
    {
        WriteMask mask;
        mask.allow(command, commandWritable, 2);
        mask.allow(cacheLineSize, 0xff, 1);
        mask.allow(interruptLine, 0xff, 1);
        return mask;
    }

  private:
    std::array<std::uint8_t, tables::pciConfigSize> mask_{};
};

/** One BAR of a virtio device. The sizes are QEMU's choice and not in config
 * space: virtio_pci_realize() puts MSI-X at 1 and the modern registers at 4. */
struct Bar
{
    std::size_t index;
    std::uint64_t size;
    bool wide; ///< 64-bit, takes two registers
};
constexpr std::uint64_t modernBarSize = 0x4000;

std::size_t barOffset(const Bar& bar)
{
    return firstBar + 4 * bar.index;
}

/** hw/pci/msix.c: msix_init_exclusive_bar(). */
std::uint64_t msixBarSize(std::uint32_t entries)
{
    constexpr std::uint64_t page = 4096;
    const std::uint64_t table = entries * tables::msixEntrySize;
    const std::uint64_t pbaStart = std::max(page / 2, table);
    const std::uint64_t pba = (entries + 63ULL) / 64 * 8;
    return std::bit_ceil(std::max(page, pbaStart + pba));
}

std::vector<Bar> barsOf(ByteView reference)
{
    std::vector<Bar> bars;
    const auto msix = tables::msixCapability(reference);
    if (msix.entries != 0)
    {
        bars.push_back({1, msixBarSize(msix.entries), false});
    }
    bars.push_back({4, modernBarSize, true});
    return bars;
}

const Record& pciDevice(const Record& state)
{
    return state.record(&state.schema() == &tables::mch ? "parent_obj"
                                                        : "pci_dev");
}
ByteView config(const Record& state)
{
    return pciDevice(state).bytes("config");
}

void checkVersion(const Subject& subject, std::string_view field)
{
    const std::uint64_t version = pciDevice(subject.state).number("version_id");
    subject.require(version ==
                        pciDevice(subject.reference).number("version_id"),
                    field, version, "is not the version that QEMU writes");
}

void checkConfig(const Subject& subject, const WriteMask& mask,
                 std::string_view field)
{
    const ByteView here = config(subject.state);
    const ByteView expected = config(subject.reference);
    for (std::size_t i = 0; i < here.size(); ++i)
    {
        if (((here[i] ^ expected[i]) & ~mask.at(i)) != 0)
        {
            subject.refuse(element(field, i), here[i],
                           "differs from the production machine in bits that "
                           "the guest cannot write");
        }
    }
}

/** INTx levels: 0 or 1, and only on the one pin that the device has. */
void checkIrqState(const Subject& subject, std::string_view field)
{
    constexpr std::size_t interruptPin = 0x3d; // 0: none, 1: INTA
    const Numbers& levels = pciDevice(subject.state).numbers("irq_state");
    const std::uint8_t pin = config(subject.reference)[interruptPin];
    for (std::size_t i = 0; i < levels.size(); ++i)
    {
        const std::uint64_t limit = i + 1 == pin ? 1 : 0;
        subject.require(levels[i] <= limit, element(field, i), levels[i],
                        "is not a level that the device can have");
    }
}

/** The window by which a driver reaches BARs through config space: type 5 of
 * the vendor capabilities (virtio 1.2, 4.1.4.9). */
std::optional<std::size_t> configAccessWindow(ByteView reference)
{
    constexpr std::uint8_t vendorSpecific = 0x09;
    constexpr std::uint8_t pciConfigAccess = 5;
    constexpr int capabilityMax = 48;
    std::size_t at = reference[capabilityPointer] & 0xfcU;
    for (int i = 0; i < capabilityMax && at >= 0x40; ++i)
    {
        if (reference[at] == vendorSpecific &&
            reference[at + 3] == pciConfigAccess)
        {
            return at;
        }
        at = reference[at + 1] & 0xfcU;
    }
    return std::nullopt;
}

WriteMask virtioMask(ByteView reference)
{
    WriteMask mask = WriteMask::header();
    for (const Bar& bar : barsOf(reference))
    {
        mask.allow(barOffset(bar), ~(bar.size - 1), bar.wide ? 8 : 4);
    }
    const auto msix = tables::msixCapability(reference);
    if (msix.entries != 0)
    {
        mask.allow(msix.offset + 2, msixEnable | msixMaskAll, 2);
    }
    // Its bar, offset, length and data latches have no effect until the guest
    // accesses the data; then virtio_address_space_lookup() bounds them.
    if (auto window = configAccessWindow(reference))
    {
        constexpr std::uint64_t all = ~0ULL;
        mask.allow(*window + 4, all, 1);
        mask.allow(*window + 8, all, 4);
        mask.allow(*window + 12, all, 4);
        mask.allow(*window + 16, all, 4);
    }
    return mask;
}

/** The message that a vector sends has to be an interrupt to a local APIC:
 * any other address would be a write anywhere (hw/pci/msi.c:
 * msi_send_message()). SMI, INIT and the reserved modes are not interrupts
 * that a device's driver asks for. */
void checkMessage(const Subject& subject, std::size_t vector,
                  std::uint64_t address, std::uint32_t data)
{
    constexpr std::uint64_t apicWindow = 0xfee00000;
    constexpr std::uint32_t fixed = 0;
    constexpr std::uint32_t lowestPriority = 1;
    constexpr std::uint32_t nmi = 4;
    if (address == 0 && data == 0)
    {
        return; // not set up, or taken down by Linux
    }
    subject.require((address & ~0xffffcULL) == apicWindow,
                    element("msix_table", vector), address,
                    "is a message address outside the APICs' window");
    subject.require((data & ~0xc7ffU) == 0, element("msix_table", vector), data,
                    "is message data with reserved bits");
    const std::uint32_t mode = data >> 8 & 7;
    subject.require(mode == fixed || mode == lowestPriority || mode == nmi,
                    element("msix_table", vector), data,
                    "is message data with a delivery mode that is refused");
}

/** A vector can be pending only while it is masked: loading an unmasked
 * pending one would send it (msix.c: msix_handle_mask_update()). */
void checkMsix(const Subject& subject)
{
    const Record& state = subject.state;
    const auto msix = tables::msixCapability(config(subject.reference));
    if (msix.entries == 0)
    {
        return;
    }
    const Bytes& table = state.bytes("msix_table");
    const Bytes& pending = state.bytes("msix_pba");
    const std::uint16_t control = le16(config(state), msix.offset + 2);
    const bool allMasked = (control & (msixEnable | msixMaskAll)) != msixEnable;
    for (std::size_t i = 0; i < pending.size() * 8; ++i)
    {
        const bool bit = (pending[i / 8] >> (i % 8) & 1) != 0;
        if (i >= msix.entries)
        {
            subject.require(!bit, element("msix_pba", i / 8),
                            "has a pending bit for a vector that is not there");
            continue;
        }
        const std::size_t at = i * tables::msixEntrySize;
        const std::uint32_t vectorControl = le32(table, at + 12);
        checkMessage(subject, i, le64(table, at), le32(table, at + 8));
        subject.require((vectorControl & ~1U) == 0, element("msix_table", i),
                        vectorControl, "is vector control with reserved bits");
        subject.require(!bit || allMasked || (vectorControl & 1) != 0,
                        element("msix_pba", i / 8),
                        "has a pending bit for a vector that is not masked");
    }
}

/** virtio raises INTx by its ISR, and only without MSI-X (virtio-pci.c:
 * virtio_pci_notify()). */
void checkIntx(const Subject& subject)
{
    const Record& state = subject.state;
    if (pciDevice(state).numbers("irq_state")[0] == 0)
    {
        return;
    }
    const auto msix = tables::msixCapability(config(subject.reference));
    const bool enabled =
        msix.entries != 0 &&
        (le16(config(state), msix.offset + 2) & msixEnable) != 0;
    subject.require(!enabled && (state.number("isr") & 1) != 0,
                    "pci_dev.irq_state[0]",
                    "is raised although the device has no reason");
}

AddressRange ecam(const Subjects& subjects)
{
    constexpr std::size_t pciexbar = 0x60;
    constexpr std::uint64_t window = 0x10000000;
    for (const Subject& subject : subjects)
    {
        if (&subject.state.schema() == &tables::mch)
        {
            const std::uint64_t bar = le64(config(subject.state), pciexbar);
            const std::uint64_t base = bar & ~(window - 1);
            return (bar & 1) != 0 ? AddressRange{base, base + window}
                                  : AddressRange{};
        }
    }
    return {};
}

/** A BAR that is decoded has to be where nothing else is: QEMU would map it
 * over the interrupt controllers or under RAM. One that is not decoded is a
 * latch: the guest's write that enables it comes later, on the production
 * machine. */
void checkBar(const Subject& subject, const Bar& bar,
              const AddressRange& ecamWindow, std::vector<AddressRange>& taken)
{
    constexpr std::uint64_t typeBits = 0xf;
    const ByteView space = config(subject.state);
    if ((le16(space, command) & commandMemory) == 0)
    {
        return;
    }
    const std::size_t at = barOffset(bar);
    const std::uint64_t start =
        (bar.wide ? le64(space, at) : le32(space, at)) & ~typeBits;
    const std::string field = element("pci_dev.config", at);
    const Environment& env = subject.env;
    subject.require(env.mmio32.contains(start, bar.size) ||
                        env.mmio64.contains(start, bar.size),
                    field, start, "is a BAR outside the PCI windows");
    subject.require(!ecamWindow.overlaps(start, bar.size), field, start,
                    "is a BAR over the configuration window");
    for (const AddressRange& other : taken)
    {
        subject.require(!other.overlaps(start, bar.size), field, start,
                        "is a BAR over another one");
    }
    taken.push_back({start, start + bar.size});
}

bool isVirtio(const Subject& subject)
{
    const Schema* schema = &subject.state.schema();
    return schema == &tables::virtioBlk || schema == &tables::virtioNet ||
           schema == &tables::virtioConsole || schema == &tables::virtioRng;
}

} // namespace

void virtioPci(Subject& subject)
{
    checkVersion(subject, "pci_dev.version_id");
    checkConfig(subject, virtioMask(config(subject.reference)),
                "pci_dev.config");
    checkIrqState(subject, "pci_dev.irq_state");
    checkMsix(subject);
    checkIntx(subject);
}

// The bridge's own registers behind the header are the firmware's. The
// production machine has no firmware, cannot write them, and follows only
// PCIEXBAR; the others are kept because an operating system may have read
// them: shadow RAM (PAM), SMRAM control and the size of TSEG.
void mch(Subject& subject)
{
    constexpr std::size_t tsegSize = 0x50;
    constexpr std::size_t pciexbar = 0x60;
    constexpr std::size_t pam = 0x90;
    constexpr std::size_t smbase = 0x9c;
    constexpr std::uint64_t window = 0x10000000;
    WriteMask mask = WriteMask::header();
    mask.allow(tsegSize, 0xffff, 2);
    mask.allow(pciexbar, ~0ULL, 8);
    mask.allow(pam, 0x33333333333330, 7);
    mask.allow(smbase, 0xffffff, 3); // and SMRAM, ESMRAMC
    checkVersion(subject, "parent_obj.version_id");
    checkConfig(subject, mask, "parent_obj.config");
    checkIrqState(subject, "parent_obj.irq_state");

    // Enabled, 256 MiB, between RAM and the I/O APIC: what the device's own
    // post_load accepts, and no bits that have no meaning there.
    const std::uint64_t bar = le64(config(subject.state), pciexbar);
    const std::uint64_t base = bar & ~(window - 1);
    const Environment& env = subject.env;
    subject.require((bar & (window - 1) & ~1ULL) == 0 &&
                        ((bar & 1) == 0 || env.mmio32.contains(base, window)),
                    element("parent_obj.config", pciexbar), bar,
                    "does not place the configuration window where it may be");
}

// The address latch of ports 0xcf8 and 0xcfc; pci_data_write() masks it.
void pciHost(Subject&) {}

void pciBus(Subject& subject)
{
    subject.same("nirq");
}

void pciBars(const Subjects& subjects)
{
    const AddressRange ecamWindow = ecam(subjects);
    std::vector<AddressRange> taken;
    for (const Subject& subject : subjects)
    {
        if (isVirtio(subject))
        {
            for (const Bar& bar : barsOf(config(subject.reference)))
            {
                checkBar(subject, bar, ecamWindow, taken);
            }
        }
    }
}

} // namespace airlock::handover::rules
