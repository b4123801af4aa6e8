/*
 * Airlock production machine
 *
 * A machine to live on, not to boot: it has the devices that an operating
 * system keeps using once it is up and nothing that is there for firmware,
 * boot loaders or hardware probing.  No ISA bus, no 8259, 8254, 8042, RTC,
 * DMA controller, serial port, fw_cfg, firmware or ACPI tables.
 *
 * Everything else answers as an empty bus: reads give all ones, writes go
 * nowhere.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "hw/boards.h"
#include "hw/i386/airlock.h"
#include "hw/i386/kvm/clock.h"
#include "hw/i386/pc.h"
#include "hw/i386/x86.h"
#include "hw/irq.h"
#include "hw/pci-host/q35.h"
#include "hw/pci/pci_bus.h"
#include "hw/pci/pci_device.h"
#include "migration/blocker.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "system/kvm.h"
#include "system/reset.h"
#include "system/runstate.h"
#include "target/i386/cpu.h"

#define AIRLOCK_MAX_CPUS    64

/* What pci_qdev_realize() gives each device. */
#define AIRLOCK_PCI_VERSION 2

#define TYPE_AIRLOCK_MACHINE MACHINE_TYPE_NAME(AIRLOCK_MACHINE_NAME)
OBJECT_DECLARE_SIMPLE_TYPE(AirlockMachineState, AIRLOCK_MACHINE)

struct AirlockMachineState {
    X86MachineState parent_obj;

    MemoryRegion low_ram;
    MemoryRegion high_ram;
    MemoryRegion vga_hole;
    MemoryRegion void_mem;
    MemoryRegion void_io;
    /* What is in airlock_cpu_fields while the vCPU is new */
    GByteArray *new_cpus[AIRLOCK_MAX_CPUS];
    /* Configuration spaces of new PCI devices: PCIDevice to its bytes */
    GHashTable *new_pci_configs;
};

/* No firmware, so there is nothing to hand a kernel or a ROM to. */
static GlobalProperty airlock_compat_props[] = {
    { "apic-common", "vapic", "off" },
    { TYPE_PCI_DEVICE, "rombar", "0" },
    { "virtio-net-pci", "romfile", "" },
    { "virtio-pci", "disable-legacy", "on" },
};

static uint64_t airlock_void_read(void *opaque, hwaddr addr, unsigned size)
{
    return UINT64_MAX;
}

static void airlock_void_write(void *opaque, hwaddr addr, uint64_t val,
                               unsigned size)
{
}

static const MemoryRegionOps airlock_void_ops = {
    .read = airlock_void_read,
    .write = airlock_void_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
};

static void airlock_memory_init(AirlockMachineState *ams, MemoryRegion *mem)
{
    MachineState *machine = MACHINE(ams);
    X86MachineState *x86ms = X86_MACHINE(ams);

    x86ms->below_4g_mem_size = airlock_low_ram_size(machine->ram_size);
    x86ms->above_4g_mem_size = machine->ram_size - x86ms->below_4g_mem_size;
    x86ms->above_4g_mem_start = AIRLOCK_HIGH_RAM_BASE;

    memory_region_init_alias(&ams->low_ram, OBJECT(ams), "ram-below-4g",
                             machine->ram, 0, x86ms->below_4g_mem_size);
    memory_region_add_subregion(mem, 0, &ams->low_ram);
    if (x86ms->above_4g_mem_size) {
        memory_region_init_alias(&ams->high_ram, OBJECT(ams), "ram-above-4g",
                                 machine->ram, x86ms->below_4g_mem_size,
                                 x86ms->above_4g_mem_size);
        memory_region_add_subregion(mem, AIRLOCK_HIGH_RAM_BASE,
                                    &ams->high_ram);
    }

    /* A PC decodes these addresses to the graphics card, not to memory. */
    memory_region_init_io(&ams->vga_hole, OBJECT(ams), &airlock_void_ops,
                          NULL, "vga-hole", MCH_HOST_BRIDGE_SMRAM_C_SIZE);
    memory_region_add_subregion_overlap(mem, MCH_HOST_BRIDGE_SMRAM_C_BASE,
                                        &ams->vga_hole, 1);

    /* QEMU reads unassigned memory as 0, an empty bus reads as all ones. */
    memory_region_init_io(&ams->void_mem, OBJECT(ams), &airlock_void_ops,
                          NULL, "airlock-void", UINT64_MAX);
    memory_region_add_subregion_overlap(mem, 0, &ams->void_mem, -2);
}

/*
 * QEMU's own unassigned ports read as all ones, but for a word or dword at an
 * odd address: that is an invalid access, which reads as 0 under TCG.
 */
static void airlock_io_init(AirlockMachineState *ams, MemoryRegion *io)
{
    memory_region_init_io(&ams->void_io, OBJECT(ams), &airlock_void_ops,
                          NULL, "airlock-void", memory_region_size(io));
    memory_region_add_subregion_overlap(io, 0, &ams->void_io, -2);
}

