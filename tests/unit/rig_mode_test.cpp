#include "bootsrv/capsule/supervisor.hpp"
#include "common/error.hpp"
#include "tools/rigs/isolated_rig.hpp"

#include <gtest/gtest.h>

namespace airlock::rig
{
namespace
{

TEST(RigMode, IsTheLastOneInTheLog)
{
    EXPECT_EQ(modeIn(""), "off");
    EXPECT_EQ(modeIn("A mode ended MODE=dirty\n"), "off");
    const std::string clean = "A mode starts CAPSULE=one MODE=clean\n";
    const std::string dirty = "A mode starts MODE=dirty CAPSULE=one\n";
    EXPECT_EQ(modeIn(clean + "The power goes MODE=dirty\n"), "clean");
    EXPECT_EQ(modeIn(clean + dirty + "something\n"), "dirty");
    EXPECT_THROW(modeIn(clean + "A mode starts CAPSULE=one\n"), Error);
}

TEST(RigMode, IsWhatASupervisorSays)
{
    std::stop_source stop;
    capsule::Supervisor supervisor(
        "one",
        [&](bool) -> std::unique_ptr<capsule::ModeAtWork> {
            stop.request_stop();
            throw Error("there is no such machine");
        },
        {});
    testing::internal::CaptureStderr();
    supervisor.run(stop.get_token());
    EXPECT_EQ(modeIn(testing::internal::GetCapturedStderr()), "clean");
}

} // namespace
} // namespace airlock::rig
