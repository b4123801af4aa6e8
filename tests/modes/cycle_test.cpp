#include "devmodel/vm/guest_shell.hpp"
#include "devmodel/vm/hand_over.hpp"
#include "tests/integration/boot_jobs.hpp"
#include "tests/modes/switched_capsule.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

// The whole of FIG. 6 with the real parts, twice in a row: a capsule with the
// images as they are shipped, a switch with airlock-switchd, a real guest that
// reboots. See tests/suites/cycle.sh.

namespace airlock::test
{
namespace
{

using boot::JobState;
using capsule::ModeEnd;
using capsule::RunningMode;

/** A guest in a guest, without hardware help. */
constexpr auto dirtyTime = std::chrono::minutes(25);
constexpr auto shellTime = std::chrono::minutes(2);
constexpr std::uint64_t stagingBytes = 2ULL << 30;

class Cycle : public testing::Test
{
  protected:
    Cycle()
    {
        production_ = files_.startProduction();
        production_->releaseDisks();
    }

    /** In clean mode, with the port open: the trapped guest's disk goes out,
     * and then the boot host is cut off (602 to 606). */
    void send()
    {
        job_.emplace(files_, dirtyTime);
        host_.asHost([&](boot::Client& client) {
            id_ = job_->upload(client);
            EXPECT_EQ(client.seal(id_).state, JobState::queued);
        });
        EXPECT_GT(host_.waitCutOff(), 0U); // the capture sees clean mode
    }

    /** In the next clean mode: the result comes in, and the guest runs. */
    void bringBack()
    {
        host_.asHost([&](boot::Client& client) {
            const boot::JobStatus status =
                waitFinished(client, id_, std::chrono::minutes(5));
            ASSERT_EQ(status.state, JobState::done)
                << dumpJson(status.toJson()) << dirty_.console;
            handover::Bundle bundle = job_->fetchBundle(client, id_);
            EXPECT_GT(job_->applyDelta(client, status), 0U);
            vm::handOver(*production_, bundle, job_->request().job);
            client.remove(id_);
            std::printf("stages: %s\n", dumpJson(status.seconds).c_str());
        });
        vm::GuestShell shell(production_->machine());
        EXPECT_NO_THROW(shell.checkDisk(shellTime));
    }

    void rebootGuest()
    {
        production_->machine().qmp().execute("system_reset");
        production_->waitTrap(shellTime);
        production_->releaseDisks();
    }

    /** A clean mode that ends with the way into dirty mode. */
    void clean(const SwitchedCapsule::Meanwhile& meanwhile)
    {
        const ModeEnd end =
            host_.run(false, host_.bootTime, [&](RunningMode& mode) {
                EXPECT_EQ(host_.waitOpen(mode), 0U)
                    << "frames between cut-off and proof";
                meanwhile(mode);
            });
        ASSERT_TRUE(end.dirtyNext) << end.console;
    }

    void dirty()
    {
        dirty_ = host_.run(true, dirtyTime);
        EXPECT_FALSE(dirty_.dirtyNext);
    }

    GuestFiles files_{{.kernel = "tiny", .vcpus = 1, .memory = 160U << 20}};
    std::unique_ptr<vm::ProductionVm> production_;
    SwitchedCapsule host_{imagesOf("AIRLOCK_BOOT_IMAGES", "cycle"),
                          stagingBytes, 2};
    std::optional<GuestJob> job_;
    std::string id_;
    ModeEnd dirty_;
};

TEST_F(Cycle, GuestBootsInTheCapsuleAndRunsOnTheProductionMachine)
{
    ASSERT_NO_FATAL_FAILURE(clean([&](RunningMode&) { send(); }));
    dirty();
    ASSERT_NO_FATAL_FAILURE(clean([&](RunningMode&) {
        bringBack();
        rebootGuest();
        send();
    }));
    dirty();
    host_.cut(false, [&](RunningMode& mode) {
        EXPECT_EQ(host_.waitOpen(mode), 0U)
            << "frames between cut-off and proof";
        bringBack();
    });
}

} // namespace
} // namespace airlock::test
