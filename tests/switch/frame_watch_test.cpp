#include "tests/switch/switch_fixture.hpp"
#include "tools/rigs/frame_watch.hpp"

#include <csignal>

/** What tools/rig and the demo say of frames at the switch. */
namespace airlock::test
{
namespace
{

using rig::SwitchedHosts;

class FrameWatchTest : public testing::Test
{
  protected:
    FrameWatchTest()
    {
        net.boot().run([this] {
            runTool({"ip", "link", "set", "eth0", "up"});
            end = std::make_unique<CableEnd>("eth0");
        });
        net.startAgent();
        net.call("enroll", {{"port", SwitchedHosts::bootPort},
                            {"host", "boot1"},
                            {"method", "mac96"},
                            {"root", toHex(rootOf(7).view())}});
    }

    void open(std::uint64_t epoch)
    {
        for (Deadline deadline(20s); net.port()["state"] != "open";)
        {
            ASSERT_FALSE(deadline.passed()) << net.log();
            end->send(hello(Method::mac96, 7, epoch));
            std::this_thread::sleep_for(50ms);
        }
    }

    void say(unsigned times, std::uint64_t epoch)
    {
        for (unsigned i = 0; i < times; i++)
        {
            end->send(frame(everybody, epoch::hostAddress(rootOf(7), epoch),
                            dataType));
        }
    }

    TempDirectory directory{"airlock-watch"};
    const pki::Credential authority = pki::makeAuthority("test");
    SwitchedHosts net{directory.path(), authority};
    std::unique_ptr<CableEnd> end;
};

TEST_F(FrameWatchTest, CountsByWhatThePortWas)
{
    rig::FrameWatch watch(net);
    say(4, 1);
    open(1);
    say(3, 1);
    std::this_thread::sleep_for(200ms); // they are through
    net.call("cut", {{"port", SwitchedHosts::bootPort}});
    std::this_thread::sleep_for(20ms); // the next ones are not of before
    say(5, 1);
    std::this_thread::sleep_for(200ms);
    const auto periods = watch.periods();
    ASSERT_EQ(periods.size(), 3U) << net.log();
    EXPECT_FALSE(periods[0].open);
    EXPECT_GE(periods[0].sent, 4U);
    EXPECT_EQ(periods[0].passed, 0U);
    EXPECT_TRUE(periods[1].open);
    EXPECT_GE(periods[1].passed, 3U);
    EXPECT_FALSE(periods[2].open);
    EXPECT_EQ(periods[2].why, "an operator asked for it");
    EXPECT_GE(periods[2].sent, 5U);
    EXPECT_EQ(periods[2].passed, 0U);
    EXPECT_FALSE(periods[2].end);
}

/** Without the agent's fence it would tell. */
TEST_F(FrameWatchTest, TellsWhatComesThroughAShutPort)
{
    rig::FrameWatch watch(net);
    net.agent().signal(SIGSTOP); // it would put that right
    net.theSwitch().run([] {
        runTool({"nft", "flush", "ruleset"});
        runTool({"bridge", "link", "set", "dev", SwitchedHosts::bootPort,
                 "locked", "off", "learning", "on", "isolated", "off"});
    });
    say(3, 1);
    std::this_thread::sleep_for(200ms);
    net.agent().signal(SIGCONT);
    EXPECT_GE(watch.periods().front().passed, 1U);
}

} // namespace
} // namespace airlock::test
