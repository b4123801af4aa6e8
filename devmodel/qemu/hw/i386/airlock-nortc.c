/*
 * No MC146818 real time clock
 *
 * The code shared by all x86 machines tells the firmware the number of CPUs
 * through the clock's RAM, on machines that have a clock.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "hw/rtc/mc146818rtc.h"

void mc146818rtc_set_cmos_data(MC146818RtcState *s, int addr, int val)
{
    g_assert_not_reached();
}
