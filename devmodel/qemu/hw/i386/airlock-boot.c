/*
 * Airlock boot machine
 *
 * The full machine on which an unmodified operating system boots before it
 * moves to the production machine.  It has the production machine's devices
 * at the same addresses, the legacy devices that firmware and booting systems
 * want, and extraneous ones where asked for.
 *
 * Which devices there can be is written in the catalog, airlock-devices.def,
 * and nowhere else: the on/off properties are made from it, and a machine
 * with a device that it lacks does not start.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "airlock-acpi.h"
#include "chardev/char.h"
#include "fw_cfg.h"
#include "hw/block/fdc.h"
#include "hw/boards.h"
#include "hw/char/parallel-isa.h"
#include "hw/char/serial-isa.h"
#include "hw/i386/airlock.h"
#include "hw/i386/kvm/clock.h"
#include "hw/i386/pc.h"
#include "hw/i386/vmport.h"
#include "hw/i386/x86.h"
#include "hw/input/i8042.h"
#include "hw/irq.h"
#include "hw/isa/isa.h"
#include "hw/pci-host/q35.h"
#include "hw/pci/pci_device.h"
#include "hw/qdev-properties.h"
#include "hw/qdev-properties-system.h"
#include "hw/rtc/mc146818rtc.h"
#include "hw/southbridge/ich9.h"
#include "hw/timer/hpet.h"
#include "hw/timer/i8254.h"
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "system/kvm.h"
#include "system/system.h"
#include "target/i386/cpu.h"
#include "target/i386/kvm/kvm_i386.h"

#define AIRLOCK_BOOT_MAX_CPUS   64
#define AIRLOCK_LPC_DEVFN       PCI_DEVFN(ICH9_LPC_DEV, ICH9_LPC_FUNC)

typedef enum AirlockDeviceClass {
    AIRLOCK_REQUIRED,
    AIRLOCK_LEGACY,
    AIRLOCK_EXTRANEOUS,
} AirlockDeviceClass;

#define AIRLOCK_DEVICE(id, ...) AIRLOCK_DEV_##id,
typedef enum AirlockDeviceId {
#include "hw/i386/airlock-devices.def"
    AIRLOCK_DEV__COUNT
} AirlockDeviceId;

typedef struct AirlockCatalogEntry {
    const char *name;
    AirlockDeviceClass class;
    bool default_on;
    const char *types;
    const char *purpose;
} AirlockCatalogEntry;

#define AIRLOCK_DEVICE(id, cls, on, types_, sections, blocks, ports, mmio,  \
                       purpose_)                                            \
    [AIRLOCK_DEV_##id] = {                                                  \
        .name = #id,                                                        \
        .class = AIRLOCK_##cls,                                             \
        .default_on = on,                                                   \
        .types = types_,                                                    \
        .purpose = purpose_,                                                \
    },
static const AirlockCatalogEntry airlock_catalog[AIRLOCK_DEV__COUNT] = {
#include "hw/i386/airlock-devices.def"
};

#define TYPE_AIRLOCK_BOOT_MACHINE MACHINE_TYPE_NAME(AIRLOCK_BOOT_MACHINE_NAME)
OBJECT_DECLARE_SIMPLE_TYPE(AirlockBootMachineState, AIRLOCK_BOOT_MACHINE)

/* Slots that no device of a guest gets (devmodel/vm/guest_spec.hpp). */
#define AIRLOCK_VGA_DEVFN   PCI_DEVFN(0x01, 0)
#define AIRLOCK_XHCI_DEVFN  PCI_DEVFN(0x1e, 0)

struct AirlockBootMachineState {
    PCMachineState parent_obj;

    PCIExpressHost *host;
    ISABus *isa_bus;
    Notifier machine_done;
    /* For the devices whose switch is not one of the parent's properties */
    bool enabled[AIRLOCK_DEV__COUNT];
};

/* The same as on the production machine, see airlock_compat_props there. */
static GlobalProperty airlock_boot_compat_props[] = {
    { "apic-common", "vapic", "off" },
    { TYPE_PCI_DEVICE, "rombar", "0" },
    { "virtio-net-pci", "romfile", "" },
    { "virtio-pci", "disable-legacy", "on" },
    { "VGA", "rombar", "1" },
    { "ICH9-LPC", "noreboot", "on" },
    { "ICH9-LPC", "acpi-pci-hotplug-with-bridge-support", "off" },
};

