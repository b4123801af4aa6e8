/*
 * ACPI tables of the Airlock boot machine
 *
 * The tables describe what the guest keeps when it moves to the production
 * machine, plus the legacy devices it may probe while it boots.  What the
 * production machine could not serve later is left out: no GPE block, no
 * hot-plug, no sleep state but S5, no SMI command port, no interrupt link
 * devices.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "airlock-acpi.h"
#include "acpi-common.h"
#include "hw/acpi/acpi-defs.h"
#include "hw/acpi/acpi_aml_interface.h"
#include "hw/acpi/aml-build.h"
#include "hw/acpi/bios-linker-loader.h"
#include "hw/acpi/pci.h"
#include "hw/acpi/utils.h"
#include "hw/boards.h"
#include "hw/i386/airlock.h"
#include "hw/i386/pc.h"
#include "hw/input/i8042.h"
#include "hw/nvram/fw_cfg.h"
#include "hw/pci/pci_host.h"
#include "hw/pci-host/q35.h"
#include "hw/rtc/mc146818rtc_regs.h"
#include "hw/southbridge/ich9.h"
#include "migration/vmstate.h"
#include "system/reset.h"

#define AIRLOCK_ACPI_TABLE_ALIGN    0x20000
#define AIRLOCK_ACPI_LOADER_ALIGN   0x1000
#define AIRLOCK_RESET_VALUE         0xf     /* full reset, see ICH9 RST_CNT */

typedef struct AirlockAcpiState {
    X86MachineState *x86ms;
    PCIExpressHost *host;
    ISABus *isa_bus;
    MemoryRegion *table_mr;
    MemoryRegion *rsdp_mr;
    MemoryRegion *linker_mr;
    uint8_t patched;
} AirlockAcpiState;

/* Interrupt pin to GSI, as hw/isa/lpc_ich9.c routes them after reset. */
static int airlock_acpi_gsi(int slot, int pin)
{
    if (slot < 25) {
        return AIRLOCK_PIRQ_GSI_BASE + airlock_pirq(slot, pin);
    }
    return AIRLOCK_PIRQ_GSI_BASE + pin + (slot == 30 ? PCI_NUM_PINS : 0);
}

static Aml *airlock_acpi_prt(void)
{
    Aml *prt = aml_package(PCI_SLOT_MAX * PCI_NUM_PINS);

    for (int slot = 0; slot < PCI_SLOT_MAX; slot++) {
        for (int pin = 0; pin < PCI_NUM_PINS; pin++) {
            Aml *route = aml_package(4);

            aml_append(route, aml_int(slot << 16 | 0xffff));
            aml_append(route, aml_int(pin));
            aml_append(route, aml_int(0));
            aml_append(route, aml_int(airlock_acpi_gsi(slot, pin)));
            aml_append(prt, route);
        }
    }
    return prt;
}

static void airlock_acpi_add_memory(Aml *crs, uint64_t start, uint64_t end)
{
    if (start < end) {
        aml_append(crs, aml_dword_memory(AML_POS_DECODE, AML_MIN_FIXED,
                                         AML_MAX_FIXED, AML_NON_CACHEABLE,
                                         AML_READ_WRITE, 0, start, end - 1,
                                         0, end - start));
    }
}

static void airlock_acpi_add_io(Aml *crs, uint16_t start, uint16_t last)
{
    aml_append(crs, aml_word_io(AML_MIN_FIXED, AML_MAX_FIXED, AML_POS_DECODE,
                                AML_ENTIRE_RANGE, 0, start, last, 0,
                                last - start + 1));
}

