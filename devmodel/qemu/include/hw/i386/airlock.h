/*
 * Airlock: machine types for booting a guest on a full machine and running
 * it on one that has almost no devices.
 *
 * This header is the contract between the two machine types: whatever the
 * guest may have learnt about the machine while it booted ("airlock-boot")
 * has to hold on the machine it lives on ("airlock").
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef HW_I386_AIRLOCK_H
#define HW_I386_AIRLOCK_H

#include "exec/hwaddr.h"
#include "exec/memory.h"
#include "hw/pci/pci.h"
#include "qapi/error.h"
#include "qemu/units.h"
#include "qom/object.h"
#include "system/runstate.h"

#define AIRLOCK_MACHINE_NAME        "airlock-1.0"
#define AIRLOCK_BOOT_MACHINE_NAME   "airlock-boot-1.0"

/*
 * Guest memory: RAM below 4 GiB ends where the ECAM window may start, the
 * rest follows at 4 GiB.  The boundary moves down to 2 GiB for large guests
 * so that 1 GiB guest pages stay 1 GiB aligned in the backing file.
 */
#define AIRLOCK_LOW_RAM_MAX         0xb0000000ULL
#define AIRLOCK_LOW_RAM_SPLIT       0x80000000ULL
#define AIRLOCK_HIGH_RAM_BASE       (4 * GiB)

static inline uint64_t airlock_low_ram_size(uint64_t ram_size)
{
    if (ram_size < AIRLOCK_LOW_RAM_MAX) {
        return ram_size;
    }
    return AIRLOCK_LOW_RAM_SPLIT;
}

/*
 * "Nehalem" is Nehalem-v1 on both machines, as on PC machines: what libvirt
 * knows as a CPU model is its first version.
 */
#define AIRLOCK_CPU_VERSION         1

/* Interrupts: SCI, and INTx of slots 0 to 24 on PIRQ E-H (GSI 20 to 23). */
#define AIRLOCK_SCI_GSI             9
#define AIRLOCK_PIRQ_COUNT          8
#define AIRLOCK_PIRQ_GSI_BASE       16

static inline int airlock_pirq(int slot, int pin)
{
    return (slot + pin) % PCI_NUM_PINS + PCI_NUM_PINS;
}

/*
 * Ports of the required devices.  They lie above all PCI BARs: a guest may
 * program an I/O BAR to any address, but not to hide a door.
 */
#define AIRLOCK_FIXED_PORT_PRIORITY 10

/* Power management block: PM1a event, PM1a control, PM timer. */
#define AIRLOCK_PM_BASE             0x600
#define AIRLOCK_PM_EVT_LEN          4
#define AIRLOCK_PM_CNT              4
#define AIRLOCK_PM_CNT_LEN          2
#define AIRLOCK_PM_TMR              8
#define AIRLOCK_PM_TMR_LEN          4
#define AIRLOCK_PM_SIZE             0xc

#define TYPE_AIRLOCK_PM "airlock-pm"
OBJECT_DECLARE_SIMPLE_TYPE(AirlockPMState, AIRLOCK_PM)

/*
 * Create the power management block in @io; its GPIO output 0 is the SCI.
 * The caller owns no reference.
 */
DeviceState *airlock_pm_create(MemoryRegion *io, qemu_irq sci);

/* Reset doors: keyboard controller command port, ICH9 reset control. */
#define AIRLOCK_PORT_SYSCTL         0x61
#define AIRLOCK_PORT_KBD            0x64
#define AIRLOCK_PORT_RST_CNT        0xcf9

#define TYPE_AIRLOCK_TRAP "airlock-trap"
OBJECT_DECLARE_SIMPLE_TYPE(AirlockTrapState, AIRLOCK_TRAP)

DeviceState *airlock_trap_create(MemoryRegion *io, MemoryRegion *mem);

/*
 * True from the moment the guest's reset was trapped until a state has been
 * loaded: no guest code can run, so the state may be replaced.
 */
bool airlock_trap_is_trapped(void);

/* As above, or the loaded state has not run yet: disks may still be changed. */
bool airlock_trap_guest_waits(void);

/* A state has been loaded; the next reset is a new trap. */
void airlock_trap_release(void);

/* The production machine's host bridge, which has the section of "mch". */
#define TYPE_AIRLOCK_PCI_HOST "airlock-pcihost"
OBJECT_DECLARE_SIMPLE_TYPE(AirlockPCIHost, AIRLOCK_PCI_HOST)

#define TYPE_AIRLOCK_MCH "airlock-mch"
OBJECT_DECLARE_SIMPLE_TYPE(AirlockMCHState, AIRLOCK_MCH)

/* Create the host bridge; @gsi[] are the IOAPIC's input lines. */
PCIBus *airlock_pci_host_create(MemoryRegion *mem, MemoryRegion *io,
                                uint64_t low_ram_size, qemu_irq *gsi);

#endif /* HW_I386_AIRLOCK_H */
