#pragma once

#include "common/deadline.hpp"
#include "common/epoch_address.hpp"
#include "common/quarantine.hpp"
#include "tests/switch/switch_rig.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <thread>

namespace airlock::test
{

using namespace std::chrono_literals;
using sw::Enrolment;
using sw::Method;
using sw::SwitchAgent;

inline Secret rootOf(std::uint8_t byte)
{
    return Secret::key(Bytes(Secret::keySize, byte), "root");
}

/** What a boot host in clean mode sends in this epoch. */
inline Bytes hello(Method method, std::uint8_t root, std::uint64_t epoch)
{
    quarantine::Frame out;
    out.source = epoch::hostAddress(rootOf(root), epoch);
    out.destination = method == Method::mac96
                          ? epoch::switchAddress(rootOf(root), epoch)
                          : quarantine::agentAddress;
    return quarantine::write(out);
}

/** The agent in this process, on a real bridge. Two boot ports are enrolled
 * with mac96, boot0 with root 7 and boot1 with root 8. */
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
        thaw();
    }

    void thaw()
    {
        thread = std::jthread(
            [this](const std::stop_token& token) { agent->run(token, [] {}); });
    }

    void startEnrolled()
    {
        start();
        enroll("boot0", Method::mac96, 7);
        enroll("boot1", Method::mac96, 8);
        rig.settle();
    }

    /** The agent is there and does nothing more, as if it hung. */
    void freeze() { thread = {}; }

    void stop()
    {
        freeze();
        agent.reset();
    }

    void enroll(const std::string& port, Method method, std::uint8_t root)
    {
        Enrolment out;
        out.host = "host-" + port;
        out.method = method;
        out.root = std::make_shared<Secret>(rootOf(root));
        agent->enroll(port, out);
    }

    void openPort(const std::string& port, std::uint64_t epoch = 1)
    {
        std::uint8_t root = port == "boot0" ? 7 : 8;
        rig.through(port, hello(Method::mac96, root, epoch));
        ASSERT_TRUE(becomes(port, "open"));
        rig.settle();
    }

    /** As a boot host does whose links have just changed: the agent may still
     * have news of that, and end the lease again. Returns the epoch that holds.
     */
    std::uint64_t openAgain(const std::string& port)
    {
        std::uint64_t epoch = 0;
        EXPECT_TRUE(eventually([&] {
            if (state(port) == "open" && epoch != 0)
            {
                return true;
            }
            epoch = status(port)["epoch"].get<std::uint64_t>() + 1;
            rig.through(port,
                        hello(Method::mac96, port == "boot0" ? 7 : 8, epoch));
            std::this_thread::sleep_for(200ms);
            return false;
        }));
        rig.settle();
        return epoch;
    }

    Json status(const std::string& port) { return agent->status(port); }
    std::string state(const std::string& port) { return status(port)["state"]; }

    template <typename Condition>
    static bool eventually(Condition&& condition)
    {
        for (Deadline deadline(20s); !deadline.passed();)
        {
            if (condition())
            {
                return true;
            }
            std::this_thread::sleep_for(10ms);
        }
        return false;
    }

    bool becomes(const std::string& port, const std::string& wanted)
    {
        return eventually([&] { return state(port) == wanted; });
    }

    /** How many frames come out of any other port. */
    std::size_t leaks(const std::string& port, ByteView bytes)
    {
        auto seen = rig.through(port, bytes);
        std::size_t out = rig.count(seen, {port});
        if (out > 0)
        {
            std::cout << rig.describe(seen); // tells what it was
        }
        return out;
    }

    /** Whether a broadcast from this address comes out of any other port. */
    bool passes(const std::string& port, const MacAddress& address)
    {
        auto seen = rig.through(port, frame(everybody, address, dataType));
        return std::any_of(seen.begin(), seen.end(), [&](const auto& one) {
            return std::any_of(one.second.begin(), one.second.end(),
                               [&](const Caught& caught) {
                                   return caught.source() == address;
                               });
        });
    }

    /** What the kernel's own tool says about a port's addresses. */
    static std::vector<Json> tableOf(const std::string& port)
    {
        Json all = parseJson(
            runTool({"bridge", "-j", "fdb", "show", "br", "br0"}), "bridge");
        std::vector<Json> out;
        for (const Json& entry : all)
        {
            bool own = entry.value("state", "") == "permanent";
            if (entry.value("ifname", "") == port && !own)
            {
                out.push_back(entry);
            }
        }
        return out;
    }

    static Json linkOf(const std::string& port)
    {
        Json all = parseJson(runTool({"bridge", "-j", "-d", "link"}), "bridge");
        for (const Json& link : all)
        {
            if (link.value("ifname", "") == port)
            {
                return link;
            }
        }
        return nullptr;
    }

    static bool isUp(const std::string& port)
    {
        Json links = parseJson(
            runTool({"ip", "-j", "link", "show", "up", "dev", port}), "ip");
        return !links.empty() && links[0].contains("ifname");
    }

    /** Whether there was such an event. */
    bool told(const std::string& what)
    {
        std::lock_guard lock(mutex);
        return std::any_of(
            events.begin(), events.end(),
            [&](const Json& event) { return event["what"] == what; });
    }

    MacAddress address(const std::string& port, std::uint64_t epoch = 1)
    {
        return epoch::hostAddress(rootOf(port == "boot0" ? 7 : 8), epoch);
    }

    SwitchRig rig;
    sw::AgentSettings settings;
    std::mutex mutex;
    std::vector<Json> events;
    std::optional<SwitchAgent> agent;
    std::jthread thread;
    const MacAddress prod = mac("06:00:00:00:00:01");
    const MacAddress stranger = mac("06:00:00:00:00:66");
};

} // namespace airlock::test