static Aml *airlock_acpi_crs(AirlockAcpiState *s)
{
    Object *host = OBJECT(s->host);
    uint64_t start = object_property_get_uint(host, PCI_HOST_PROP_PCI_HOLE_START,
                                              &error_abort);
    uint64_t end = object_property_get_uint(host, PCI_HOST_PROP_PCI_HOLE_END,
                                            &error_abort);
    uint64_t start64 = object_property_get_uint(host,
                                                PCI_HOST_PROP_PCI_HOLE64_START,
                                                &error_abort);
    uint64_t end64 = object_property_get_uint(host,
                                              PCI_HOST_PROP_PCI_HOLE64_END,
                                              &error_abort);
    uint64_t ecam = s->host->base_addr;
    Aml *crs = aml_resource_template();

    aml_append(crs, aml_word_bus_number(AML_MIN_FIXED, AML_MAX_FIXED,
                                        AML_POS_DECODE, 0, 0, 0xff, 0,
                                        0x100));
    aml_append(crs, aml_io(AML_DECODE16, MCH_HOST_BRIDGE_CONFIG_ADDR,
                           MCH_HOST_BRIDGE_CONFIG_ADDR, 1, 8));
    airlock_acpi_add_io(crs, 0, MCH_HOST_BRIDGE_CONFIG_ADDR - 1);
    airlock_acpi_add_io(crs, MCH_HOST_BRIDGE_CONFIG_DATA + 4, 0xffff);
    airlock_acpi_add_memory(crs, MCH_HOST_BRIDGE_SMRAM_C_BASE,
                            MCH_HOST_BRIDGE_SMRAM_C_BASE +
                            MCH_HOST_BRIDGE_SMRAM_C_SIZE);
    if (ecam == PCIE_BASE_ADDR_UNMAPPED) {
        airlock_acpi_add_memory(crs, start, end);
    } else {
        airlock_acpi_add_memory(crs, start, ecam);
        airlock_acpi_add_memory(crs, ecam + s->host->size, end);
    }
    if (start64 < end64) {
        aml_append(crs, aml_qword_memory(AML_POS_DECODE, AML_MIN_FIXED,
                                         AML_MAX_FIXED, AML_CACHEABLE,
                                         AML_READ_WRITE, 0, start64,
                                         end64 - 1, 0, end64 - start64));
    }
    return crs;
}

static Aml *airlock_acpi_isa_bridge(AirlockAcpiState *s)
{
    Aml *isa = aml_device("ISA");
    BusChild *kid;

    aml_append(isa, aml_name_decl("_ADR", aml_int(ICH9_LPC_DEV << 16)));
    QTAILQ_FOREACH(kid, &BUS(s->isa_bus)->children, sibling) {
        call_dev_aml_func(kid->child, isa);
    }
    return isa;
}

/* What belongs to the board, so that no PCI window is put there */
static Aml *airlock_acpi_board(AirlockAcpiState *s)
{
    Aml *dev = aml_device("MBRD");
    Aml *crs = aml_resource_template();

    aml_append(crs, aml_io(AML_DECODE16, AIRLOCK_PM_BASE, AIRLOCK_PM_BASE, 1,
                           AIRLOCK_PM_SIZE));
    if (s->host->base_addr != PCIE_BASE_ADDR_UNMAPPED) {
        aml_append(crs, aml_memory32_fixed(s->host->base_addr, s->host->size,
                                           AML_READ_WRITE));
    }
    aml_append(dev, aml_name_decl("_HID", aml_eisaid("PNP0C02")));
    aml_append(dev, aml_name_decl("_UID", aml_int(1)));
    aml_append(dev, aml_name_decl("_CRS", crs));
    return dev;
}

static Aml *airlock_acpi_pci(AirlockAcpiState *s)
{
    Aml *pci = aml_device("PCI0");

    aml_append(pci, aml_name_decl("_HID", aml_eisaid("PNP0A08")));
    aml_append(pci, aml_name_decl("_CID", aml_eisaid("PNP0A03")));
    aml_append(pci, aml_name_decl("_ADR", aml_int(0)));
    aml_append(pci, aml_name_decl("_BBN", aml_int(0)));
    aml_append(pci, aml_name_decl("_UID", aml_int(0)));
    aml_append(pci, aml_name_decl("_CRS", airlock_acpi_crs(s)));
    aml_append(pci, aml_name_decl("_PRT", airlock_acpi_prt()));
    aml_append(pci, airlock_acpi_isa_bridge(s));
    return pci;
}