static bool airlock_on(OnOffAuto value)
{
    return value != ON_OFF_AUTO_OFF;
}

static bool airlock_boot_wants(AirlockBootMachineState *abms,
                               AirlockDeviceId id)
{
    PCMachineState *pcms = PC_MACHINE(abms);
    X86MachineState *x86ms = X86_MACHINE(abms);

    switch (id) {
    case AIRLOCK_DEV_i8042:
        return pcms->i8042_enabled;
    case AIRLOCK_DEV_smbus:
        return pcms->smbus_enabled;
    case AIRLOCK_DEV_hpet:
        return pcms->hpet_enabled;
    case AIRLOCK_DEV_vmport:
        return airlock_on(pcms->vmport);
    case AIRLOCK_DEV_pit:
        return airlock_on(x86ms->pit);
    case AIRLOCK_DEV_pic:
        return airlock_on(x86ms->pic);
    case AIRLOCK_DEV_acpi:
        return airlock_on(x86ms->acpi);
    case AIRLOCK_DEV_usb:
        return machine_usb(MACHINE(abms));
    default:
        return abms->enabled[id];
    }
}

/* Set @name's switch where a parent class already has a property for it. */
static void airlock_boot_set_inherited_defaults(Object *obj)
{
    PCMachineState *pcms = PC_MACHINE(obj);
    X86MachineState *x86ms = X86_MACHINE(obj);

    pcms->i8042_enabled = airlock_catalog[AIRLOCK_DEV_i8042].default_on;
    pcms->smbus_enabled = airlock_catalog[AIRLOCK_DEV_smbus].default_on;
    pcms->hpet_enabled = airlock_catalog[AIRLOCK_DEV_hpet].default_on;
    pcms->sata_enabled = false;     /* "ahci" is the catalog's name for it */
    pcms->vmport = airlock_catalog[AIRLOCK_DEV_vmport].default_on ?
                   ON_OFF_AUTO_ON : ON_OFF_AUTO_OFF;
    x86ms->smm = ON_OFF_AUTO_OFF;
}

static bool airlock_catalog_has_type(const char *type)
{
    for (int id = 0; id < AIRLOCK_DEV__COUNT; id++) {
        g_auto(GStrv) types = g_strsplit(airlock_catalog[id].types, " ", -1);

        if (g_strv_contains((const char *const *)types, type)) {
            return true;
        }
    }
    return false;
}

static int airlock_check_device(Object *obj, void *opaque)
{
    bool known;

    if (!object_dynamic_cast(obj, TYPE_DEVICE)) {
        return 0;
    }
    known = object_dynamic_cast(obj, TYPE_CPU) ||
            airlock_catalog_has_type(object_get_typename(obj));
    if (!known) {
        error_report("Device type '%s' is not in the catalog of machine type "
                     AIRLOCK_BOOT_MACHINE_NAME "; its state could not be told "
                     "from what a guest may keep", object_get_typename(obj));
    }
    return known ? 0 : 1;
}

static void airlock_boot_machine_done(Notifier *notifier, void *data)
{
    AirlockBootMachineState *abms = container_of(notifier,
                                                 AirlockBootMachineState,
                                                 machine_done);

    PCMachineState *pcms = PC_MACHINE(abms);
    X86MachineState *x86ms = X86_MACHINE(abms);

    if (object_child_foreach_recursive(object_get_root(),
                                       airlock_check_device, NULL)) {
        exit(EXIT_FAILURE);
    }

    x86_rtc_set_cpus_count(x86ms->rtc, x86ms->boot_cpus);
    fw_cfg_build_smbios(pcms, x86ms->fw_cfg, pcms->smbios_entry_point_type);
    fw_cfg_add_e820(x86ms->fw_cfg);
    fw_cfg_build_feature_control(MACHINE(pcms), x86ms->fw_cfg);
    fw_cfg_modify_i16(x86ms->fw_cfg, FW_CFG_NB_CPUS, x86ms->boot_cpus);
    if (airlock_boot_wants(abms, AIRLOCK_DEV_acpi)) {
        airlock_acpi_setup(x86ms, abms->host, abms->isa_bus);
    }
}

