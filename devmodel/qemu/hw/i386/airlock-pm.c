/*
 * Airlock power management block
 *
 * The three ACPI fixed-hardware register blocks that an operating system
 * keeps using after it has booted: PM1a events (power button), PM1a control
 * (power-off) and the PM timer (clock source).  There is no GPE block, no
 * sleep state but S5 and no SMI, so the machine is in ACPI mode for ever.
 *
 * Both Airlock machine types have this very device at the same ports, so its
 * section moves from one to the other unchanged.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "hw/acpi/acpi.h"
#include "hw/i386/airlock.h"
#include "hw/irq.h"
#include "hw/sysbus.h"
#include "migration/vmstate.h"
#include "qemu/host-utils.h"
#include "qemu/module.h"
#include "qemu/timer.h"

/*
 * ACPI 1.0b, 4.7.3.1 and 4.7.3.2: the bits that exist here.  Operating
 * systems enable the RTC alarm as a wake-up event and check that the bit
 * stays, although it can never occur.
 */
#define PM1_STS_BITS    ACPI_BITMASK_POWER_BUTTON_STATUS
#define PM1_EN_BITS     (ACPI_BITMASK_POWER_BUTTON_ENABLE | \
                         ACPI_BITMASK_GLOBAL_LOCK_ENABLE | \
                         ACPI_BITMASK_RT_CLOCK_ENABLE)
#define PM1_CNT_BITS    (ACPI_BITMASK_BUS_MASTER_RLD | \
                         ACPI_BITMASK_SLEEP_TYPE)
#define PM1_SLP_TYP_S5  0

#define PM_TIMER_MASK   0xffffff

struct AirlockPMState {
    SysBusDevice parent_obj;

    MemoryRegion evt_io;
    MemoryRegion cnt_io;
    MemoryRegion tmr_io;
    qemu_irq sci;
    Notifier powerdown;

    uint16_t pm1_sts;
    uint16_t pm1_en;
    uint16_t pm1_cnt;
};

static void airlock_pm_update_sci(AirlockPMState *s)
{
    qemu_set_irq(s->sci, (s->pm1_sts & s->pm1_en & PM1_EN_BITS) != 0);
}

/*
 * What a read at byte @addr of a register block of @len bytes gives.  QEMU
 * gives an access whole to the block at its first port: what lies behind the
 * block is the empty bus's.
 */
static uint64_t airlock_pm_bytes(uint32_t value, unsigned len, hwaddr addr)
{
    uint64_t bus = MAKE_64BIT_MASK(8 * len, 64 - 8 * len);

    return addr < len ? (bus | value) >> (8 * addr) : UINT64_MAX;
}

static uint64_t airlock_pm_evt_read(void *opaque, hwaddr addr, unsigned size)
{
    AirlockPMState *s = opaque;

    return airlock_pm_bytes(s->pm1_sts | (uint32_t)s->pm1_en << 16,
                            AIRLOCK_PM_EVT_LEN, addr);
}

static void airlock_pm_evt_write(void *opaque, hwaddr addr, uint64_t val,
                                 unsigned size)
{
    AirlockPMState *s = opaque;

    if (addr < 2) {
        s->pm1_sts &= ~(val << (8 * addr));
    } else if (addr < AIRLOCK_PM_EVT_LEN) {
        s->pm1_en = deposit32(s->pm1_en, 8 * (addr - 2), 8, val) &
                    PM1_EN_BITS;
    }
    airlock_pm_update_sci(s);
}

static uint64_t airlock_pm_cnt_read(void *opaque, hwaddr addr, unsigned size)
{
    AirlockPMState *s = opaque;

    return airlock_pm_bytes(s->pm1_cnt | ACPI_BITMASK_SCI_ENABLE,
                            AIRLOCK_PM_CNT_LEN, addr);
}

static void airlock_pm_cnt_write(void *opaque, hwaddr addr, uint64_t val,
                                 unsigned size)
{
    AirlockPMState *s = opaque;
    uint32_t bits;

    if (addr >= AIRLOCK_PM_CNT_LEN) {
        return;
    }
    s->pm1_cnt = deposit32(s->pm1_cnt, 8 * addr, 8, val) & PM1_CNT_BITS;
    /* Sleep type and enable bit are in the same byte. */
    bits = val << (8 * addr);
    if ((bits & ACPI_BITMASK_SLEEP_ENABLE) &&
        (bits & ACPI_BITMASK_SLEEP_TYPE) >> 10 == PM1_SLP_TYP_S5) {
        qemu_system_shutdown_request(SHUTDOWN_CAUSE_GUEST_SHUTDOWN);
    }
}

static uint64_t airlock_pm_tmr_read(void *opaque, hwaddr addr, unsigned size)
{
    uint32_t ticks = muldiv64(qemu_clock_get_ns(QEMU_CLOCK_VIRTUAL),
                              PM_TIMER_FREQUENCY, NANOSECONDS_PER_SECOND);

    return airlock_pm_bytes(ticks & PM_TIMER_MASK, AIRLOCK_PM_TMR_LEN, addr);
}

static void airlock_pm_tmr_write(void *opaque, hwaddr addr, uint64_t val,
                                 unsigned size)
{
    /* ACPI 1.0b, 4.7.3.3: the timer is read-only */
}

