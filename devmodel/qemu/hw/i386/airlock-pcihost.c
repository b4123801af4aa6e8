/*
 * Airlock PCI host bridge
 *
 * What an operating system that has already booted uses of the Q35 memory
 * controller hub: configuration space by ports 0xCF8 and 0xCFC, by ECAM, and
 * the bridge's own configuration header.  The shadow RAM registers (PAM),
 * SMRAM and the registers that place ECAM are programmed by firmware, and
 * there is none: they keep the values that the boot machine's "mch" device
 * left in the section that both have, and cannot be written.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "hw/i386/airlock.h"
#include "hw/intc/ioapic.h"
#include "hw/irq.h"
#include "hw/pci-host/q35.h"
#include "hw/pci/pci_host.h"
#include "hw/pci/pcie_host.h"
#include "hw/qdev-properties.h"
#include "hw/sysbus.h"
#include "migration/vmstate.h"
#include "qemu/module.h"

struct AirlockMCHState {
    PCIDevice parent_obj;
};

struct AirlockPCIHost {
    PCIExpressHost parent_obj;

    AirlockMCHState mch;
    MemoryRegion pci_memory;
    MemoryRegion *mem;
    MemoryRegion *io;
    uint64_t low_ram_size;
    qemu_irq pirq[AIRLOCK_PIRQ_COUNT];
};

/*
 * Follow PCIEXBAR (Intel Series 3 MCH, 5.1.15).  Only the 256 MiB window is
 * supported, where it overlaps neither RAM nor the interrupt controllers.
 */
static bool airlock_mch_map_ecam(AirlockMCHState *mch)
{
    AirlockPCIHost *host = AIRLOCK_PCI_HOST(DEVICE(mch)->parent_bus->parent);
    uint64_t bar = pci_get_quad(mch->parent_obj.config +
                                MCH_HOST_BRIDGE_PCIEXBAR);
    uint64_t base = bar & MCH_HOST_BRIDGE_PCIEXBAR_ADMSK;
    bool enabled = bar & MCH_HOST_BRIDGE_PCIEXBAREN;

    if (enabled &&
        ((bar & MCH_HOST_BRIDGE_PCIEXBAR_LENGTH_MASK) !=
         MCH_HOST_BRIDGE_PCIEXBAR_LENGTH_256M ||
         base < host->low_ram_size ||
         base > IO_APIC_DEFAULT_ADDRESS - PCIE_MMCFG_SIZE_MAX)) {
        return false;
    }
    pcie_host_mmcfg_update(PCIE_HOST_BRIDGE(host), enabled, base,
                           PCIE_MMCFG_SIZE_MAX);
    return true;
}

static int airlock_mch_post_load(void *opaque, int version_id)
{
    return airlock_mch_map_ecam(opaque) ? 0 : -EINVAL;
}

/* The section of TYPE_MCH_PCI_DEVICE, hw/pci-host/q35.c */
static const VMStateDescription vmstate_airlock_mch = {
    .name = "mch",
    .version_id = 1,
    .minimum_version_id = 1,
    .post_load = airlock_mch_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_PCI_DEVICE(parent_obj, AirlockMCHState),
        VMSTATE_UNUSED(1),
        VMSTATE_END_OF_LIST()
    },
};

static void airlock_mch_reset(DeviceState *dev)
{
    AirlockMCHState *mch = AIRLOCK_MCH(dev);

    /* All that lies behind the standard header is firmware's. */
    memset(mch->parent_obj.config + PCI_CONFIG_HEADER_SIZE, 0,
           PCI_CONFIG_SPACE_SIZE - PCI_CONFIG_HEADER_SIZE);
    pci_set_quad(mch->parent_obj.config + MCH_HOST_BRIDGE_PCIEXBAR,
                 MCH_HOST_BRIDGE_PCIEXBAR_DEFAULT);
    airlock_mch_map_ecam(mch);
}

static void airlock_mch_realize(PCIDevice *dev, Error **errp)
{
    memset(dev->wmask + PCI_CONFIG_HEADER_SIZE, 0,
           PCI_CONFIG_SPACE_SIZE - PCI_CONFIG_HEADER_SIZE);
}

static void airlock_mch_class_init(ObjectClass *klass, void *data)
{
    PCIDeviceClass *k = PCI_DEVICE_CLASS(klass);
    DeviceClass *dc = DEVICE_CLASS(klass);

    k->realize = airlock_mch_realize;
    k->vendor_id = PCI_VENDOR_ID_INTEL;
    k->device_id = PCI_DEVICE_ID_INTEL_P35_MCH;
    k->revision = MCH_HOST_BRIDGE_REVISION_DEFAULT;
    k->class_id = PCI_CLASS_BRIDGE_HOST;
    dc->desc = "Airlock host bridge";
    dc->vmsd = &vmstate_airlock_mch;
    dc->user_creatable = false;
    device_class_set_legacy_reset(dc, airlock_mch_reset);
    set_bit(DEVICE_CATEGORY_BRIDGE, dc->categories);
}

