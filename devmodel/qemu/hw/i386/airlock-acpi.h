/*
 * ACPI tables of the Airlock boot machine
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef HW_I386_AIRLOCK_ACPI_H
#define HW_I386_AIRLOCK_ACPI_H

#include "hw/i386/x86.h"
#include "hw/isa/isa.h"
#include "hw/pci/pcie_host.h"

/*
 * Describe the machine to the firmware through fw_cfg.  The tables are built
 * again when the firmware reads them, because it programs the host bridge
 * first.  @host and @isa_bus must live as long as the machine.
 */
void airlock_acpi_setup(X86MachineState *x86ms, PCIExpressHost *host,
                        ISABus *isa_bus);

#endif