/* The registers are put together from bytes: every access size works. */
#define AIRLOCK_PM_OPS(name, rd, wr, max)                               \
    static const MemoryRegionOps name = {                               \
        .read = rd,                                                     \
        .write = wr,                                                    \
        .endianness = DEVICE_LITTLE_ENDIAN,                             \
        .valid = { .min_access_size = 1, .max_access_size = 4,          \
                   .unaligned = true },                                 \
        .impl = { .min_access_size = 1, .max_access_size = max,         \
                  .unaligned = true },                                  \
    }

AIRLOCK_PM_OPS(airlock_pm_evt_ops, airlock_pm_evt_read, airlock_pm_evt_write,
               1);
AIRLOCK_PM_OPS(airlock_pm_cnt_ops, airlock_pm_cnt_read, airlock_pm_cnt_write,
               1);
/* A counter is read at one moment. */
AIRLOCK_PM_OPS(airlock_pm_tmr_ops, airlock_pm_tmr_read, airlock_pm_tmr_write,
               4);

static void airlock_pm_powerdown(Notifier *n, void *opaque)
{
    AirlockPMState *s = container_of(n, AirlockPMState, powerdown);

    s->pm1_sts |= ACPI_BITMASK_POWER_BUTTON_STATUS;
    airlock_pm_update_sci(s);
}

static void airlock_pm_reset(DeviceState *dev)
{
    AirlockPMState *s = AIRLOCK_PM(dev);

    s->pm1_sts = 0;
    s->pm1_en = 0;
    s->pm1_cnt = 0;
    airlock_pm_update_sci(s);
}

static int airlock_pm_post_load(void *opaque, int version_id)
{
    AirlockPMState *s = opaque;

    if ((s->pm1_sts & ~PM1_STS_BITS) || (s->pm1_en & ~PM1_EN_BITS) ||
        (s->pm1_cnt & ~PM1_CNT_BITS)) {
        return -EINVAL;
    }
    airlock_pm_update_sci(s);
    return 0;
}

static const VMStateDescription vmstate_airlock_pm = {
    .name = "airlock-pm",
    .version_id = 1,
    .minimum_version_id = 1,
    .post_load = airlock_pm_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT16(pm1_sts, AirlockPMState),
        VMSTATE_UINT16(pm1_en, AirlockPMState),
        VMSTATE_UINT16(pm1_cnt, AirlockPMState),
        VMSTATE_END_OF_LIST()
    },
};

static void airlock_pm_realize(DeviceState *dev, Error **errp)
{
    AirlockPMState *s = AIRLOCK_PM(dev);

    memory_region_init_io(&s->evt_io, OBJECT(s), &airlock_pm_evt_ops, s,
                          "airlock-pm-evt", AIRLOCK_PM_EVT_LEN);
    memory_region_init_io(&s->cnt_io, OBJECT(s), &airlock_pm_cnt_ops, s,
                          "airlock-pm-cnt", AIRLOCK_PM_CNT_LEN);
    memory_region_init_io(&s->tmr_io, OBJECT(s), &airlock_pm_tmr_ops, s,
                          "airlock-pm-tmr", AIRLOCK_PM_TMR_LEN);
    sysbus_init_irq(SYS_BUS_DEVICE(dev), &s->sci);

    s->powerdown.notify = airlock_pm_powerdown;
    qemu_register_powerdown_notifier(&s->powerdown);
}

DeviceState *airlock_pm_create(MemoryRegion *io, qemu_irq sci)
{
    DeviceState *dev = qdev_new(TYPE_AIRLOCK_PM);
    AirlockPMState *s = AIRLOCK_PM(dev);

    sysbus_realize_and_unref(SYS_BUS_DEVICE(dev), &error_fatal);
    memory_region_add_subregion_overlap(io, AIRLOCK_PM_BASE, &s->evt_io,
                                        AIRLOCK_FIXED_PORT_PRIORITY);
    memory_region_add_subregion_overlap(io, AIRLOCK_PM_BASE + AIRLOCK_PM_CNT,
                                        &s->cnt_io,
                                        AIRLOCK_FIXED_PORT_PRIORITY);
    memory_region_add_subregion_overlap(io, AIRLOCK_PM_BASE + AIRLOCK_PM_TMR,
                                        &s->tmr_io,
                                        AIRLOCK_FIXED_PORT_PRIORITY);
    sysbus_connect_irq(SYS_BUS_DEVICE(dev), 0, sci);
    return dev;
}

static void airlock_pm_class_init(ObjectClass *klass, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->desc = "Airlock power management block";
    dc->realize = airlock_pm_realize;
    dc->vmsd = &vmstate_airlock_pm;
    dc->user_creatable = false;
    device_class_set_legacy_reset(dc, airlock_pm_reset);
}

static const TypeInfo airlock_pm_info = {
    .name = TYPE_AIRLOCK_PM,
    .parent = TYPE_SYS_BUS_DEVICE,
    .instance_size = sizeof(AirlockPMState),
    .class_init = airlock_pm_class_init,
};

static void airlock_pm_register_types(void)
{
    type_register_static(&airlock_pm_info);
}

type_init(airlock_pm_register_types)