static void airlock_refuse_firmware(MachineState *machine)
{
    if (machine->firmware || machine->kernel_filename) {
        error_report("Machine type " AIRLOCK_MACHINE_NAME " cannot boot: "
                     "no firmware or kernel can be given. Boot the guest on "
                     AIRLOCK_BOOT_MACHINE_NAME " and load its state");
        exit(EXIT_FAILURE);
    }
    if (kvm_enabled() && !kvm_irqchip_is_split()) {
        error_report("Machine type " AIRLOCK_MACHINE_NAME " needs "
                     "kernel-irqchip=split");
        exit(EXIT_FAILURE);
    }
}

/*
 * A state gets in through the airlock only, after somebody has looked at it:
 * not from a migration stream, and there is no use in writing one then.
 */
static void airlock_refuse_migration(void)
{
    static Error *reason;

    if (runstate_check(RUN_STATE_INMIGRATE)) {
        error_report("This machine type takes no state with -incoming; it is "
                     "loaded after the reset was trapped");
        exit(EXIT_FAILURE);
    }
    error_setg(&reason, "a guest of machine type " AIRLOCK_MACHINE_NAME
               " cannot be saved or migrated, because no host would take its "
               "state unseen");
    migrate_add_blocker(&reason, &error_fatal);
}

static void airlock_machine_state_init(MachineState *machine)
{
    AirlockMachineState *ams = AIRLOCK_MACHINE(machine);
    X86MachineState *x86ms = X86_MACHINE(machine);
    MemoryRegion *mem = get_system_memory();
    MemoryRegion *io = get_system_io();
    GSIState *gsi_state = g_new0(GSIState, 1);

    airlock_refuse_firmware(machine);
    airlock_refuse_migration();
    airlock_memory_init(ams, mem);
    airlock_io_init(ams, io);

    x86_cpus_init(x86ms, AIRLOCK_CPU_VERSION);
    if (kvm_enabled()) {
        kvmclock_create(true);
    }

    x86ms->gsi = qemu_allocate_irqs(gsi_handler, gsi_state, IOAPIC_NUM_PINS);
    x86ms->ioapic_as = &address_space_memory;
    ioapic_init_gsi(gsi_state, OBJECT(machine));

    airlock_pci_host_create(mem, io, x86ms->below_4g_mem_size, x86ms->gsi);
    airlock_pm_create(io, x86ms->gsi[AIRLOCK_SCI_GSI]);
    airlock_trap_create(io, mem);
}

/*
 * What the reset of a CPU keeps and a state may bring along.  The guest after
 * a reset is another one: it does not get what the guest before it has left,
 * or a state that was refused.
 */
static const struct {
    size_t offset;
    size_t size;
} airlock_cpu_fields[] = {
#define KEPT(name) \
    { offsetof(CPUX86State, name), sizeof_field(CPUX86State, name) }
    KEPT(mp_state),
    KEPT(soft_interrupt),
    KEPT(exception_pending),
    KEPT(exception_injected),
    KEPT(has_error_code),
    KEPT(exception_has_payload),
    KEPT(exception_payload),
    KEPT(triple_fault_pending),
    KEPT(ins_len),
    KEPT(sipi_vector),
    KEPT(tsc_khz),
    KEPT(mcg_cap),
    KEPT(mcg_ctl),
    KEPT(mcg_ext_ctl),
    KEPT(mce_banks),
    KEPT(xstate_bv),
    KEPT(fpus_vmstate),
    KEPT(fptag_vmstate),
    KEPT(fpregs_format_vmstate),
    KEPT(xss),
    KEPT(umwait),
#undef KEPT
};

static void airlock_keep_new_cpu(GByteArray **kept, const CPUX86State *env)
{
    *kept = g_byte_array_new();
    for (int i = 0; i < ARRAY_SIZE(airlock_cpu_fields); i++) {
        g_byte_array_append(*kept,
                            (const uint8_t *)env +
                            airlock_cpu_fields[i].offset,
                            airlock_cpu_fields[i].size);
    }
}

static void airlock_make_cpu_new(const GByteArray *kept, CPUX86State *env)
{
    const uint8_t *from = kept->data;

    for (int i = 0; i < ARRAY_SIZE(airlock_cpu_fields); i++) {
        memcpy((uint8_t *)env + airlock_cpu_fields[i].offset, from,
               airlock_cpu_fields[i].size);
        from += airlock_cpu_fields[i].size;
    }
}

/*
 * The same for PCI devices: QEMU lets guests write everything behind the
 * header that is no capability, and loading writes all of it.
 *
 * PCI_BUS asserts in its reset that no device holds an interrupt, counting
 * the devices by what a state said.  The I/O APIC is reset with it, so that
 * nobody misses the falling edge.
 */
static int airlock_make_pci_new(Object *obj, void *opaque)
{
    PCIDevice *dev = (PCIDevice *)object_dynamic_cast(obj, TYPE_PCI_DEVICE);
    PCIBus *bus = (PCIBus *)object_dynamic_cast(obj, TYPE_PCI_BUS);

    if (dev && g_hash_table_contains(opaque, dev)) {
        memcpy(dev->config, g_hash_table_lookup(opaque, dev),
               pci_config_size(dev));
        dev->version_id = AIRLOCK_PCI_VERSION;
        dev->irq_state = 0;
    }
    if (bus) {
        memset(bus->irq_count, 0, bus->nirq * sizeof(*bus->irq_count));
    }
    return 0;
}

