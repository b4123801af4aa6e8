#include "boot_jobs.hpp"
#include "bootd_rig.hpp"
#include "devmodel/vm/guest_shell.hpp"
#include "devmodel/vm/hand_over.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <thread>

namespace airlock::test
{
namespace
{

using Clock = std::chrono::steady_clock;
using boot::JobState;

constexpr Milliseconds bootTime = std::chrono::minutes(15);

double secondsSince(Clock::time_point start)
{
    return std::chrono::duration<double>(Clock::now() - start).count();
}

void expectRuns(vm::ProductionVm& production)
{
    vm::GuestShell shell(production.machine());
    EXPECT_NO_THROW(shell.checkDisk(std::chrono::minutes(2)));
    EXPECT_EQ(shell.run("cat /proc/sys/kernel/ostype", std::chrono::minutes(1)),
              "Linux\n");
}

TEST(BootServer, bootsAGuestWhichThenRunsOnTheProductionMachine)
{
    BootdRig rig;
    GuestFiles files({});
    auto production = files.startProduction();
    production->releaseDisks();
    boot::Client client = rig.client();
    EXPECT_EQ(client.health().bootsMax, 2U);

    Clock::time_point start = Clock::now();
    const GuestJob job(files);
    std::string id = job.upload(client);
    client.seal(id);
    boot::JobStatus status = waitFinished(client, id, bootTime);
    ASSERT_EQ(status.state, JobState::done)
        << dumpJson(status.toJson()) << rig.log();
    Clock::time_point fetch = Clock::now();
    handover::Bundle bundle = job.fetchBundle(client, id);
    EXPECT_GT(job.applyDelta(client, status), 0U);
    std::printf("fetch: %.2f s; whole job: %.2f s; stages: %s\n",
                secondsSince(fetch), secondsSince(start),
                dumpJson(status.seconds).c_str());
    vm::handOver(*production, bundle, job.request().job);
    expectRuns(*production);

    client.remove(id);
    EXPECT_EQ(client.status(id).state, JobState::gone);
    EXPECT_EQ(client.health().bytes, 0U);
    EXPECT_EQ(rig.stop(), 0);
}

TEST(BootServer, aBootThatIsKilledWithItsServerIsDoneAgain)
{
    BootdRig rig;
    GuestFiles files({});
    std::string id;
    const GuestJob job(files);
    {
        boot::Client client = rig.client();
        id = job.upload(client);
        client.seal(id);
        Deadline deadline{std::chrono::minutes(2)};
        while (client.status(id).stage != "boot" && !deadline.passed())
        {
            std::this_thread::sleep_for(Milliseconds(50));
        }
        EXPECT_EQ(client.status(id).stage, "boot");
        std::this_thread::sleep_for(std::chrono::seconds(5));
    }
    rig.kill();
    rig.start();
    boot::Client client = rig.client();
    boot::JobStatus status = waitFinished(client, id, bootTime);
    EXPECT_EQ(status.state, JobState::done) << dumpJson(status.toJson());
    EXPECT_EQ(status.tries, 2U);
    EXPECT_NO_THROW(job.fetchBundle(client, id));
}

TEST(BootServer, aGuestThatDoesNotComeUpFailsItsJobInTime)
{
    BootdRig rig;
    boot::JobRequest request = smallRequest();
    request.policy = "serial:nothing says this";
    request.timeout = std::chrono::seconds(3);
    boot::Client client = rig.client();
    std::string id = uploadSmall(client, request);
    client.seal(id);
    boot::JobStatus status = waitFinished(client, id, std::chrono::minutes(2));
    EXPECT_EQ(status.state, JobState::failed);
    EXPECT_EQ(status.error->code, "timeout") << status.error->message;
}

TEST(BootServer, removingAJobEndsItsBoot)
{
    BootdRig rig("parallel = 1\n");
    boot::JobRequest request = smallRequest();
    request.policy = "after:100";
    boot::Client client = rig.client();
    std::string first = uploadSmall(client, request);
    client.seal(first);
    std::string second = uploadSmall(client, smallRequest());
    client.seal(second);
    Deadline deadline{std::chrono::minutes(1)};
    while (client.status(first).stage != "boot" && !deadline.passed())
    {
        std::this_thread::sleep_for(Milliseconds(50));
    }
    EXPECT_EQ(client.status(second).state, JobState::queued);
    client.remove(first);
    EXPECT_EQ(waitFinished(client, second, std::chrono::minutes(2)).state,
              JobState::done);
}

} // namespace
} // namespace airlock::test
