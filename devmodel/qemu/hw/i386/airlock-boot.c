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
#include "hw/boards.h"
#include "hw/char/parallel-isa.h"
#include "hw/char/serial-isa.h"
#include "hw/i386/airlock.h"
#include "hw/i386/kvm/clock.h"
#include "hw/i386/pc.h"
#include "hw/i386/x86.h"
#include "hw/ide/ahci-pci.h"
#include "hw/ide/pci.h"
#include "hw/isa/isa.h"
#include "hw/pci-host/q35.h"
#include "hw/pci/pci_device.h"
#include "hw/qdev-properties.h"
#include "hw/southbridge/ich9.h"
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "system/kvm.h"
#include "target/i386/cpu.h"

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

    if (object_child_foreach_recursive(object_get_root(),
                                       airlock_check_device, NULL)) {
        exit(EXIT_FAILURE);
    }
    if (airlock_boot_wants(abms, AIRLOCK_DEV_acpi)) {
        airlock_acpi_setup(X86_MACHINE(abms), abms->host, abms->isa_bus);
    }
}

/* Firmware and south bridge are one: say so instead of starting half of it. */
static void airlock_boot_check_options(AirlockBootMachineState *abms)
{
    static const AirlockDeviceId needed[] = {
        AIRLOCK_DEV_lpc, AIRLOCK_DEV_rtc, AIRLOCK_DEV_fw_cfg,
    };

    for (int i = 0; i < ARRAY_SIZE(needed); i++) {
        if (!abms->enabled[needed[i]]) {
            error_report("'%s=off': the firmware cannot start without the %s",
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
    pci_realize_and_unref(lpc, pcms->pcibus, &error_fatal);
    x86ms->rtc = ISA_DEVICE(object_resolve_path_component(OBJECT(lpc), "rtc"));
    abms->isa_bus = ISA_BUS(qdev_get_child_bus(DEVICE(lpc), "isa.0"));
}

/*
 * The rest of the PC/AT.  pc_basic_device_init() makes the timers, the RTC
 * wiring and the "super I/O" chips according to PCMachineState.
 */
static void airlock_boot_isa_create(AirlockBootMachineState *abms)
{
    PCMachineState *pcms = PC_MACHINE(abms);
    X86MachineState *x86ms = X86_MACHINE(abms);

    pc_basic_device_init(pcms, abms->isa_bus, x86ms->gsi, x86ms->rtc,
                         airlock_boot_wants(abms, AIRLOCK_DEV_floppy),
                         1 << 2 | 1 << 8 | 0xff0000 /* HPET routes */);
}

static void airlock_boot_extraneous_create(AirlockBootMachineState *abms)
{
    PCIBus *bus = PC_MACHINE(abms)->pcibus;

    if (airlock_boot_wants(abms, AIRLOCK_DEV_vga)) {
        pci_create_simple(bus, -1, "VGA");
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
        pci_create_simple(bus, -1, "qemu-xhci");
    }
    if (airlock_boot_wants(abms, AIRLOCK_DEV_pvpanic)) {
        isa_create_simple(abms->isa_bus, "pvpanic");
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
    x86_cpus_init(x86ms, CPU_VERSION_LATEST);
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

    airlock_boot_isa_create(abms);
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
    pcmc->default_cpu_version = CPU_VERSION_LATEST;
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