static void airlock_acpi_build_dsdt(AirlockAcpiState *s, GArray *table_data,
                                    BIOSLinker *linker)
{
    AcpiTable table = { .sig = "DSDT", .rev = 2,
                        .oem_id = s->x86ms->oem_id,
                        .oem_table_id = s->x86ms->oem_table_id };
    Aml *dsdt, *sb, *root, *s5;

    acpi_table_begin(&table, table_data);
    dsdt = init_aml_allocator();

    sb = aml_scope("_SB");
    aml_append(sb, airlock_acpi_pci(s));
    aml_append(sb, airlock_acpi_board(s));
    aml_append(dsdt, sb);

    root = aml_scope("\\");
    s5 = aml_package(4);
    for (int i = 0; i < 4; i++) {
        aml_append(s5, aml_int(0));
    }
    aml_append(root, aml_name_decl("_S5", s5));
    aml_append(dsdt, root);

    g_array_append_vals(table_data, dsdt->buf->data, dsdt->buf->len);
    acpi_table_end(linker, &table);
    free_aml_allocator();
}

/* ACPI 1.0b, 5.2.6: there is no firmware to share the global lock with */
static void airlock_acpi_build_facs(GArray *table_data)
{
    static const uint8_t rest[56];

    g_array_append_vals(table_data, "FACS", 4);
    build_append_int_noprefix(table_data, 4 + 4 + sizeof(rest), 4);
    g_array_append_vals(table_data, rest, sizeof(rest));
}

static void airlock_acpi_build_fadt(AirlockAcpiState *s, GArray *table_data,
                                    BIOSLinker *linker, unsigned facs,
                                    unsigned dsdt)
{
    MachineState *machine = MACHINE(s->x86ms);
    AcpiFadtData fadt = {
        .rev = 3,
        .flags = (1 << ACPI_FADT_F_WBINVD) |
                 (1 << ACPI_FADT_F_PROC_C1) |
                 (1 << ACPI_FADT_F_SLP_BUTTON) |
                 (1 << ACPI_FADT_F_RESET_REG_SUP) |
                 (1 << ACPI_FADT_F_USE_PLATFORM_CLOCK),
        .int_model = 1,             /* multiple APIC */
        .rtc_century = RTC_CENTURY,
        .plvl2_lat = 0xfff,         /* no C2 */
        .plvl3_lat = 0xfff,         /* no C3 */
        .sci_int = AIRLOCK_SCI_GSI,
        .pm1a_evt = { .space_id = AML_AS_SYSTEM_IO,
                      .bit_width = AIRLOCK_PM_EVT_LEN * 8,
                      .address = AIRLOCK_PM_BASE },
        .pm1a_cnt = { .space_id = AML_AS_SYSTEM_IO,
                      .bit_width = AIRLOCK_PM_CNT_LEN * 8,
                      .address = AIRLOCK_PM_BASE + AIRLOCK_PM_CNT },
        .pm_tmr = { .space_id = AML_AS_SYSTEM_IO,
                    .bit_width = AIRLOCK_PM_TMR_LEN * 8,
                    .address = AIRLOCK_PM_BASE + AIRLOCK_PM_TMR },
        .reset_reg = { .space_id = AML_AS_SYSTEM_IO, .bit_width = 8,
                       .address = AIRLOCK_PORT_RST_CNT },
        .reset_val = AIRLOCK_RESET_VALUE,
        .iapc_boot_arch = iapc_boot_arch_8042(),
        .facs_tbl_offset = &facs,
        .dsdt_tbl_offset = &dsdt,
        .xdsdt_tbl_offset = &dsdt,
    };

    /* "Flat Logical" destinations reach eight CPUs only. */
    if (machine->smp.max_cpus > 8) {
        fadt.flags |= 1 << ACPI_FADT_F_FORCE_APIC_CLUSTER_MODEL;
    }
    build_fadt(table_data, linker, &fadt, s->x86ms->oem_id,
               s->x86ms->oem_table_id);
}

