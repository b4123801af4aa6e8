/** Debian guests through the whole path: trapped cold, booted on the full
 * machine, handed over, asked, rebooted from inside, and once more. */
#include "guest_rig.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string_view>
#include <vector>

namespace airlock::test
{
namespace
{

constexpr std::uint64_t gib = 1ULL << 30;
constexpr Milliseconds powerOffTime = std::chrono::minutes(2);

/** tools/check --full takes each kernel with each number of vCPUs; CI a row
 * for every kind of kernel, interrupt and memory layout. */
std::vector<GuestCase> cases()
{
    std::vector<GuestCase> out = {
        {"standard", 2, gib, true},
        {"cloud", 1, gib, false},
        {"cloud", 4, 5 * gib, true},
    };
    const char* full = std::getenv("AIRLOCK_FULL");
    if (full != nullptr && std::string_view(full) == "1")
    {
        out.insert(out.end(), {{"standard", 1, gib, true},
                               {"standard", 4, gib, true},
                               {"standard", 2, gib, false},
                               {"standard", 2, 5 * gib, true},
                               {"cloud", 1, gib, true},
                               {"cloud", 2, gib, true},
                               {"cloud", 4, gib, true},
                               {"cloud", 8, gib, true}});
    }
    return out;
}

class Guests : public testing::TestWithParam<GuestCase>
{};

void expectTrappedByPort(const vm::Trap& trap, std::uint64_t count)
{
    EXPECT_EQ(trap.cause, "port");
    EXPECT_TRUE(trap.port == 0x64 || trap.port == 0xcf9) << describe(trap);
    EXPECT_EQ(trap.count, count);
}

TEST_P(Guests, LiveRebootAndPowerOff)
{
    GuestRig rig(GetParam());
    vm::CycleReport first = rig.boot();
    EXPECT_FALSE(first.handOver.dropped.empty());
    rig.expectWell();
    std::string firstBoot = rig.lastReport().at("boot_id");

    expectTrappedByPort(rig.rebootFromInside(), 2);
    rig.boot();
    rig.expectWell();
    EXPECT_NE(rig.lastReport().at("boot_id"), firstBoot);

    // ACPI S5 is one of the few things that the production machine can do.
    vm::Machine& machine = rig.production().machine();
    machine.console().sendLine("systemctl poweroff");
    Deadline deadline(powerOffTime);
    while (machine.process().running() && !deadline.passed())
    {
        machine.process().wait(Milliseconds(200));
    }
    EXPECT_FALSE(machine.process().running()) << "the guest is still on";
}

INSTANTIATE_TEST_SUITE_P(Debian, Guests, testing::ValuesIn(cases()),
                         [](const auto& guest) { return guest.param.name(); });

} // namespace
} // namespace airlock::test
