/** One guest reboots from inside again and again, each time through the whole
 * path, in one production QEMU. AIRLOCK_COUNT says how often; the boot before
 * the first reboot does not count. */
#include "guest_rig.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>
#include <string>

namespace airlock::test
{
namespace
{

unsigned roundsWanted()
{
    const char* count = std::getenv("AIRLOCK_COUNT");
    return count == nullptr ? 5U : static_cast<unsigned>(std::stoul(count));
}

TEST(Soak, RebootsFromInside)
{
    GuestRig rig({"cloud", 2, 1ULL << 30, true});
    std::set<std::string> boots;
    rig.boot();
    rig.expectWell();
    boots.insert(rig.lastReport().at("boot_id").get<std::string>());
    for (unsigned round = 1; round <= roundsWanted(); round++)
    {
        SCOPED_TRACE(fmt::format("round {}", round));
        vm::Trap trap = rig.rebootFromInside();
        ASSERT_EQ(trap.cause, "port");
        ASSERT_EQ(trap.count, round + 1);
        vm::CycleReport report = rig.boot();
        rig.expectWell();
        boots.insert(rig.lastReport().at("boot_id").get<std::string>());
        fmt::print("round {}: {:.1f} s from trap to running, of it {:.3f} s "
                   "hand-over\n",
                   round, report.seconds(), report.handOver.seconds());
        std::fflush(stdout);
        if (HasFailure())
        {
            return;
        }
    }
    EXPECT_EQ(boots.size(), roundsWanted() + 1) << "a boot id came twice";
}

} // namespace
} // namespace airlock::test