/*
 * The south bridge contains RTC and DMA controllers, and no firmware starts
 * without it or fw_cfg: refuse instead of starting half a machine.
 */
static void airlock_boot_check_options(AirlockBootMachineState *abms)
{
    static const AirlockDeviceId needed[] = {
        AIRLOCK_DEV_lpc, AIRLOCK_DEV_rtc, AIRLOCK_DEV_dma, AIRLOCK_DEV_fwcfg,
    };

    for (int i = 0; i < ARRAY_SIZE(needed); i++) {
        if (!abms->enabled[needed[i]]) {
            error_report("'%s=off': no firmware starts without the %s",
                         airlock_catalog[needed[i]].name,
                         airlock_catalog[needed[i]].purpose);
            exit(EXIT_FAILURE);
        }
    }
    if (airlock_boot_wants(abms, AIRLOCK_DEV_vmport) &&
        !airlock_boot_wants(abms, AIRLOCK_DEV_i8042)) {
        error_report("'vmport=on' needs 'i8042=on': its mouse is a PS/2 mouse");
        exit(EXIT_FAILURE);
    }
    if (kvm_enabled() && !kvm_irqchip_is_split()) {
        error_report("Machine type " AIRLOCK_BOOT_MACHINE_NAME " needs "
                     "kernel-irqchip=split");
        exit(EXIT_FAILURE);
    }
}

static void airlock_boot_host_create(AirlockBootMachineState *abms)
{
    PCMachineState *pcms = PC_MACHINE(abms);
    X86MachineState *x86ms = X86_MACHINE(abms);
    MachineState *machine = MACHINE(abms);
    MemoryRegion *pci_memory = g_new(MemoryRegion, 1);
    Object *host = OBJECT(qdev_new(TYPE_Q35_HOST_DEVICE));
    uint64_t hole64_size = object_property_get_uint(
        host, PCI_HOST_PROP_PCI_HOLE64_SIZE, &error_abort);

    memory_region_init(pci_memory, NULL, "pci", UINT64_MAX);
    pc_memory_init(pcms, get_system_memory(), pci_memory, hole64_size);

    object_property_add_child(OBJECT(machine), "q35", host);
    object_property_set_link(host, PCI_HOST_PROP_RAM_MEM,
                             OBJECT(machine->ram), &error_abort);
    object_property_set_link(host, PCI_HOST_PROP_PCI_MEM, OBJECT(pci_memory),
                             &error_abort);
    object_property_set_link(host, PCI_HOST_PROP_SYSTEM_MEM,
                             OBJECT(get_system_memory()), &error_abort);
    object_property_set_link(host, PCI_HOST_PROP_IO_MEM,
                             OBJECT(get_system_io()), &error_abort);
    object_property_set_int(host, PCI_HOST_BELOW_4G_MEM_SIZE,
                            x86ms->below_4g_mem_size, &error_abort);
    object_property_set_int(host, PCI_HOST_ABOVE_4G_MEM_SIZE,
                            x86ms->above_4g_mem_size, &error_abort);
    object_property_set_bool(host, PCI_HOST_PROP_SMM_RANGES, false,
                             &error_abort);
    sysbus_realize_and_unref(SYS_BUS_DEVICE(host), &error_fatal);

    abms->host = PCIE_HOST_BRIDGE(host);
    pcms->pcibus = PCI_BUS(qdev_get_child_bus(DEVICE(host), "pcie.0"));
}

static void airlock_boot_lpc_create(AirlockBootMachineState *abms)
{
    PCMachineState *pcms = PC_MACHINE(abms);
    X86MachineState *x86ms = X86_MACHINE(abms);
    PCIDevice *lpc = pci_new_multifunction(AIRLOCK_LPC_DEVFN,
                                           TYPE_ICH9_LPC_DEVICE);

    for (int i = 0; i < IOAPIC_NUM_PINS; i++) {
        qdev_connect_gpio_out_named(DEVICE(lpc), ICH9_GPIO_GSI, i,
                                    x86ms->gsi[i]);
    }
    object_property_set_bool(OBJECT(lpc), "enable_tco",
                             airlock_boot_wants(abms, AIRLOCK_DEV_tco),
                             &error_abort);
    pci_realize_and_unref(lpc, pcms->pcibus, &error_fatal);
    x86ms->rtc = ISA_DEVICE(object_resolve_path_component(OBJECT(lpc), "rtc"));
    abms->isa_bus = ISA_BUS(qdev_get_child_bus(DEVICE(lpc), "isa.0"));
}