static int airlock_keep_new_pci(Object *obj, void *opaque)
{
    PCIDevice *dev = (PCIDevice *)object_dynamic_cast(obj, TYPE_PCI_DEVICE);

    if (dev) {
        g_hash_table_insert(opaque, dev,
                            g_memdup2(dev->config, pci_config_size(dev)));
    }
    return 0;
}

static void airlock_reset_pci(AirlockMachineState *ams)
{
    Object *root = object_get_root();

    if (ams->new_pci_configs) {
        object_child_foreach_recursive(root, airlock_make_pci_new,
                                       ams->new_pci_configs);
    } else {
        ams->new_pci_configs = g_hash_table_new(NULL, NULL);
        object_child_foreach_recursive(root, airlock_keep_new_pci,
                                       ams->new_pci_configs);
    }
}

static void airlock_reset_cpu(AirlockMachineState *ams, CPUState *cs)
{
    GByteArray **kept = &ams->new_cpus[cs->cpu_index];
    X86CPU *cpu = X86_CPU(cs);

    if (*kept) {
        airlock_make_cpu_new(*kept, &cpu->env);
    } else {
        airlock_keep_new_cpu(kept, &cpu->env);
    }
    /* No bus has the local APICs, so that nobody else resets them. */
    x86_cpu_after_reset(cpu);
}

static void airlock_machine_reset(MachineState *machine, ResetType type)
{
    AirlockMachineState *ams = AIRLOCK_MACHINE(machine);
    CPUState *cs;

    airlock_reset_pci(ams);
    qemu_devices_reset(type);
    CPU_FOREACH(cs) {
        airlock_reset_cpu(ams, cs);
    }
}

static HotplugHandler *airlock_get_hotplug_handler(MachineState *machine,
                                                   DeviceState *dev)
{
    if (object_dynamic_cast(OBJECT(dev), TYPE_CPU)) {
        return HOTPLUG_HANDLER(machine);
    }
    return NULL;
}

static void airlock_unplug_request(HotplugHandler *hotplug_dev,
                                   DeviceState *dev, Error **errp)
{
    error_setg(errp, "Machine type " AIRLOCK_MACHINE_NAME
               " has no hot-plug");
}

static void airlock_machine_initfn(Object *obj)
{
    X86MachineState *x86ms = X86_MACHINE(obj);

    x86ms->smm = ON_OFF_AUTO_OFF;
    x86ms->acpi = ON_OFF_AUTO_OFF;
    x86ms->pit = ON_OFF_AUTO_OFF;
    x86ms->pic = ON_OFF_AUTO_OFF;
}

static void airlock_machine_class_init(ObjectClass *oc, void *data)
{
    MachineClass *mc = MACHINE_CLASS(oc);
    HotplugHandlerClass *hc = HOTPLUG_HANDLER_CLASS(oc);

    mc->init = airlock_machine_state_init;
    mc->reset = airlock_machine_reset;
    mc->family = "airlock";
    mc->desc = "Airlock production machine";
    mc->max_cpus = AIRLOCK_MAX_CPUS;
    mc->default_cpu_type = TARGET_DEFAULT_CPU_TYPE;
    mc->default_ram_id = "airlock.ram";
    mc->default_kernel_irqchip_split = true;
    mc->has_hotpluggable_cpus = false;
    mc->auto_enable_numa_with_memhp = false;
    mc->auto_enable_numa_with_memdev = false;
    mc->nvdimm_supported = false;
    mc->no_floppy = 1;
    mc->no_cdrom = 1;
    mc->no_parallel = 1;
    mc->no_serial = 1;

    mc->get_hotplug_handler = airlock_get_hotplug_handler;
    hc->pre_plug = x86_cpu_pre_plug;
    hc->plug = x86_cpu_plug;
    hc->unplug_request = airlock_unplug_request;

    compat_props_add(mc->compat_props, airlock_compat_props,
                     G_N_ELEMENTS(airlock_compat_props));
}

static const TypeInfo airlock_machine_info = {
    .name = TYPE_AIRLOCK_MACHINE,
    .parent = TYPE_X86_MACHINE,
    .instance_size = sizeof(AirlockMachineState),
    .instance_init = airlock_machine_initfn,
    .class_init = airlock_machine_class_init,
    .interfaces = (InterfaceInfo[]) {
        { TYPE_HOTPLUG_HANDLER },
        { },
    },
};

/*
 * libvirt (seen with 11.3) asks every x86 QEMU for the properties that all PC
 * machines share and does not survive the answer that there is no such type.
 * Here is one that has none; no machine can be made of it.
 */
static const TypeInfo airlock_no_pc_info = {
    .name = TYPE_PC_MACHINE,
    .parent = TYPE_X86_MACHINE,
    .abstract = true,
};

static void airlock_machine_register_types(void)
{
    type_register_static(&airlock_machine_info);
    type_register_static(&airlock_no_pc_info);
}

type_init(airlock_machine_register_types)
