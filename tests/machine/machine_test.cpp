#include "bootsrv/machine/nic.hpp"
#include "devmodel/vm/guest_shell.hpp"
#include "devmodel/vm/hand_over.hpp"
#include "tests/integration/boot_jobs.hpp"
#include "tests/machine/machine_life.hpp"
#include "tests/machine/machine_rig.hpp"
#include "tests/machine/switch_net.hpp"
#include "trust/keys.hpp"
#include "trust/quote_reference.hpp"
#include "trust/sealed_blob.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <functional>
#include <thread>

/** Whole lives of a machine with a real guest: clean, dirty, clean. */
namespace airlock::test
{
namespace
{

using boot::JobState;

constexpr Milliseconds bootTime = std::chrono::minutes(15);
constexpr std::uint64_t stagingBytes = 4ULL << 30;

/** In the clean life after the dirty one. */
boot::JobStatus waitCollected(boot::Client& client, const std::string& id)
{
    return waitFinished(client, id, std::chrono::minutes(2));
}

TEST(Machine, BootsAGuestInDirtyModeWhichThenRunsOnTheProductionMachine)
{
    MachineRig rig(stagingBytes);
    rig.install();
    GuestFiles files({.kernel = "tiny", .vcpus = 1, .memory = 160U << 20});
    auto production = files.startProduction();
    production->releaseDisks();
    const GuestJob job(files);
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
    handover::Bundle bundle = job.fetchBundle(client, id);
    EXPECT_GT(job.applyDelta(client, status), 0U);
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

/** At a port of a switch whose agent knows it. */
class MachineAtSwitch
{
  protected:
    explicit MachineAtSwitch(machine::ProofMethod method)
    {
        net.setUpMachine(method);
        rig.install();
        net.startAgent();
        net.enroll(nameOf(method),
                   method == machine::ProofMethod::quote ? enrolment() : "");
    }

    std::string enrolment()
    {
        trust::QuoteReference out{
            trust::AttestationKey::parse(rig.identity().attestation, "key"),
            {{"clean", trust::capped(rig.pcrs())}}};
        return out.toText();
    }

    MachineRig rig{stagingBytes};
    SwitchNet net{rig};
};

class SwitchedMachine : public MachineAtSwitch,
                        public testing::TestWithParam<machine::ProofMethod>
{
  protected:
    SwitchedMachine() : MachineAtSwitch(GetParam()) {}
};

class RotatedMachine : public MachineAtSwitch, public testing::Test
{
  protected:
    RotatedMachine() : MachineAtSwitch(machine::ProofMethod::mac96) {}
};

class QuotedMachine : public MachineAtSwitch, public testing::Test
{
  protected:
    QuotedMachine() : MachineAtSwitch(machine::ProofMethod::quote) {}
};

constexpr std::uint64_t smallDisk = 1U << 20;
constexpr std::string_view sentinel = "a line that only this tenant has";

std::string sendSmall(boot::Client& client, const boot::JobRequest& request)
{
    return uploadSmall(client, request, sentinel);
}

/** How often the sentinel is in a file. */
std::size_t sentinelsIn(const std::filesystem::path& file)
{
    UniqueFd fd = openFile(file, O_RDONLY);
    Mapping mapping(fd.get(), fileSize(fd.get()), Mapping::Access::read);
    std::size_t out = 0;
    ByteView all = mapping.view();
    std::boyer_moore_horspool_searcher search(sentinel.begin(), sentinel.end());
    for (auto at = all.begin();
         (at = std::search(at, all.end(), search)) != all.end(); ++at)
    {
        out++;
    }
    return out;
}

class PlainMachine : public testing::Test
{
  protected:
    static constexpr std::uint64_t room = 1ULL << 30;

    PlainMachine() { rig.install(); }

    /** From the first clean life to the end of the dirty one. */
    void untilDirtyIsOver()
    {
        rig.startClean();
        {
            boot::Client client = rig.client();
            id = sendSmall(client, request);
            client.seal(id);
        }
        ASSERT_EQ(rig.waitEnd(std::chrono::minutes(1)), lifeToDirty)
            << rig.log();
        rig.startDirty();
        ASSERT_EQ(rig.waitEnd(std::chrono::minutes(5)), 0) << rig.log();
    }

    MachineRig rig{room};
    boot::JobRequest request = smallRequest(smallDisk);
    std::string id;
};

TEST_F(PlainMachine, ResultsOutliveALossOfPower)
{
    untilDirtyIsOver();
    Bytes state;
    for (int life = 0; life < 2; life++)
    {
        rig.startClean();
        boot::Client client = rig.client();
        boot::JobStatus status = waitCollected(client, id);
        ASSERT_EQ(status.state, JobState::done) << dumpJson(status.toJson());
        handover::Bundle bundle =
            client.fetchBundle(id, [this](const handover::Manifest& manifest) {
                manifest.requireJob(request.job);
            });
        EXPECT_TRUE(life == 0 || bundle.deviceState() == state);
        state = bundle.deviceState();
        EXPECT_EQ(client.createJob(request).id, id);
        rig.pullThePlug();
    }
}

TEST_F(PlainMachine, UploadsOutliveALossOfPower)
{
    rig.startClean();
    {
        boot::Client client = rig.client();
        id = sendSmall(client, request);
        rig.pullThePlug();
    }
    rig.startClean();
    boot::Client client = rig.client();
    EXPECT_EQ(client.status(id).state, JobState::receiving);
    EXPECT_EQ(client.status(id).uploaded, std::vector<bool>{true});
    client.seal(id);
    EXPECT_EQ(rig.waitEnd(std::chrono::minutes(1)), lifeToDirty) << rig.log();
    // The power goes before dirty mode has begun.
    rig.startClean();
    boot::Client again = rig.client();
    boot::JobStatus status = waitCollected(again, id);
    EXPECT_EQ(status.state, JobState::failed);
    EXPECT_EQ(status.error.value_or(boot::JobError()).code, "boot-failed");
}

TEST_F(PlainMachine, ADirtyRunThatIsCutOffIsReported)
{
    request.policy = "after:100";
    rig.startClean();
    {
        boot::Client client = rig.client();
        id = sendSmall(client, request);
        client.seal(id);
    }
    ASSERT_EQ(rig.waitEnd(std::chrono::minutes(1)), lifeToDirty) << rig.log();
    rig.startDirty();
    for (Deadline deadline(std::chrono::minutes(1));
         rig.log().find("STAGE=boot") == std::string::npos &&
         !deadline.passed();)
    {
        std::this_thread::sleep_for(Milliseconds(20));
    }
    rig.pullThePlug();
    rig.startClean();
    boot::Client client = rig.client();
    boot::JobStatus status = waitCollected(client, id);
    EXPECT_EQ(status.state, JobState::failed);
    EXPECT_EQ(status.error.value_or(boot::JobError()).code, "boot-failed");
    // And the next one is welcome.
    boot::JobRequest next = smallRequest(smallDisk, "red");
    EXPECT_NO_THROW(client.createJob(next));
}

TEST_F(PlainMachine, NothingOfATenantIsOnTheDisksInClear)
{
    rig.startClean();
    {
        boot::Client client = rig.client();
        id = sendSmall(client, request);
        client.seal(id);
    }
    ASSERT_EQ(rig.waitEnd(std::chrono::minutes(1)), lifeToDirty) << rig.log();
    EXPECT_EQ(sentinelsIn(rig.staging()), 0U);
    rig.startDirty();
    ASSERT_EQ(rig.waitEnd(std::chrono::minutes(5)), 0) << rig.log();
    EXPECT_EQ(sentinelsIn(rig.staging()), 0U);
    EXPECT_EQ(sentinelsIn(rig.kept()), 0U);
    // Dirty mode had it: here its work directory is not encrypted.
    EXPECT_EQ(sentinelsIn(rig.work() / "run" / "disk-0"), 1U);
}

TEST_F(PlainMachine, WhatIsKeptCannotBePutBack)
{
    rig.startClean();
    {
        boot::Client client = rig.client();
        id = sendSmall(client, request);
    }
    ASSERT_EQ(rig.stop(), 0);
    std::filesystem::path old = rig.directory() / "old";
    std::filesystem::copy_file(rig.kept(), old);
    rig.startClean();
    rig.client().seal(id);
    ASSERT_EQ(rig.waitEnd(std::chrono::minutes(1)), lifeToDirty) << rig.log();
    std::filesystem::copy_file(
        old, rig.kept(), std::filesystem::copy_options::overwrite_existing);
    EXPECT_THROW(rig.startClean(), Error);
    EXPECT_THAT(rig.log(), testing::HasSubstr("put back an older one"));
}

TEST_F(PlainMachine, AnotherTpmIsNoticed)
{
    Swtpm other;
    {
        trust::Tpm tpm(other.tcti());
        trust::createKeys(tpm, trust::EndorsementType::eccP256, nullptr);
    }
    rig.exchangeTpm(other);
    EXPECT_THROW(rig.startClean(), Error);
    EXPECT_THAT(rig.log(), testing::HasSubstr("is another one"));
}

/** Without a guest: the dirty run fails to boot one in time, and says so. */
TEST_P(SwitchedMachine, IsOnTheNetworkInCleanModeOnly)
{
    boot::JobRequest request = smallRequest(smallDisk);
    request.policy = "serial:nothing says this";
    request.timeout = std::chrono::seconds(3);
    std::string id;

    rig.startClean();
    ASSERT_TRUE(net.portBecomes("open")) << rig.log() << net.log();
    EXPECT_NE(net.bootAddressNow(), machine::genericAddress);
    net.production().run([&] {
        boot::Client client = net.client();
        id = sendSmall(client, request);
        client.seal(id);
    });
    ASSERT_EQ(rig.waitEnd(std::chrono::minutes(1)), lifeToDirty) << rig.log();
    EXPECT_EQ(net.port()["state"], "cut-off");
    EXPECT_EQ(net.port()["reason"], "the boot host asked for it");
    EXPECT_EQ(net.bootAddressNow(), machine::genericAddress);
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

TEST_P(SwitchedMachine, ComesBackWithANewEpochWhenItsLeaseHasEnded)
{
    rig.startClean();
    ASSERT_TRUE(net.portBecomes("open")) << rig.log() << net.log();
    net.call("cut", {{"port", "boot0"}});
    // Or it is open again before we look.
    for (Deadline deadline(std::chrono::minutes(1));
         (net.port()["opened"] < 2 || net.port()["state"] != "open") &&
         !deadline.passed();)
    {
        std::this_thread::sleep_for(Milliseconds(50));
    }
    EXPECT_EQ(net.port()["state"], "open") << rig.log() << net.log();
    EXPECT_EQ(rig.stop(), 0);
}

TEST_P(SwitchedMachine, StaysCleanUntilTheSwitchHasAnswered)
{
    std::string id;
    rig.startClean();
    ASSERT_TRUE(net.portBecomes("open")) << rig.log() << net.log();
    net.production().run([&] {
        boot::Client client = net.client();
        id = sendSmall(client, smallRequest(smallDisk));
    });
    net.agent().signal(SIGSTOP); // hangs; its lease goes on for a while
    net.production().run([&] { net.client().seal(id); });
    EXPECT_THROW(rig.waitEnd(std::chrono::seconds(15)), TimedOut);
    EXPECT_THAT(rig.log(), testing::HasSubstr("did not answer"));
    EXPECT_TRUE(rig.running());
    net.agent().signal(SIGCONT);
    EXPECT_EQ(rig.waitEnd(std::chrono::minutes(2)), lifeToDirty) << rig.log();
    EXPECT_EQ(net.port()["state"], "cut-off");
}

/** The notice has been given, and the port is open after it. */
bool hasNewRoot(MachineRig& rig, SwitchNet& net)
{
    for (Deadline deadline(std::chrono::minutes(2)); !deadline.passed();)
    {
        const std::size_t told = rig.log().find("The switch has the new root");
        if (told != std::string::npos &&
            rig.log().find("has opened the port", told) != std::string::npos)
        {
            return net.portBecomes("open");
        }
        std::this_thread::sleep_for(Milliseconds(50));
    }
    return false;
}

TEST_P(SwitchedMachine, TellsTheSwitchOfANewRoot)
{
    rig.startClean();
    ASSERT_TRUE(net.portBecomes("open")) << rig.log() << net.log();
    EXPECT_EQ(rig.stop(), 0);

    rig.rotate();
    rig.startClean();
    ASSERT_TRUE(hasNewRoot(rig, net)) << rig.log() << net.log();
    if (GetParam() != machine::ProofMethod::quote)
    {
        // Counted from the beginning.
        EXPECT_EQ(net.port()["epoch"], 1);
    }
    EXPECT_EQ(rig.stop(), 0);
    // From then on it is the only one.
    rig.startClean();
    ASSERT_TRUE(net.portBecomes("open")) << rig.log() << net.log();
    EXPECT_THAT(rig.log(), testing::Not(testing::HasSubstr("new root")));
    EXPECT_EQ(rig.stop(), 0);
}

INSTANTIATE_TEST_SUITE_P(Methods, SwitchedMachine,
                         testing::Values(machine::ProofMethod::mac,
                                         machine::ProofMethod::mac96,
                                         machine::ProofMethod::quote),
                         [](const auto& method) {
                             return nameOf(method.param);
                         });

/** The switch was told, and the power went before the machine could note it. */
TEST_F(RotatedMachine, OpensThePortWithWhatTheSwitchHas)
{
    rig.startClean();
    ASSERT_TRUE(net.portBecomes("open")) << rig.log() << net.log();
    rig.pullThePlug();
    rig.rotate();
    net.call("rotate", {{"port", "boot0"}, {"root", toHex(rig.root().view())}});

    rig.startClean();
    ASSERT_TRUE(hasNewRoot(rig, net)) << rig.log() << net.log();
    rig.pullThePlug();
    rig.startClean();
    EXPECT_TRUE(net.portBecomes("open")) << rig.log() << net.log();
    EXPECT_EQ(rig.stop(), 0);
}

/** As soon as the port is open, which is when the switch is told. */
TEST_F(RotatedMachine, OpensThePortAfterThePowerWentWhileItToldTheSwitch)
{
    rig.rotate();
    rig.startClean();
    ASSERT_TRUE(net.portBecomes("open")) << rig.log() << net.log();
    rig.pullThePlug();
    rig.startClean();
    EXPECT_TRUE(net.portBecomes("open")) << rig.log() << net.log();
    EXPECT_EQ(rig.stop(), 0);
}

/** Not the state that was enrolled: the port stays shut. */
TEST_F(QuotedMachine, InAnotherStateGetsNoLease)
{
    rig.swtpm().tool(
        {"tpm2_pcrextend",
         "4:sha256=" + toHex(sha256(Bytes{'d', 'i', 'r', 't', 'y'}))});
    rig.startClean();
    for (Deadline deadline(std::chrono::minutes(1));
         net.port()["misses"]["refused"] < 3 && !deadline.passed();)
    {
        std::this_thread::sleep_for(Milliseconds(100));
    }
    EXPECT_GE(net.port()["misses"]["refused"], 3);
    EXPECT_EQ(net.port()["state"], "cut-off");
    EXPECT_EQ(net.port()["opened"], 0);
    EXPECT_THAT(net.log(), testing::HasSubstr("not as expected"));
    EXPECT_EQ(rig.stop(), 0);
}

} // namespace
} // namespace airlock::test
