/** A libvirt domain that lives on the production machine: what operators do
 * with domains, and what comes of it. */
#include "common/error.hpp"
#include "tests/unit/error_of.hpp"
#include "tools/rigs/host_rig.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <thread>

namespace airlock::test
{

using namespace rig;

namespace
{

using testing::HasSubstr;
using testing::StartsWith;

constexpr Milliseconds bootTime = std::chrono::minutes(5);
constexpr Milliseconds agentTime = std::chrono::minutes(1);
constexpr Milliseconds step{200};

/** What virsh says when it refuses; empty when it does not. */
std::string refusal(HostRig& rig, std::vector<std::string> command)
{
    command.insert(command.begin() + 1, rig.domain());
    return errorOf<Error>([&] { rig.libvirt().virsh(command); });
}

void waitState(HostRig& rig, const std::string& state)
{
    Deadline deadline(bootTime);
    while (rig.domainState() != state)
    {
        ASSERT_FALSE(deadline.passed())
            << "the domain is " << rig.domainState() << ", not " << state;
        std::this_thread::sleep_for(step);
    }
}

/** The job at a boot server that a reboot has begun. */
std::string waitJob(HostRig& rig)
{
    Deadline deadline(bootTime);
    for (;;)
    {
        Json jobs = rig.ask("jobs", {{"open", true}}).at("jobs");
        if (!jobs.empty())
        {
            return jobs.at(0).at("id").get<std::string>();
        }
        if (deadline.passed())
        {
            throw Error("no job was begun");
        }
        std::this_thread::sleep_for(step);
    }
}

/** How a job has ended. */
std::string waitEnd(HostRig& rig, const std::string& id)
{
    Deadline deadline(bootTime);
    while (!deadline.passed())
    {
        Json jobs = rig.ask("jobs").at("jobs");
        for (const Json& job : jobs)
        {
            if (job.at("id") == id &&
                !job.at("result").get<std::string>().empty())
            {
                return job.at("result").get<std::string>();
            }
        }
        std::this_thread::sleep_for(step);
    }
    return "not at all";
}

/** Waits for the guest agent, which libvirt connects to by itself. */
void waitAgent(HostRig& rig)
{
    Deadline deadline(agentTime);
    while (!refusal(rig, {"domtime"}).empty())
    {
        ASSERT_FALSE(deadline.passed()) << refusal(rig, {"domtime"});
        std::this_thread::sleep_for(step);
    }
}

std::string bootId(HostRig& rig)
{
    return rig.run("cat /proc/sys/kernel/random/boot_id");
}

/** How far the guest's clock is from the host's, in seconds. */
double clockError(HostRig& rig)
{
    using Seconds = std::chrono::duration<double>;
    auto now = [] {
        return Seconds(std::chrono::system_clock::now().time_since_epoch())
            .count();
    };
    double before = now();
    double guest = std::strtod(rig.run("date +%s.%N").c_str(), nullptr);
    double after = now();
    if (guest >= before && guest <= after)
    {
        return 0;
    }
    return guest < before ? before - guest : guest - after;
}

/** One guest for all tests: it takes long to boot one. */
class Libvirt : public testing::Test
{
  protected:
    static void SetUpTestSuite()
    {
        rig_ = new HostRig({"cloud", 2, 1ULL << 30, true});
        rig_->libvirt().virsh({"start", rig_->domain()});
        rig_->waitAlive(bootTime);
        rig_->run("echo kept >/root/kept && sync /root/kept");
    }

    static void TearDownTestSuite()
    {
        delete rig_;
        rig_ = nullptr;
    }

    static HostRig& rig() { return *rig_; }

    /** After `action` the guest is another boot of the same disk. */
    template <typename Action>
    static void expectReboot(const Action& action)
    {
        std::string before = bootId(rig());
        action();
        rig().waitPaused(bootTime);
        rig().waitAlive(bootTime);
        EXPECT_NE(bootId(rig()), before);
        EXPECT_EQ(rig().run("cat /root/kept"), "kept\n");
    }

