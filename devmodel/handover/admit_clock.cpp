#include "devmodel/handover/admit_rules.hpp"

// Clocks and the power management block.

namespace airlock::handover::rules
{

namespace
{

/** No TSC counts faster than 8 GHz. */
std::int64_t maxTicks(const Environment& env)
{
    return env.maxUptimeNs * 8;
}

void withinTime(const Subject& subject, std::string_view field,
                std::int64_t limit)
{
    const auto value = static_cast<std::int64_t>(subject[field]);
    subject.require(value >= 0 && value <= limit, field, subject[field],
                    "is beyond the longest boot that is allowed");
}

} // namespace

// With the machine stopped, cpu_ticks_offset is the TSC under TCG and
// cpu_clock_offset the virtual clock, on which every timer is set
// (system/cpu-timers.c: cpu_disable_ticks()). Both start at 0 with the
// process. A clock near the end of its range would make QEMU's timer
// arithmetic overflow.
void timer(Subject& subject)
{
    withinTime(subject, "cpu_ticks_offset", maxTicks(subject.env));
    withinTime(subject, "cpu_clock_offset", subject.env.maxUptimeNs);
}

// With clock_is_reliable unset, QEMU works the clock out from a structure in
// guest memory and asserts that it makes sense (hw/i386/kvm/clock.c:
// kvmclock_current_nsec()): the guest could end its QEMU.
void kvmclock(Subject& subject)
{
    withinTime(subject, "clock", subject.env.maxUptimeNs);
    const Record* reliable =
        std::as_const(subject.state).subsection("kvmclock/clock_is_reliable");
    subject.require(reliable && reliable->number("clock_is_reliable") == 1,
                    "clock_is_reliable", "is not set");
}

// The bits that the device has; pm1_sts also from a power button pressed
// during the boot. The device does the same check in post_load.
void airlockPm(Subject& subject)
{
    constexpr std::uint64_t globalLock = 1U << 5;
    constexpr std::uint64_t rtcAlarm = 1U << 10;
    constexpr std::uint64_t powerButton = 1U << 8;
    constexpr std::uint64_t busMasterReload = 1U << 1;
    constexpr std::uint64_t sleepType = 7U << 10;
    subject.onlyBits("pm1_sts", powerButton);
    subject.onlyBits("pm1_en", globalLock | powerButton | rtcAlarm);
    subject.onlyBits("pm1_cnt", busMasterReload | sleepType);
}

} // namespace airlock::handover::rules
