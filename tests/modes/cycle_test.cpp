#include "bootsrv/capsule/enrol.hpp"
#include "devmodel/vm/guest_shell.hpp"
#include "devmodel/vm/hand_over.hpp"
#include "tests/integration/boot_jobs.hpp"
#include "tests/machine/switch_net.hpp"
#include "tools/rigs/capsule_at_work.hpp"
#include "trust/crypto.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>

// The whole of FIG. 6 with the real parts: a capsule with the images as they
// are shipped, a switch with airlock-switchd, a real guest. See
// tests/suites/cycle.sh.

namespace airlock::test
{
namespace
{

using boot::JobState;
using capsule::Capsule;
using rig::AtWork;
using rig::plugIn;

constexpr auto bootTime = std::chrono::minutes(8);
/** A guest in a guest, without hardware help. */
constexpr auto dirtyTime = std::chrono::minutes(25);

std::filesystem::path images()
{
    const char* path = std::getenv("AIRLOCK_BOOT_IMAGES");
    if (path == nullptr)
    {
        throw Error("AIRLOCK_BOOT_IMAGES is not set: run this with "
                    "tools/check --suite cycle");
    }
    return path;
}

std::string fileText(const std::filesystem::path& file)
{
    return readTextFile(file, 1U << 20);
}

class Cycle : public testing::Test
{
  protected:
    Cycle() : rig_(64U << 20), net_(rig_)
    {
        net_.setUpMachine(machine::ProofMethod::mac96);
        rig_.site.listen = "0.0.0.0";
        rig_.site.port = 7420;
        net_.startAgent();
        net_.enroll("mac96");
        plugIn(net_.boot());
        options_.tap = rig::capsuleTap;
        options_.cpus = 2;
        makeCapsule();
    }

    void makeCapsule()
    {
        const std::filesystem::path site = images() / "site";
        capsule::CapsuleParts parts;
        parts.images = {images() / "clean.efi", images() / "dirty.efi"};
        parts.keys = {fileText(site / "platform.crt"),
                      fileText(site / "exchange.crt"),
                      fileText(site / "images.crt")};
        parts.stagingSize = 2ULL << 30;
        capsule_.emplace(Capsule::create(home_.path() / "capsule", parts));
        const trust::Key key = trust::privateKeyFromPem(
            fileText(site / "policy.key"), "policy.key");
        net_.boot().run([&] {
            machine::EnrolmentRequest request;
            request.name = "boot1";
            request.addressRoot = Secret(rig_.root().view());
            request.site = WipedJson(rig_.site.toJson());
            capsule::enrollCapsule(*capsule_, options_,
                                   {key, parts.images.clean, 1},
                                   std::move(request), bootTime);
        });
    }

    bool portBecomes(const std::string& state, Milliseconds time)
    {
        for (Deadline deadline(time); !deadline.passed();)
        {
            if (net_.portBecomes(state))
            {
                return true;
            }
        }
        return false;
    }

    /** To be used on the production host. */
    boot::Client hostAgent()
    {
        return {{SwitchNet::bootAddress, rig_.site.port, tls::bootRole},
                rig_.pki().client("host1")};
    }

    /** Uploads the guest's disk and seals the job; its id. */
    std::string send(const GuestJob& job)
    {
        std::string id;
        net_.production().run([&] {
            boot::Client client = hostAgent();
            id = job.upload(client);
            EXPECT_EQ(client.seal(id).state, JobState::queued);
        });
        return id;
    }

    boot::JobStatus collected(const std::string& id)
    {
        boot::JobStatus status;
        net_.production().run([&] {
            boot::Client client = hostAgent();
            status = waitFinished(client, id, std::chrono::minutes(5));
        });
        return status;
    }

    MachineRig rig_;
    SwitchNet net_;
    TempDirectory home_{"cycle"};
    capsule::CapsuleOptions options_;
    std::optional<Capsule> capsule_;
};

TEST_F(Cycle, GuestBootsInTheCapsuleAndRunsOnTheProductionMachine)
{
    GuestFiles files({.kernel = "tiny", .vcpus = 1, .memory = 160U << 20});
    auto production = files.startProduction();
    production->releaseDisks();
    const GuestJob job(files, dirtyTime);

    AtWork work(*capsule_, net_.boot(), options_, dirtyTime);
    ASSERT_TRUE(portBecomes("open", bootTime)) << work.console() << net_.log();
    const std::string id = send(job);
    ASSERT_TRUE(work.waitEnds(1, bootTime)) << work.console();
    ASSERT_TRUE(work.ends()[0].dirtyNext) << work.ends()[0].console;
    EXPECT_EQ(net_.port()["reason"], "the boot host asked for it");
    EXPECT_GT(net_.framesOfOthers(), 0U); // of clean mode

    ASSERT_TRUE(work.waitEnds(2, dirtyTime)) << work.console();
    EXPECT_FALSE(work.ends()[1].timedOut) << work.ends()[1].console;
    EXPECT_EQ(net_.framesOfOthers(), 0U); // of dirty mode

    ASSERT_TRUE(portBecomes("open", bootTime)) << work.console() << net_.log();
    const boot::JobStatus status = collected(id);
    ASSERT_EQ(status.state, JobState::done)
        << dumpJson(status.toJson()) << work.ends()[1].console
        << work.console();
    net_.production().run([&] {
        boot::Client client = hostAgent();
        handover::Bundle bundle = job.fetchBundle(client, id);
        EXPECT_GT(job.applyDelta(client, status), 0U);
        vm::handOver(*production, bundle, job.request().job);
        client.remove(id);
    });
    vm::GuestShell shell(production->machine());
    EXPECT_NO_THROW(shell.checkDisk(std::chrono::minutes(2)));
    std::printf("stages: %s\n", dumpJson(status.seconds).c_str());
}

} // namespace
} // namespace airlock::test
