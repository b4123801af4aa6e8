#include "common/deadline.hpp"
#include "common/epoch_address.hpp"
#include "common/quarantine.hpp"
#include "tests/switch/switch_rig.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace airlock::test
{
namespace
{

using namespace std::chrono_literals;
using sw::Enrolment;
using sw::Method;
using sw::SwitchAgent;

/** Not IP: with br_netfilter, the bridge drops what is no good IP. */
constexpr std::uint16_t data = 0x6003;

Secret rootOf(std::uint8_t byte)
{
    Bytes bytes(Secret::size, byte);
    return Secret::from(bytes, "root");
}

/** The agent in this process, on a real bridge. */
class Switch : public ::testing::Test
{
  protected:
    Switch()
    {
        settings.state = rig.directory() / "state";
        settings.lease = 60s;
        settings.ports = {{"boot0"}, {"boot1"}};
    }

    ~Switch() override { stop(); }

    void start()
    {
        agent.emplace(settings, [this](const Json& event) {
            std::lock_guard lock(mutex);
            events.push_back(event);
        });
        thread = std::jthread(
            [this](const std::stop_token& token) { agent->run(token, [] {}); });
    }

    void stop()
    {
        thread = {};
        agent.reset();
    }

    void enroll(const std::string& port, Method method, std::uint8_t root)
    {
        Enrolment out;
        out.host = "host-" + port;
        out.method = method;
        out.root = rootOf(root);
        agent->enroll(port, out);
    }

    std::string state(const std::string& port)
    {
        return agent->status(port)["state"];
    }

    bool waitFor(const std::string& port, const std::string& wanted)
    {
        for (Deadline deadline(10s); !deadline.passed();)
        {
            if (state(port) == wanted)
            {
                return true;
            }
            std::this_thread::sleep_for(5ms);
        }
        return false;
    }

    /** What the boot host at the port sends as its proof. */
    Bytes hello(Method method, std::uint8_t root, std::uint64_t epoch)
    {
        quarantine::Frame out;
        out.source = epoch::hostAddress(rootOf(root), epoch);
        out.destination = method == Method::mac96
                              ? epoch::switchAddress(rootOf(root), epoch)
                              : quarantine::agentAddress;
        return quarantine::write(out);
    }

    SwitchRig rig;
    sw::AgentSettings settings;
    std::optional<SwitchAgent> agent;
    std::jthread thread;
    std::mutex mutex;
    std::vector<Json> events;
    const MacAddress prod = mac("06:00:00:00:00:01");
};

TEST_F(Switch, OpensForTheAddressOfTheEpochAndForNoOther)
{
    start();
    enroll("boot0", Method::mac96, 7);
    MacAddress address = epoch::hostAddress(rootOf(7), 1);
    rig.settle();
    EXPECT_EQ(rig.count(rig.through("boot0", frame(prod, address, data))), 0U);
    EXPECT_EQ(rig.count(rig.through("boot0", frame(everybody, address, data))),
              0U);

    EXPECT_EQ(rig.count(rig.through("boot0", hello(Method::mac96, 7, 1))), 0U);
    ASSERT_TRUE(waitFor("boot0", "open"));

    auto seen = rig.through("boot0", frame(everybody, address, data));
    EXPECT_EQ(seen["prod0"].size(), 1U);
    EXPECT_EQ(seen["prod1"].size(), 1U);
    EXPECT_EQ(rig.count(seen, {"prod0", "prod1"}), 0U);
    seen = rig.through("prod0", frame(address, prod, data));
    EXPECT_EQ(seen["boot0"].size(), 1U);
    EXPECT_EQ(rig.count(seen, {"boot0"}), 0U);
    seen =
        rig.through("boot0", frame(everybody, mac("06:00:00:00:00:66"), data));
    EXPECT_EQ(rig.count(seen), 0U);

    agent->cut("boot0", "test");
    EXPECT_EQ(state("boot0"), "cut-off");
    EXPECT_EQ(rig.count(rig.through("boot0", frame(everybody, address, data))),
              0U);
    EXPECT_EQ(rig.count(rig.through("prod0", frame(address, prod, data))), 0U);
}

} // namespace
} // namespace airlock::test
