/** Twelve guests of two tenants on one production host, one boot server: all
 * are started at once, then all are reset at once. All come back, none starves,
 * and the limits on jobs and boots at once are kept. */
#include "hostagent/control/protocol.hpp"
#include "tools/rigs/host_rig.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <map>
#include <thread>

namespace airlock::test
{

using namespace rig;

namespace
{

constexpr unsigned guestsEach = 6;
constexpr std::size_t jobsAtOnce = 3;
constexpr std::size_t bootsAtOnce = 2;
constexpr Milliseconds stormTime = std::chrono::minutes(15);
/** From a reset to the place in the queue. */
constexpr Milliseconds settleTime = std::chrono::seconds(2);

/** All of one tenant come first: served by order of arrival, the other would
 * have to wait for all of them. */
std::vector<DomainCase> domains()
{
    std::vector<DomainCase> out;
    for (const char* tenant : {"green", "blue"})
    {
        for (unsigned i = 1; i <= guestsEach; i++)
        {
            DomainCase domain;
            domain.name = fmt::format("{}-{}", tenant, i);
            domain.guest = {"tiny", 1, 160ULL << 20, true};
            domain.tenant = tenant;
            out.push_back(domain);
        }
    }
    return out;
}

struct Job
{
    std::string started; ///< as protocol.hpp writes times: they sort as text
    std::string freed;   ///< when its slot was, before its delta was applied
    std::string tenant;
    std::string result;
};

/** A time that much earlier. */
std::string before(const std::string& time, double seconds)
{
    std::tm parts = {};
    const char* rest = ::strptime(time.c_str(), "%Y-%m-%dT%H:%M:%S", &parts);
    if (rest == nullptr)
    {
        throw Error(time + " is no time");
    }
    using std::chrono::milliseconds;
    using std::chrono::system_clock;
    auto whole = std::chrono::time_point_cast<milliseconds>(
        system_clock::from_time_t(::timegm(&parts)));
    double milli = std::strtod(rest, nullptr) * 1000 - seconds * 1000;
    return host::control::timeText(
        whole + milliseconds(static_cast<std::int64_t>(milli)));
}

std::vector<Job> jobsOf(const HostRig& rig, std::uint64_t generation)
{
    std::vector<Job> out;
    Json reply = rig.ask("jobs", {{"limit", 1000}});
    for (const Json& job : reply.at("jobs"))
    {
        if (job.at("generation") == generation)
        {
            // The slowest of them must not keep a slot from the others.
            std::string freed =
                job.at("ended").is_null()
                    ? ""
                    : before(job.at("ended"),
                             job.at("seconds").value("applying", 0.0));
            out.push_back(
                {job.at("started"), freed, job.at("tenant"), job.at("result")});
        }
    }
    std::ranges::sort(out, {}, &Job::started);
    return out;
}

void expectLimitKept(const std::vector<Job>& jobs)
{
    std::size_t most = 0;
    for (const Job& job : jobs)
    {
        auto open = [&](const Job& other) {
            return other.started <= job.started && other.freed > job.started;
        };
        most = std::max<std::size_t>(
            most, static_cast<std::size_t>(std::ranges::count_if(jobs, open)));
    }
    EXPECT_LE(most, jobsAtOnce);
    EXPECT_EQ(most, jobsAtOnce) << "the limit was never reached: no storm";
}

/** While both tenants wait, their jobs start by turns. Two that start in the
 * same moment may be noted the wrong way round. */
void expectTurns(const std::vector<Job>& jobs, const std::string& allWaiting,
                 unsigned atLeast)
{
    std::map<std::string, unsigned> left;
    for (const Job& job : jobs)
    {
        left[job.tenant]++;
    }
    int ahead = 0;
    unsigned judged = 0;
    for (const Job& job : jobs)
    {
        if (job.started > allWaiting && left["green"] > 0 && left["blue"] > 0)
        {
            ahead += job.tenant == "green" ? 1 : -1;
            EXPECT_LE(std::abs(ahead), 2)
                << job.tenant << " had too many turns at " << job.started;
            judged++;
        }
        left[job.tenant]--;
    }
    EXPECT_GE(judged, atLeast) << "too few had to wait for each other";
}

/** Boots at once, by the order of the boot server's own words. */
void expectBootLimitKept(const HostRig& rig)
{
    std::string log = readTextFile(rig.path() / "bootd.log", 64U << 20);
    std::size_t running = 0;
    std::size_t most = 0;
    for (std::size_t at = log.find("A boot "); at != std::string::npos;
         at = log.find("A boot ", at + 1))
    {
        if (log.compare(at, 13, "A boot begins") == 0)
        {
            most = std::max(most, ++running);
        }
        else if (log.compare(at, 14, "A boot is done") == 0 && running > 0)
        {
            running--;
        }
    }
    EXPECT_EQ(most, bootsAtOnce);
}

std::string nowText()
{
    return host::control::timeText(
        std::chrono::time_point_cast<std::chrono::milliseconds>(
            std::chrono::system_clock::now()));
}

/** Returns when all guests live again, and looks at how they came back. */
void weather(HostRig& rig, std::uint64_t generation,
             const std::function<void(HostedGuest&)>& strike,
             std::vector<std::string>& lives)
{
    SCOPED_TRACE(fmt::format("storm {}", generation));
    for (std::size_t i = 0; i < rig.guestCount(); i++)
    {
        strike(rig.guest(i));
    }
    std::this_thread::sleep_for(settleTime);
    std::string allWaiting = nowText();
    Deadline deadline(stormTime);
    for (std::size_t i = 0; i < rig.guestCount(); i++)
    {
        lives.at(i) = rig.guest(i).waitOtherLife(lives.at(i), deadline.left());
        EXPECT_EQ(rig.guest(i).run(generation == 1
                                       ? "test -e /root/name || echo none"
                                       : "cat /root/name"),
                  generation == 1 ? "none\n" : rig.guest(i).name() + "\n");
    }
    std::vector<Job> jobs = jobsOf(rig, generation);
    ASSERT_EQ(jobs.size(), rig.guestCount());
    for (const Job& job : jobs)
    {
        EXPECT_EQ(job.result, "done");
    }
    expectLimitKept(jobs);
    // Starting is slow: the first are back before the last have begun.
    expectTurns(jobs, allWaiting, generation == 1 ? 0 : guestsEach);
    fmt::print("storm {}: {} guests back, first job {}, last slot free {}\n",
               generation, jobs.size(), jobs.front().started,
               std::ranges::max(jobs, {}, &Job::freed).freed);
    std::fflush(stdout);
}

TEST(Storm, AllComeBackAndTenantsTakeTurns)
{
    HostRig rig(domains(), {.reboot = fmt::format("jobs = {}", jobsAtOnce),
                            .boot = fmt::format("parallel = {}", bootsAtOnce)});
    std::vector<std::string> lives(rig.guestCount());
    weather(
        rig, 1, [](HostedGuest& guest) { guest.start(); }, lives);
    if (HasFailure())
    {
        return;
    }
    for (std::size_t i = 0; i < rig.guestCount(); i++)
    {
        rig.guest(i).run(fmt::format("echo {} >/root/name && sync /root/name",
                                     rig.guest(i).name()));
    }
    weather(
        rig, 2,
        [&rig](HostedGuest& guest) {
            rig.libvirt().virsh({"reset", guest.name()});
        },
        lives);
    expectBootLimitKept(rig);
}

} // namespace
} // namespace airlock::test