static void airlock_boot_set_a20(void *opaque, int line, int level)
{
    x86_cpu_set_a20(opaque, level);
}

/* i8042, port 0x92 and what hangs on them; both drive the A20 gate. */
static void airlock_boot_keyboard_create(AirlockBootMachineState *abms)
{
    qemu_irq *a20 = qemu_allocate_irqs(airlock_boot_set_a20, first_cpu, 2);
    ISADevice *i8042 = NULL;

    if (airlock_boot_wants(abms, AIRLOCK_DEV_i8042)) {
        i8042 = isa_create_simple(abms->isa_bus, TYPE_I8042);
        qdev_connect_gpio_out_named(DEVICE(i8042), I8042_A20_LINE, 0, a20[0]);
    }
    if (airlock_boot_wants(abms, AIRLOCK_DEV_port92)) {
        ISADevice *port92 = isa_create_simple(abms->isa_bus, TYPE_PORT92);

        qdev_connect_gpio_out_named(DEVICE(port92), PORT92_A20_LINE, 0,
                                    a20[1]);
    }
    if (airlock_boot_wants(abms, AIRLOCK_DEV_vmport)) {
        ISADevice *vmmouse = isa_new("vmmouse");

        isa_create_simple(abms->isa_bus, TYPE_VMPORT);
        object_property_set_link(OBJECT(vmmouse), TYPE_I8042, OBJECT(i8042),
                                 &error_abort);
        isa_realize_and_unref(vmmouse, abms->isa_bus, &error_fatal);
    }
    g_free(a20);
}

static DeviceState *airlock_boot_hpet_create(X86MachineState *x86ms)
{
    DeviceState *hpet = qdev_new(TYPE_HPET);

    qdev_prop_set_uint32(hpet, HPET_INTCAP, 1 << 2 | 1 << 8 | 0xff << 16);
    sysbus_realize_and_unref(SYS_BUS_DEVICE(hpet), &error_fatal);
    sysbus_mmio_map(SYS_BUS_DEVICE(hpet), 0, HPET_BASE);
    for (int i = 0; i < IOAPIC_NUM_PINS; i++) {
        sysbus_connect_irq(SYS_BUS_DEVICE(hpet), i, x86ms->gsi[i]);
    }
    /* In legacy mode it takes the place of the other two timers' lines. */
    qdev_connect_gpio_out(DEVICE(x86ms->rtc), 0,
                          qdev_get_gpio_in(hpet, HPET_LEGACY_RTC_INT));
    return hpet;
}

static void airlock_boot_timers_create(AirlockBootMachineState *abms)
{
    PCMachineState *pcms = PC_MACHINE(abms);
    DeviceState *hpet = NULL;
    ISADevice *pit;

    if (airlock_boot_wants(abms, AIRLOCK_DEV_hpet)) {
        hpet = airlock_boot_hpet_create(X86_MACHINE(abms));
    }
    if (!airlock_boot_wants(abms, AIRLOCK_DEV_pit)) {
        return;
    }
    if (kvm_pit_in_kernel()) {
        pit = kvm_pit_init(abms->isa_bus, 0x40);
    } else {
        pit = i8254_pit_init(abms->isa_bus, 0x40, hpet ? -1 : 0,
                             hpet ? qdev_get_gpio_in(hpet,
                                                     HPET_LEGACY_PIT_INT)
                                  : NULL);
    }
    if (hpet) {
        qdev_connect_gpio_out(hpet, 0, qdev_get_gpio_in(DEVICE(pit), 0));
    }
    object_property_set_link(OBJECT(pcms->pcspk), "pit", OBJECT(pit),
                             &error_fatal);
    isa_realize_and_unref(pcms->pcspk, abms->isa_bus, &error_fatal);
}

