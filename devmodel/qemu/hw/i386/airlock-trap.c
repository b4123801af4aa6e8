/*
 * Airlock reset trap
 *
 * A guest that resets its machine wants to boot, and it cannot boot here:
 * there is no firmware.  Every way to reset ends in the same place:
 *
 *  - the guest writes to a reset door (0x64 or 0xCF9, the latter being the
 *    ACPI reset register too): the cause is noted and the machine reset;
 *  - a triple fault, QMP system_reset and a cold start reset the machine
 *    without this device's help;
 *  - after each reset the CPU finds 16 bytes of ROM at the reset vector that
 *    write 0xFE to port 0x64.  That write is the trap proper: all vCPUs stop,
 *    all devices are in their reset state, an event goes out.
 *
 * From then on the VM waits for a state to be loaded.  If it is continued
 * without one, the stub runs into the trap again.
 *
 * The device also answers for the two ports that must not read as all ones
 * on a machine without the devices: with 0xFF at 0x64 Linux polls for a free
 * input buffer 65536 times before each try to reset, and 0x61 bit 5 tells
 * its PIT calibration loop that the timer has run out.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include "hw/core/cpu.h"
#include "hw/i386/airlock.h"
#include "hw/sysbus.h"
#include "migration/vmstate.h"
#include "qapi/qapi-commands-airlock.h"
#include "qapi/qapi-events-airlock.h"
#include "qemu/guest-random.h"
#include "qemu/module.h"
#include "system/cpus.h"
#include "system/reset.h"

#define AIRLOCK_STUB_ADDR       0xfffffff0ULL
#define AIRLOCK_STUB_SIZE       16
#define AIRLOCK_STUB_ROM_SIZE   (4 * KiB)

/* mov $0xfe, %al; 1: out %al, $0x64; jmp 1b */
static const uint8_t airlock_stub[AIRLOCK_STUB_SIZE] = {
    0xb0, 0xfe, 0xe6, AIRLOCK_PORT_KBD, 0xeb, 0xfc,
    0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4, 0xf4,
};

#define SYSCTL_OUT2             0x20
#define EMPTY_BUS               0xff

typedef struct AirlockTrapOrigin {
    AirlockTrapCause cause;
    uint16_t port;
    uint8_t value;
    int vcpu;
} AirlockTrapOrigin;

struct AirlockTrapState {
    SysBusDevice parent_obj;

    MemoryRegion kbd_io;
    MemoryRegion sysctl_io;
    MemoryRegion rst_cnt_io;
    MemoryRegion stub_rom;

    /* The CPUs are at the reset vector; only the stub can run. */
    bool at_stub;
    /* The stub has run and no state has been loaded since. */
    bool trapped;
    /* A state has been loaded and the guest has not run since. */
    bool loaded;
    /* The guest, not only the stub, has run since a state was loaded last. */
    bool ran;
    /* Of this process, and of no other. */
    uint64_t life;
    /* A write to a reset door has requested the coming reset. */
    bool door_used;
    AirlockTrapOrigin origin;
    uint64_t count;
};

static AirlockTrapState *airlock_trap_find(void)
{
    return AIRLOCK_TRAP(object_resolve_path_type("", TYPE_AIRLOCK_TRAP, NULL));
}

bool airlock_trap_is_trapped(void)
{
    AirlockTrapState *s = airlock_trap_find();

    return s && s->trapped;
}

bool airlock_trap_guest_waits(void)
{
    AirlockTrapState *s = airlock_trap_find();

    return s && (s->trapped || s->loaded);
}

void airlock_trap_release(void)
{
    AirlockTrapState *s = airlock_trap_find();

    s->at_stub = false;
    s->trapped = false;
    s->loaded = true;
    s->ran = false;
}

static void airlock_trap_run_state(void *opaque, bool running, RunState state)
{
    AirlockTrapState *s = opaque;

    if (running) {
        s->loaded = false;
        s->ran |= !s->at_stub;
    }
}