static void airlock_acpi_build(AirlockAcpiState *s, AcpiBuildTables *tables)
{
    X86MachineState *x86ms = s->x86ms;
    g_autoptr(GArray) offsets = g_array_new(false, true, sizeof(uint32_t));
    GArray *blob = tables->table_data;
    unsigned facs, dsdt, rsdt;

    bios_linker_loader_alloc(tables->linker, ACPI_BUILD_TABLE_FILE, blob,
                             64 /* the FACS must be aligned */, false);
    facs = blob->len;
    airlock_acpi_build_facs(blob);
    dsdt = blob->len;
    airlock_acpi_build_dsdt(s, blob, tables->linker);

    acpi_add_table(offsets, blob);
    airlock_acpi_build_fadt(s, blob, tables->linker, facs, dsdt);
    acpi_add_table(offsets, blob);
    acpi_build_madt(blob, tables->linker, x86ms, x86ms->oem_id,
                    x86ms->oem_table_id);
    if (s->host->base_addr != PCIE_BASE_ADDR_UNMAPPED) {
        AcpiMcfgInfo mcfg = { .base = s->host->base_addr,
                              .size = s->host->size };

        acpi_add_table(offsets, blob);
        build_mcfg(blob, tables->linker, &mcfg, x86ms->oem_id,
                   x86ms->oem_table_id);
    }

    rsdt = blob->len;
    build_rsdt(blob, tables->linker, offsets, x86ms->oem_id,
               x86ms->oem_table_id);
    build_rsdp(tables->rsdp, tables->linker,
               &(AcpiRsdpData) { .revision = 0, .oem_id = x86ms->oem_id,
                                 .rsdt_tbl_offset = &rsdt });

    /* Room to grow, because the firmware's view changes what is in there */
    g_array_set_size(blob, ROUND_UP(acpi_data_len(blob),
                                    AIRLOCK_ACPI_TABLE_ALIGN));
    g_array_set_size(tables->linker->cmd_blob,
                     ROUND_UP(acpi_data_len(tables->linker->cmd_blob),
                              AIRLOCK_ACPI_LOADER_ALIGN));
}

static void airlock_acpi_replace(MemoryRegion *mr, GArray *data)
{
    uint32_t size = acpi_data_len(data);

    memory_region_ram_resize(mr, size, &error_abort);
    memcpy(memory_region_get_ram_ptr(mr), data->data, size);
    memory_region_set_dirty(mr, 0, size);
}

static void airlock_acpi_update(void *opaque)
{
    AirlockAcpiState *s = opaque;
    AcpiBuildTables tables;

    if (s->patched) {
        return;
    }
    s->patched = 1;

    acpi_build_tables_init(&tables);
    airlock_acpi_build(s, &tables);
    airlock_acpi_replace(s->table_mr, tables.table_data);
    airlock_acpi_replace(s->rsdp_mr, tables.rsdp);
    airlock_acpi_replace(s->linker_mr, tables.linker->cmd_blob);
    acpi_build_tables_cleanup(&tables, true);
}

static void airlock_acpi_reset(void *opaque)
{
    AirlockAcpiState *s = opaque;

    s->patched = 0;
}

static const VMStateDescription vmstate_airlock_acpi = {
    .name = "acpi_build",
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT8(patched, AirlockAcpiState),
        VMSTATE_END_OF_LIST()
    },
};

void airlock_acpi_setup(X86MachineState *x86ms, PCIExpressHost *host,
                        ISABus *isa_bus)
{
    AirlockAcpiState *s = g_new0(AirlockAcpiState, 1);
    AcpiBuildTables tables;

    s->x86ms = x86ms;
    s->host = host;
    s->isa_bus = isa_bus;

    acpi_build_tables_init(&tables);
    airlock_acpi_build(s, &tables);
    s->table_mr = acpi_add_rom_blob(airlock_acpi_update, s, tables.table_data,
                                    ACPI_BUILD_TABLE_FILE);
    s->linker_mr = acpi_add_rom_blob(airlock_acpi_update, s,
                                     tables.linker->cmd_blob,
                                     ACPI_BUILD_LOADER_FILE);
    s->rsdp_mr = acpi_add_rom_blob(airlock_acpi_update, s, tables.rsdp,
                                   ACPI_BUILD_RSDP_FILE);
    /* The blobs now belong to the memory regions. */
    acpi_build_tables_cleanup(&tables, false);

    qemu_register_reset(airlock_acpi_reset, s);
    vmstate_register(NULL, 0, &vmstate_airlock_acpi, s);
}