static void airlock_boot_legacy_create(AirlockBootMachineState *abms)
{
    X86MachineState *x86ms = X86_MACHINE(abms);

    airlock_boot_timers_create(abms);
    airlock_boot_keyboard_create(abms);
    if (airlock_boot_wants(abms, AIRLOCK_DEV_serial)) {
        serial_hds_isa_init(abms->isa_bus, 0, 1);
    }
    /* Boot order for firmware that is given no boot index: disk, CD-ROM */
    mc146818rtc_set_cmos_data(MC146818_RTC(x86ms->rtc), 0x3d, 0x32);
}

static void airlock_boot_parallel_create(AirlockBootMachineState *abms)
{
    ISADevice *port = isa_new(TYPE_ISA_PARALLEL);
    Chardev *host = parallel_hds[0];

    qdev_prop_set_chr(DEVICE(port), "chardev",
                      host ? host : qemu_chr_new("parallel0", "null", NULL));
    isa_realize_and_unref(port, abms->isa_bus, &error_fatal);
}

/* Nobody reads it: what it says is as untrusted as the rest of a boot. */
static void airlock_boot_debugcon_create(AirlockBootMachineState *abms)
{
    ISADevice *debugcon = isa_new("isa-debugcon");

    qdev_prop_set_chr(DEVICE(debugcon), "chardev",
                      qemu_chr_new("debugcon", "null", NULL));
    isa_realize_and_unref(debugcon, abms->isa_bus, &error_fatal);
}

static void airlock_boot_extraneous_create(AirlockBootMachineState *abms)
{
    PCIBus *bus = PC_MACHINE(abms)->pcibus;

    if (airlock_boot_wants(abms, AIRLOCK_DEV_vga)) {
        pci_create_simple(bus, AIRLOCK_VGA_DEVFN, "VGA");
    }
    if (airlock_boot_wants(abms, AIRLOCK_DEV_ahci)) {
        pci_create_simple_multifunction(
            bus, PCI_DEVFN(ICH9_SATA1_DEV, ICH9_SATA1_FUNC), "ich9-ahci");
    }
    if (airlock_boot_wants(abms, AIRLOCK_DEV_smbus)) {
        pci_create_simple_multifunction(
            bus, PCI_DEVFN(ICH9_SMB_DEV, ICH9_SMB_FUNC), TYPE_ICH9_SMB_DEVICE);
    }
    if (airlock_boot_wants(abms, AIRLOCK_DEV_usb)) {
        pci_create_simple(bus, AIRLOCK_XHCI_DEVFN, "qemu-xhci");
    }
    if (airlock_boot_wants(abms, AIRLOCK_DEV_pvpanic)) {
        isa_create_simple(abms->isa_bus, "pvpanic");
    }
    if (airlock_boot_wants(abms, AIRLOCK_DEV_floppy)) {
        isa_create_simple(abms->isa_bus, TYPE_ISA_FDC);
    }
    if (airlock_boot_wants(abms, AIRLOCK_DEV_parallel)) {
        airlock_boot_parallel_create(abms);
    }
    if (airlock_boot_wants(abms, AIRLOCK_DEV_debugcon)) {
        airlock_boot_debugcon_create(abms);
    }
}

static void airlock_boot_machine_state_init(MachineState *machine)
{
    AirlockBootMachineState *abms = AIRLOCK_BOOT_MACHINE(machine);
    PCMachineState *pcms = PC_MACHINE(machine);
    X86MachineState *x86ms = X86_MACHINE(machine);
    GSIState *gsi_state;

    airlock_boot_check_options(abms);

    pcms->max_ram_below_4g = 4 * GiB;
    x86ms->below_4g_mem_size = airlock_low_ram_size(machine->ram_size);
    x86ms->above_4g_mem_size = machine->ram_size - x86ms->below_4g_mem_size;
    x86_cpus_init(x86ms, AIRLOCK_CPU_VERSION);
    if (kvm_enabled()) {
        kvmclock_create(true);
    }

    airlock_boot_host_create(abms);
    gsi_state = pc_gsi_create(&x86ms->gsi, true);
    airlock_boot_lpc_create(abms);
    if (airlock_boot_wants(abms, AIRLOCK_DEV_pic)) {
        pc_i8259_create(abms->isa_bus, gsi_state->i8259_irq);
    }
    ioapic_init_gsi(gsi_state, OBJECT(abms->host));
    if (tcg_enabled()) {
        x86_register_ferr_irq(x86ms->gsi[13]);
    }
    airlock_pm_create(get_system_io(), x86ms->gsi[AIRLOCK_SCI_GSI]);

    airlock_boot_legacy_create(abms);
    airlock_boot_extraneous_create(abms);

    abms->machine_done.notify = airlock_boot_machine_done;
    qemu_add_machine_init_done_notifier(&abms->machine_done);
}