  private:
    static HostRig* rig_;
};

HostRig* Libvirt::rig_ = nullptr;

TEST_F(Libvirt, IsTheOneThatIsToBeTested)
{
    std::string version = rig().libvirt().version();
    fmt::print("libvirt {}\n", version);
    bool other = std::getenv("AIRLOCK_LIBVIRT_ROOT") != nullptr;
    EXPECT_THAT(version, StartsWith(other ? "11." : "9."));
}

TEST_F(Libvirt, RebootFromInside)
{
    expectReboot([] { rig().send("reboot"); });
}

TEST_F(Libvirt, Reset)
{
    expectReboot([] { rig().libvirt().virsh({"reset", rig().domain()}); });
}

TEST_F(Libvirt, RebootByTheAgent)
{
    waitAgent(rig());
    expectReboot([] {
        rig().libvirt().virsh({"reboot", rig().domain(), "--mode", "agent"});
    });
}

TEST_F(Libvirt, RebootByThePowerButton)
{
    expectReboot([] {
        rig().libvirt().virsh({"reboot", rig().domain(), "--mode", "acpi"});
    });
}

TEST_F(Libvirt, TheClockIsRightAfterAReboot)
{
    rig().run("date -s '2001-01-01 00:00:00'");
    EXPECT_GT(clockError(rig()), 1e6);
    expectReboot([] { rig().send("reboot"); });
    waitAgent(rig());
    Deadline deadline(agentTime);
    while (clockError(rig()) > 1)
    {
        ASSERT_FALSE(deadline.passed()) << clockError(rig()) << " s off";
        std::this_thread::sleep_for(step);
    }
}

TEST_F(Libvirt, SuspendAndResume)
{
    std::string before = bootId(rig());
    rig().libvirt().virsh({"suspend", rig().domain()});
    EXPECT_EQ(rig().domainState(), "paused");
    EXPECT_THAT(rig().libvirt().virsh({"domstate", "--reason", rig().domain()}),
                HasSubstr("paused (user)"));
    rig().libvirt().virsh({"resume", rig().domain()});
    EXPECT_EQ(bootId(rig()), before);
}

/** A state that comes from a file or another host is not admitted: libvirt's
 * ways to make one say so, and the guest runs on. */
TEST_F(Libvirt, SavingIsRefusedWithAReason)
{
    std::string before = bootId(rig());
    std::string file = (rig().path() / "saved").string();
    for (const std::vector<std::string>& command :
         {std::vector<std::string>{"save", file},
          std::vector<std::string>{"managedsave"}})
    {
        EXPECT_THAT(refusal(rig(), command),
                    HasSubstr("cannot be saved or migrated"))
            << command.front();
        EXPECT_EQ(rig().domainState(), "running");
    }
    EXPECT_EQ(bootId(rig()), before);
}

TEST_F(Libvirt, HotplugIsRefused)
{
    std::string before = bootId(rig());
    UniqueFd image =
        openFile(rig().path() / "more.raw", O_RDWR | O_CREAT, 0600);
    ASSERT_EQ(::ftruncate(image.get(), 1 << 20), 0);
    EXPECT_THAT(
        refusal(rig(), {"attach-disk", (rig().path() / "more.raw").string(),
                        "vdb", "--live"}),
        HasSubstr("No more available PCI slots"));
    EXPECT_EQ(bootId(rig()), before);
}

TEST_F(Libvirt, LibvirtdMayBeRestarted)
{
    std::string before = bootId(rig());
    rig().libvirt().kill();
    rig().libvirt().start();
    EXPECT_EQ(rig().domainState(), "running");
    EXPECT_EQ(bootId(rig()), before);
    expectReboot([] { rig().libvirt().virsh({"reset", rig().domain()}); });
}

TEST_F(Libvirt, ShutdownByThePowerButtonAndStart)
{
    rig().libvirt().virsh({"shutdown", rig().domain(), "--mode", "acpi"});
    waitState(rig(), "shut off");
    rig().libvirt().virsh({"start", rig().domain()});
    rig().waitReborn(bootTime);
    EXPECT_EQ(rig().run("cat /root/kept"), "kept\n");
}

TEST_F(Libvirt, ShutdownByTheAgent)
{
    waitAgent(rig());
    rig().libvirt().virsh({"shutdown", rig().domain(), "--mode", "agent"});
    waitState(rig(), "shut off");
    rig().libvirt().virsh({"start", rig().domain()});
    rig().waitReborn(bootTime);
    EXPECT_EQ(rig().run("cat /root/kept"), "kept\n");
}

/** In the middle of the boot, too: the job is given up. */
TEST_F(Libvirt, DestroyWhileItBootsAndStart)
{
    rig().libvirt().virsh({"reset", rig().domain()});
    rig().waitPaused(bootTime);
    std::string job = waitJob(rig());
    rig().libvirt().virsh({"destroy", rig().domain()});
    EXPECT_EQ(rig().domainState(), "shut off");
    // Also while it is off.
    EXPECT_EQ(waitEnd(rig(), job), "abandoned");
    rig().libvirt().virsh({"start", rig().domain()});
    rig().waitReborn(bootTime);
    EXPECT_EQ(rig().run("cat /root/kept"), "kept\n");
    rig().libvirt().virsh({"destroy", rig().domain()});
    EXPECT_EQ(rig().domainState(), "shut off");
}

} // namespace
} // namespace airlock::test
