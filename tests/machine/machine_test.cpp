#include "devmodel/vm/guest_shell.hpp"
#include "devmodel/vm/hand_over.hpp"
#include "tests/integration/bootd_rig.hpp"
#include "tests/integration/guest_files.hpp"
#include "tests/machine/machine_life.hpp"
#include "tests/machine/machine_rig.hpp"
#include "tests/machine/switch_net.hpp"
#include "tools/switchd/quote_verifier.hpp"
#include "trust/sealed_blob.hpp"

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

std::string nameOf(machine::ProofMethod method)
{
    switch (method)
    {
    case machine::ProofMethod::mac:
        return "mac";
    case machine::ProofMethod::mac96:
        return "mac96";
    case machine::ProofMethod::quote:
        return "quote";
    }
    return "";
}

class SwitchedMachine : public testing::TestWithParam<machine::ProofMethod>
{
  protected:
    void enrollAt(SwitchNet& net, MachineRig& rig)
    {
        std::string key;
        if (GetParam() == machine::ProofMethod::quote)
        {
            sw::QuoteEnrolment enrolment{
                trust::AttestationKey::parse(rig.identity().attestation, "key"),
                {{"clean", trust::capped(rig.pcrs())}}};
            key = enrolment.toText();
        }
        net.enroll(nameOf(GetParam()), key);
    }
};

/** Without a guest: the dirty run fails to boot one in time, and says so. */
TEST_P(SwitchedMachine, IsOnTheNetworkInCleanModeOnly)
{
    constexpr std::uint64_t diskBytes = 1U << 20;
    MachineRig rig(stagingBytes);
    SwitchNet net(rig);
    net.setUpMachine(GetParam());
    rig.install();
    net.startAgent();
    enrollAt(net, rig);
    boot::JobRequest request = smallRequest(diskBytes);
    request.policy = "serial:nothing says this";
    request.timeout = std::chrono::seconds(3);
    std::string id;

    rig.startClean();
    ASSERT_TRUE(net.portBecomes("open")) << rig.log() << net.log();
    net.production().run([&] {
        boot::Client client = net.client();
        id = client.createJob(request).id;
        UniqueFd disk = createMemfd("disk", diskBytes);
        handover::FileImage image(disk.get(), diskBytes);
        client.uploadDisk(id, 0, image);
        client.seal(id);
    });
    ASSERT_EQ(rig.waitEnd(std::chrono::minutes(1)), lifeToDirty) << rig.log();
    EXPECT_EQ(net.port()["state"], "cut-off");
    EXPECT_EQ(net.port()["reason"], "the boot host asked for it");
    std::uint64_t epoch = net.port().value("epoch", 0ULL);
    EXPECT_GT(net.framesOfOthers(), 0U); // what was said before

    rig.startDirty();
    EXPECT_EQ(rig.waitEnd(std::chrono::minutes(3)), 0) << rig.log();
    EXPECT_EQ(net.framesOfOthers(), 0U);

    rig.startClean();
    ASSERT_TRUE(net.portBecomes("open")) << rig.log() << net.log();
    EXPECT_EQ(net.port().value("epoch", 0ULL) > epoch,
              GetParam() != machine::ProofMethod::quote);
    net.production().run([&] {
        boot::Client client = net.client();
        boot::JobStatus status = waitCollected(client, id);
        EXPECT_EQ(status.state, JobState::failed) << rig.log();
        EXPECT_EQ(status.error.value_or(boot::JobError()).code, "timeout");
        client.remove(id);
    });
    EXPECT_EQ(rig.stop(), 0);
    EXPECT_TRUE(net.portBecomes("cut-off"));
}

INSTANTIATE_TEST_SUITE_P(Methods, SwitchedMachine,
                         testing::Values(machine::ProofMethod::mac,
                                         machine::ProofMethod::mac96,
                                         machine::ProofMethod::quote),
                         [](const auto& method) {
                             return nameOf(method.param);
                         });

} // namespace
} // namespace airlock::test
