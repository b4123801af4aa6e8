#include "devmodel/vm/guest_shell.hpp"
#include "devmodel/vm/hand_over.hpp"
#include "tests/integration/guest_files.hpp"
#include "tests/machine/machine_life.hpp"
#include "tests/machine/machine_rig.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

/** Whole lives of a machine with a real guest: clean, dirty, clean. */
namespace airlock::test
{
namespace
{

using boot::JobState;

constexpr Milliseconds bootTime = std::chrono::minutes(15);
constexpr std::uint64_t stagingBytes = 4ULL << 30;

/** A tiny guest of ours as a job. */
class TinyJob
{
  public:
    explicit TinyJob(const GuestFiles& files) : files_(files)
    {
        request_.job = handover::JobTicket::issue(files.spec().uuid, 1);
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

    std::string upload(boot::Client& client) const
    {
        std::string id = client.createJob(request_).id;
        UniqueFd fd = openFile(files_.spec().disks[0].image, O_RDONLY);
        handover::FileImage image(fd.get(), request_.disks[0].bytes);
        client.uploadDisk(id, 0, image);
        return id;
    }

  private:
    const GuestFiles& files_;
    boot::JobRequest request_;
};

/** Changes a disk as the production host would. */
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
    EXPECT_GT(reader.pages(), 0U);
}

boot::JobStatus waitCollected(boot::Client& client, const std::string& id)
{
    for (Deadline deadline(std::chrono::minutes(2));;)
    {
        boot::JobStatus status = client.status(id);
        if (status.state != JobState::booting || deadline.passed())
        {
            return status;
        }
        std::this_thread::sleep_for(Milliseconds(50));
    }
}

TEST(Machine, BootsAGuestInDirtyModeWhichThenRunsOnTheProductionMachine)
{
    MachineRig rig(stagingBytes);
    rig.install();
    GuestFiles files({.kernel = "tiny", .vcpus = 1, .memory = 160U << 20});
    auto production = files.startProduction();
    production->releaseDisks();
    TinyJob job(files);
    std::string id;

    rig.startClean();
    {
        boot::Client client = rig.client();
        EXPECT_EQ(client.health().mode, "clean");
        EXPECT_EQ(client.health().jobsMax, 1U);
        id = job.upload(client);
        EXPECT_EQ(client.seal(id).state, JobState::queued);
    }
    ASSERT_EQ(rig.waitEnd(std::chrono::minutes(1)), lifeToDirty) << rig.log();

    rig.startDirty();
    ASSERT_EQ(rig.waitEnd(bootTime), 0) << rig.log();

    rig.startClean();
    boot::Client client = rig.client();
    boot::JobStatus status = waitCollected(client, id);
    ASSERT_EQ(status.state, JobState::done)
        << dumpJson(status.toJson()) << rig.log();
    handover::Bundle bundle = client.fetchBundle(id);
    bundle.requireJob(job.request().job);
    applyDelta(client, id, status, files.spec().disks[0]);
    std::printf("stages: %s\n", dumpJson(status.seconds).c_str());
    vm::handOver(*production, bundle, job.request().job);
    vm::GuestShell shell(production->machine());
    EXPECT_NO_THROW(shell.checkDisk(std::chrono::minutes(2)));

    client.remove(id);
    EXPECT_EQ(client.status(id).state, JobState::gone);
    EXPECT_EQ(client.health().jobs, 0U);
    EXPECT_EQ(rig.stop(), 0);
}

} // namespace
} // namespace airlock::test
