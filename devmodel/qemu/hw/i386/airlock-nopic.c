/*
 * No 8259 interrupt controllers
 *
 * The local APIC and the I/O APIC ask the 8259 for a vector when a pin is in
 * ExtINT mode, which a guest may choose although there is nothing behind it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "hw/intc/i8259.h"

PICCommonState *isa_pic;

int pic_read_irq(PICCommonState *s)
{
    return -1;
}

int pic_get_output(PICCommonState *s)
{
    return 0;
}