static void airlock_trap_take(AirlockTrapState *s)
{
    bool port = s->origin.cause == AIRLOCK_TRAP_CAUSE_PORT;

    s->loaded = false;
    if (!s->trapped) {
        s->trapped = true;
        s->count++;
    }
    qapi_event_send___internal_airlock_trap(s->origin.cause,
                                            port, s->origin.port,
                                            port, s->origin.value,
                                            s->origin.vcpu, s->count);
    vm_stop(RUN_STATE_PAUSED);
}

/* A reset door: from guest code a reset request, from the stub the trap. */
static void airlock_trap_door(AirlockTrapState *s, uint16_t port,
                              uint8_t value)
{
    if (s->at_stub) {
        airlock_trap_take(s);
        return;
    }
    if (!s->door_used) {
        s->door_used = true;
        s->origin = (AirlockTrapOrigin) {
            .cause = AIRLOCK_TRAP_CAUSE_PORT,
            .port = port,
            .value = value,
            .vcpu = current_cpu ? current_cpu->cpu_index : 0,
        };
    }
    qemu_system_reset_request(SHUTDOWN_CAUSE_GUEST_RESET);
}

static uint64_t airlock_trap_zero_read(void *opaque, hwaddr addr,
                                       unsigned size)
{
    return addr == 0 ? 0 : EMPTY_BUS;
}

static void airlock_trap_kbd_write(void *opaque, hwaddr addr, uint64_t val,
                                   unsigned size)
{
    /* 0xF0 to 0xFF pulse the output lines whose bit is 0; bit 0 is reset */
    if (addr == 0 && (val & 0xf1) == 0xf0) {
        airlock_trap_door(opaque, AIRLOCK_PORT_KBD, val);
    }
}

static void airlock_trap_rst_cnt_write(void *opaque, hwaddr addr,
                                       uint64_t val, unsigned size)
{
    /* ICH9 datasheet, 13.7.5: bit 2 is RST_CPU, bit 1 only says which kind */
    if (addr == 0 && (val & 0x4)) {
        airlock_trap_door(opaque, AIRLOCK_PORT_RST_CNT, val);
    }
}

static uint64_t airlock_trap_sysctl_read(void *opaque, hwaddr addr,
                                         unsigned size)
{
    return addr == 0 ? SYSCTL_OUT2 : EMPTY_BUS;
}

static void airlock_trap_sysctl_write(void *opaque, hwaddr addr, uint64_t val,
                                      unsigned size)
{
}

#define AIRLOCK_BYTE_PORT_OPS(name, rd, wr)                             \
    static const MemoryRegionOps name = {                               \
        .read = rd,                                                     \
        .write = wr,                                                    \
        .endianness = DEVICE_LITTLE_ENDIAN,                             \
        .impl = { .min_access_size = 1, .max_access_size = 1 },         \
    }

AIRLOCK_BYTE_PORT_OPS(airlock_trap_kbd_ops,
                      airlock_trap_zero_read, airlock_trap_kbd_write);
AIRLOCK_BYTE_PORT_OPS(airlock_trap_rst_cnt_ops,
                      airlock_trap_zero_read, airlock_trap_rst_cnt_write);
AIRLOCK_BYTE_PORT_OPS(airlock_trap_sysctl_ops,
                      airlock_trap_sysctl_read, airlock_trap_sysctl_write);

static AirlockTrapCause airlock_trap_reset_cause(void)
{
    switch (qemu_last_reset_cause()) {
    case SHUTDOWN_CAUSE_NONE:
        return AIRLOCK_TRAP_CAUSE_COLD_START;
    case SHUTDOWN_CAUSE_GUEST_RESET:
        /* The doors are ours, so this came from the CPU. */
        return AIRLOCK_TRAP_CAUSE_TRIPLE_FAULT;
    default:
        return AIRLOCK_TRAP_CAUSE_SYSTEM_RESET;
    }
}

static void airlock_trap_reset(DeviceState *dev)
{
    AirlockTrapState *s = AIRLOCK_TRAP(dev);

    s->at_stub = true;
    if (s->door_used) {
        s->door_used = false;
    } else if (!s->trapped) {
        s->origin = (AirlockTrapOrigin) { .cause = airlock_trap_reset_cause() };
    }
}