static const char *airlock_pci_host_root_bus_path(PCIHostState *host_bridge,
                                                  PCIBus *rootbus)
{
    return "0000:00";
}

/* INTx goes straight to the I/O APIC, as through ICH9 for slots below 25. */
static int airlock_pci_host_map_irq(PCIDevice *dev, int pin)
{
    return airlock_pirq(PCI_SLOT(dev->devfn), pin);
}

static void airlock_pci_host_set_irq(void *opaque, int pirq, int level)
{
    AirlockPCIHost *host = opaque;

    qemu_set_irq(host->pirq[pirq], level);
}

static PCIINTxRoute airlock_pci_host_route_intx(void *opaque, int pirq)
{
    return (PCIINTxRoute) {
        .mode = PCI_INTX_ENABLED,
        .irq = AIRLOCK_PIRQ_GSI_BASE + pirq,
    };
}

static void airlock_pci_host_realize(DeviceState *dev, Error **errp)
{
    AirlockPCIHost *host = AIRLOCK_PCI_HOST(dev);
    PCIHostState *pci = PCI_HOST_BRIDGE(dev);

    memory_region_add_subregion_overlap(host->io, MCH_HOST_BRIDGE_CONFIG_ADDR,
                                        &pci->conf_mem,
                                        AIRLOCK_FIXED_PORT_PRIORITY);
    memory_region_add_subregion_overlap(host->io, MCH_HOST_BRIDGE_CONFIG_DATA,
                                        &pci->data_mem,
                                        AIRLOCK_FIXED_PORT_PRIORITY);
    memory_region_init(&host->pci_memory, OBJECT(host), "pci", UINT64_MAX);
    memory_region_add_subregion_overlap(host->mem, 0, &host->pci_memory, -1);

    pci->bus = pci_root_bus_new(dev, "pcie.0", &host->pci_memory, host->io,
                                0, TYPE_PCIE_BUS);
    pci_bus_irqs(pci->bus, airlock_pci_host_set_irq, host,
                 AIRLOCK_PIRQ_COUNT);
    pci_bus_map_irqs(pci->bus, airlock_pci_host_map_irq);
    pci_bus_set_route_irq_fn(pci->bus, airlock_pci_host_route_intx);

    qdev_realize(DEVICE(&host->mch), BUS(pci->bus), errp);
}

static void airlock_pci_host_init(Object *obj)
{
    AirlockPCIHost *host = AIRLOCK_PCI_HOST(obj);
    PCIHostState *pci = PCI_HOST_BRIDGE(obj);

    memory_region_init_io(&pci->conf_mem, obj, &pci_host_conf_le_ops, pci,
                          "pci-conf-idx", 4);
    memory_region_init_io(&pci->data_mem, obj, &pci_host_data_le_ops, pci,
                          "pci-conf-data", 4);

    object_initialize_child(obj, "mch", &host->mch, TYPE_AIRLOCK_MCH);
    qdev_prop_set_int32(DEVICE(&host->mch), "addr", PCI_DEVFN(0, 0));
    qdev_prop_set_bit(DEVICE(&host->mch), "multifunction", false);
}

PCIBus *airlock_pci_host_create(MemoryRegion *mem, MemoryRegion *io,
                                uint64_t low_ram_size, qemu_irq *gsi)
{
    DeviceState *dev = qdev_new(TYPE_AIRLOCK_PCI_HOST);
    AirlockPCIHost *host = AIRLOCK_PCI_HOST(dev);

    host->mem = mem;
    host->io = io;
    host->low_ram_size = low_ram_size;
    for (int i = 0; i < AIRLOCK_PIRQ_COUNT; i++) {
        host->pirq[i] = gsi[AIRLOCK_PIRQ_GSI_BASE + i];
    }
    sysbus_realize_and_unref(SYS_BUS_DEVICE(dev), &error_fatal);
    return PCI_HOST_BRIDGE(dev)->bus;
}

static void airlock_pci_host_class_init(ObjectClass *klass, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIHostBridgeClass *hc = PCI_HOST_BRIDGE_CLASS(klass);

    hc->root_bus_path = airlock_pci_host_root_bus_path;
    dc->realize = airlock_pci_host_realize;
    dc->user_creatable = false;
    dc->fw_name = "pci";
    set_bit(DEVICE_CATEGORY_BRIDGE, dc->categories);
}

static const TypeInfo airlock_pci_host_types[] = {
    {
        .name = TYPE_AIRLOCK_MCH,
        .parent = TYPE_PCI_DEVICE,
        .instance_size = sizeof(AirlockMCHState),
        .class_init = airlock_mch_class_init,
        .interfaces = (InterfaceInfo[]) {
            { INTERFACE_CONVENTIONAL_PCI_DEVICE },
            { },
        },
    }, {
        .name = TYPE_AIRLOCK_PCI_HOST,
        .parent = TYPE_PCIE_HOST_BRIDGE,
        .instance_size = sizeof(AirlockPCIHost),
        .instance_init = airlock_pci_host_init,
        .class_init = airlock_pci_host_class_init,
    },
};

DEFINE_TYPES(airlock_pci_host_types)