static void airlock_boot_get_device(Object *obj, Visitor *v, const char *name,
                                    void *opaque, Error **errp)
{
    AirlockBootMachineState *abms = AIRLOCK_BOOT_MACHINE(obj);

    visit_type_bool(v, name, &abms->enabled[GPOINTER_TO_INT(opaque)], errp);
}

static void airlock_boot_set_device(Object *obj, Visitor *v, const char *name,
                                    void *opaque, Error **errp)
{
    AirlockBootMachineState *abms = AIRLOCK_BOOT_MACHINE(obj);

    visit_type_bool(v, name, &abms->enabled[GPOINTER_TO_INT(opaque)], errp);
}

static void airlock_boot_machine_initfn(Object *obj)
{
    AirlockBootMachineState *abms = AIRLOCK_BOOT_MACHINE(obj);

    for (int id = 0; id < AIRLOCK_DEV__COUNT; id++) {
        abms->enabled[id] = airlock_catalog[id].default_on;
    }
    airlock_boot_set_inherited_defaults(obj);
}

static void airlock_boot_add_properties(ObjectClass *oc)
{
    for (int id = 0; id < AIRLOCK_DEV__COUNT; id++) {
        const AirlockCatalogEntry *entry = &airlock_catalog[id];

        if (entry->class == AIRLOCK_REQUIRED ||
            object_class_property_find(oc, entry->name)) {
            continue;
        }
        object_class_property_add(oc, entry->name, "bool",
                                  airlock_boot_get_device,
                                  airlock_boot_set_device, NULL,
                                  GINT_TO_POINTER(id));
        object_class_property_set_description(oc, entry->name,
                                              entry->purpose);
    }
}

static void airlock_boot_machine_class_init(ObjectClass *oc, void *data)
{
    MachineClass *mc = MACHINE_CLASS(oc);
    PCMachineClass *pcmc = PC_MACHINE_CLASS(oc);

    mc->init = airlock_boot_machine_state_init;
    mc->family = "airlock";
    mc->desc = "Airlock boot machine";
    mc->max_cpus = AIRLOCK_BOOT_MAX_CPUS;
    mc->default_machine_opts = "firmware=bios-256k.bin";
    mc->default_ram_id = "airlock.ram";
    mc->default_kernel_irqchip_split = true;
    mc->has_hotpluggable_cpus = false;
    mc->auto_enable_numa_with_memhp = false;
    mc->auto_enable_numa_with_memdev = false;
    mc->nvdimm_supported = false;
    mc->no_floppy = 1;
    mc->no_cdrom = 1;
    mc->no_parallel = 1;
    mc->default_nic = NULL;
    mc->default_display = NULL;

    pcmc->pci_enabled = true;
    pcmc->pci_root_uid = 0;
    pcmc->default_cpu_version = AIRLOCK_CPU_VERSION;
    pcmc->has_acpi_build = false;   /* its tables have GPEs and hot-plug */
    pcmc->has_reserved_memory = false;

    airlock_boot_add_properties(oc);
    compat_props_add(mc->compat_props, airlock_boot_compat_props,
                     G_N_ELEMENTS(airlock_boot_compat_props));
}

static const TypeInfo airlock_boot_machine_info = {
    .name = TYPE_AIRLOCK_BOOT_MACHINE,
    .parent = TYPE_PC_MACHINE,
    .instance_size = sizeof(AirlockBootMachineState),
    .instance_init = airlock_boot_machine_initfn,
    .class_init = airlock_boot_machine_class_init,
};

static void airlock_boot_machine_register_types(void)
{
    type_register_static(&airlock_boot_machine_info);
}

type_init(airlock_boot_machine_register_types)
