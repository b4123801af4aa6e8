#include "devmodel/handover/schema_tables/fields.hpp"
#include "devmodel/handover/schema_tables/tables.hpp"

// timer: system/cpu-timers.c vmstate_timers.
// kvmclock: hw/i386/kvm/clock.c kvmclock_vmsd.
// airlock-pm: the project's own PM1 block; the PM timer follows the virtual
// clock and has no state.

namespace airlock::handover::tables
{

namespace
{

constexpr Field timerFields[] = {
    i64("cpu_ticks_offset"),
    unused(8),
    i64("cpu_clock_offset"),
};
constexpr Subsection timerSubsections[] = {
    refused("timer/icount", "instruction counting is not offered"),
};

constexpr Field reliableFields[] = {
    boolean("clock_is_reliable"),
};
constexpr Schema reliable{"kvmclock/clock_is_reliable", 1, reliableFields};
constexpr Field kvmclockFields[] = {
    u64("clock"),
};
constexpr Subsection kvmclockSubsections[] = {
    admitted(reliable),
};

constexpr Field airlockPmFields[] = {
    u16("pm1_sts"),
    u16("pm1_en"),
    u16("pm1_cnt"),
};

} // namespace

const Schema timer{"timer", 2, timerFields, timerSubsections};
const Schema kvmclock{"kvmclock", 1, kvmclockFields, kvmclockSubsections};
const Schema airlockPm{"airlock-pm", 1, airlockPmFields};

} // namespace airlock::handover::tables
