#include "devmodel/handover/schema_tables/fields.hpp"
#include "devmodel/handover/schema_tables/tables.hpp"

// PCIDevice, PCIBUS: hw/pci/pci.c vmstate_pci_device, vmstate_pcibus.
// PCIHost: hw/pci/pci_host.c vmstate_pcihost.
// mch: hw/pci-host/q35.c vmstate_mch.
//
// Every device sits on the root bus of pcie.0 and so is a conventional device
// with 256 bytes of config space (hw/virtio/virtio-pci.c:
// virtio_pci_realize()).

namespace airlock::handover::tables
{

namespace
{

constexpr std::uint32_t pirqMax = 8; // ICH9_LPC_NB_PIRQS

constexpr Field pciDeviceFields[] = {
    i32("version_id"),
    bytes("config", pciConfigSize),
    numbers("irq_state", Encoding::U32, 4),
};

constexpr Field pciHostFields[] = {
    u32("config_reg"),
};

constexpr Field pciBusFields[] = {
    i32("nirq"),
    counted(
        numbers("irq_count", Encoding::I32, pirqMax),
        [](const Record& self, const Record&) { return self.number("nirq"); }),
};

constexpr Field mchFields[] = {
    structure("parent_obj", pciDevice),
    unused(1),
};

} // namespace

const Schema pciDevice{"PCIDevice", 2, pciDeviceFields};
const Schema pciHost{"PCIHost", 1, pciHostFields};
const Schema pciBus{"PCIBUS", 1, pciBusFields};
const Schema mch{"mch", 1, mchFields};

MsixCapability msixCapability(ByteView config)
{
    constexpr std::size_t capabilityPointer = 0x34;
    constexpr std::uint8_t msixId = 0x11;
    constexpr int capabilityMax = 48; // (256 - 64) / 4
    std::uint8_t at = config[capabilityPointer];
    for (int i = 0; i < capabilityMax && at >= 0x40; ++i)
    {
        at &= 0xfc;
        if (config[at] == msixId)
        {
            const auto control = static_cast<std::uint32_t>(
                config[at + 2] | config[at + 3] << 8);
            return {at, (control & 0x7ff) + 1};
        }
        at = config[at + 1];
    }
    return {};
}

} // namespace airlock::handover::tables