AirlockTrapInfo *qmp___internal_airlock_query_trap(Error **errp)
{
    AirlockTrapState *s = airlock_trap_find();
    AirlockTrapInfo *info;

    if (!s) {
        error_setg(errp, "This machine type has no reset trap");
        return NULL;
    }

    info = g_new0(AirlockTrapInfo, 1);
    info->trapped = s->trapped;
    info->loaded = s->loaded;
    info->at_stub = s->at_stub;
    info->ran = s->ran;
    info->life = s->life;
    info->count = s->count;
    if (s->trapped) {
        info->has_cause = true;
        info->cause = s->origin.cause;
        info->has_vcpu = true;
        info->vcpu = s->origin.vcpu;
        if (s->origin.cause == AIRLOCK_TRAP_CAUSE_PORT) {
            info->has_port = true;
            info->port = s->origin.port;
            info->has_value = true;
            info->value = s->origin.value;
        }
    }
    return info;
}

static void airlock_trap_realize(DeviceState *dev, Error **errp)
{
    AirlockTrapState *s = AIRLOCK_TRAP(dev);
    uint8_t *rom;

    qemu_guest_getrandom_nofail(&s->life, sizeof(s->life));
    qemu_add_vm_change_state_handler(airlock_trap_run_state, s);
    memory_region_init_io(&s->kbd_io, OBJECT(s), &airlock_trap_kbd_ops, s,
                          "airlock-trap-kbd", 1);
    memory_region_init_io(&s->sysctl_io, OBJECT(s), &airlock_trap_sysctl_ops,
                          s, "airlock-trap-sysctl", 1);
    memory_region_init_io(&s->rst_cnt_io, OBJECT(s),
                          &airlock_trap_rst_cnt_ops, s,
                          "airlock-trap-rst-cnt", 1);

    /* Not part of the migration stream: each machine brings its own stub. */
    if (!memory_region_init_rom_nomigrate(&s->stub_rom, OBJECT(s),
                                          "airlock-stub",
                                          AIRLOCK_STUB_ROM_SIZE, errp)) {
        return;
    }
    rom = memory_region_get_ram_ptr(&s->stub_rom);
    memset(rom, 0xf4 /* hlt */, AIRLOCK_STUB_ROM_SIZE);
    memcpy(rom + AIRLOCK_STUB_ROM_SIZE - AIRLOCK_STUB_SIZE, airlock_stub,
           AIRLOCK_STUB_SIZE);
}

DeviceState *airlock_trap_create(MemoryRegion *io, MemoryRegion *mem)
{
    DeviceState *dev = qdev_new(TYPE_AIRLOCK_TRAP);
    AirlockTrapState *s = AIRLOCK_TRAP(dev);

    sysbus_realize_and_unref(SYS_BUS_DEVICE(dev), &error_fatal);
    memory_region_add_subregion_overlap(io, AIRLOCK_PORT_KBD, &s->kbd_io,
                                        AIRLOCK_FIXED_PORT_PRIORITY);
    memory_region_add_subregion_overlap(io, AIRLOCK_PORT_SYSCTL,
                                        &s->sysctl_io,
                                        AIRLOCK_FIXED_PORT_PRIORITY);
    /* One above the PCI configuration ports, which decode this byte too. */
    memory_region_add_subregion_overlap(io, AIRLOCK_PORT_RST_CNT,
                                        &s->rst_cnt_io,
                                        AIRLOCK_FIXED_PORT_PRIORITY + 1);
    memory_region_add_subregion_overlap(mem,
                                        4 * GiB - AIRLOCK_STUB_ROM_SIZE,
                                        &s->stub_rom,
                                        AIRLOCK_FIXED_PORT_PRIORITY);
    return dev;
}

static void airlock_trap_class_init(ObjectClass *klass, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->desc = "Airlock reset trap";
    dc->realize = airlock_trap_realize;
    dc->user_creatable = false;
    device_class_set_legacy_reset(dc, airlock_trap_reset);
}

static const TypeInfo airlock_trap_info = {
    .name = TYPE_AIRLOCK_TRAP,
    .parent = TYPE_SYS_BUS_DEVICE,
    .instance_size = sizeof(AirlockTrapState),
    .class_init = airlock_trap_class_init,
};

static void airlock_trap_register_types(void)
{
    type_register_static(&airlock_trap_info);
}

type_init(airlock_trap_register_types)
