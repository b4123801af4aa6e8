/*
 * Airlock reset trap, for targets and builds that do not have it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "hw/i386/airlock.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-airlock.h"

bool airlock_trap_is_trapped(void)
{
    return false;
}

bool airlock_trap_guest_waits(void)
{
    return false;
}

void airlock_trap_release(void)
{
}

AirlockTrapInfo *qmp___internal_airlock_query_trap(Error **errp)
{
    error_setg(errp, "This machine type has no reset trap");
    return NULL;
}
