#include "bootd_rig.hpp"
#include "common/error.hpp"
#include "devmodel/handover/guest_memory.hpp"
#include "devmodel/vm/guest_shell.hpp"
#include "devmodel/vm/hand_over.hpp"
#include "guest_files.hpp"

#include <fcntl.h>
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

/** A guest of ours as a job: the boot server gets its disk over the wire. */
class CloudJob
{
  public:
    explicit CloudJob(const GuestFiles& files) : files_(files)
    {
        request_.job =
            handover::JobTicket::issue(files.spec().uuid, ++generations_);
        request_.guest = files.spec();
        request_.guest.disks.clear();
        for (const vm::Disk& disk : files.spec().disks)
        {
            request_.disks.push_back(
                {std::filesystem::file_size(disk.image), disk.readOnly});
        }
        request_.timeout = std::chrono::minutes(10);
        request_.tenant = "blue";
    }

    const boot::JobRequest& request() const { return request_; }

    std::string upload(boot::Client& client)
    {
        std::string id = client.createJob(request_).id;
        UniqueFd fd = openFile(files_.spec().disks[0].image, O_RDONLY);
        handover::FileImage image(fd.get(), request_.disks[0].bytes);
        Clock::time_point start = Clock::now();
        handover::MemoryFigures sent = client.uploadDisk(id, 0, image);
        double time = secondsSince(start);
        double mib = static_cast<double>(sent.bytes()) / (1U << 20);
        std::printf("upload: %.0f MiB in %.2f s, %.0f MiB/s\n", mib, time,
                    mib / time);
        client.seal(id);
        return id;
    }

  private:
    static inline std::uint64_t generations_ = 0;
    const GuestFiles& files_;
    boot::JobRequest request_;
};

/** Changes a disk as the production host would, here in its file. */
void applyDelta(boot::Client& client, const std::string& id,
                const boot::JobStatus& status, const vm::Disk& disk)
{
    std::uint64_t bytes = std::filesystem::file_size(disk.image);
    UniqueFd fd = openFile(disk.image, O_RDWR);
    handover::ImageFile file(fd.get(), bytes);
    handover::ImageStreamReader reader(
        bytes,
        [&file](const handover::ImageChunk& chunk) { file.write(chunk); });
    client.fetchDisk(id, 0, status.result->disks.at(0).value(),
                     [&reader](ByteView data) { reader.feed(data); });
    reader.finish();
    std::printf("delta: %llu pages\n",
                static_cast<unsigned long long>(reader.pages()));
    EXPECT_GT(reader.pages(), 0U);
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
    CloudJob job(files);
    std::string id = job.upload(client);
    boot::JobStatus status = rig.waitFinished(client, id, bootTime);
    ASSERT_EQ(status.state, JobState::done)
        << dumpJson(status.toJson()) << rig.log();
    Clock::time_point fetch = Clock::now();
    handover::Bundle bundle = client.fetchBundle(id, [&](const auto& manifest) {
        vm::requireAnswer(manifest, job.request().job, files.spec());
    });
    applyDelta(client, id, status, files.spec().disks[0]);
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
    CloudJob job(files);
    {
        boot::Client client = rig.client();
        id = job.upload(client);
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
    boot::JobStatus status = rig.waitFinished(client, id, bootTime);
    EXPECT_EQ(status.state, JobState::done) << dumpJson(status.toJson());
    EXPECT_EQ(status.tries, 2U);
    client.fetchBundle(id, [&](const auto& manifest) {
        manifest.requireJob(job.request().job);
    });
}

TEST(BootServer, aGuestThatDoesNotComeUpFailsItsJobInTime)
{
    BootdRig rig;
    boot::JobRequest request = smallRequest(1U << 20);
    request.policy = "serial:nothing says this";
    request.timeout = std::chrono::seconds(3);
    boot::Client client = rig.client();
    std::string id = client.createJob(request).id;
    UniqueFd disk = createMemfd("disk", 1U << 20);
    handover::FileImage image(disk.get(), 1U << 20);
    client.uploadDisk(id, 0, image);
    client.seal(id);
    boot::JobStatus status =
        rig.waitFinished(client, id, std::chrono::minutes(2));
    EXPECT_EQ(status.state, JobState::failed);
    EXPECT_EQ(status.error->code, "timeout") << status.error->message;
}

TEST(BootServer, removingAJobEndsItsBoot)
{
    BootdRig rig("parallel = 1\n");
    boot::JobRequest request = smallRequest(1U << 20);
    request.policy = "after:100";
    boot::Client client = rig.client();
    std::string first = client.createJob(request).id;
    UniqueFd disk = createMemfd("disk", 1U << 20);
    handover::FileImage image(disk.get(), 1U << 20);
    client.uploadDisk(first, 0, image);
    client.seal(first);
    boot::JobRequest next = smallRequest(1U << 20);
    std::string second = client.createJob(next).id;
    client.uploadDisk(second, 0, image);
    client.seal(second);
    Deadline deadline{std::chrono::minutes(1)};
    while (client.status(first).stage != "boot" && !deadline.passed())
    {
        std::this_thread::sleep_for(Milliseconds(50));
    }
    EXPECT_EQ(client.status(second).state, JobState::queued);
    client.remove(first);
    EXPECT_EQ(rig.waitFinished(client, second, std::chrono::minutes(2)).state,
              JobState::done);
}

} // namespace
} // namespace airlock::test
