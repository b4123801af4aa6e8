/** Kills what a reboot depends on, at each stage of it. Whatever dies, the
 * guest comes back with every write that it had synced, and its file system is
 * clean. */
#include "common/error.hpp"
#include "libvirt_rig.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <thread>

namespace airlock::test
{
namespace
{

constexpr Milliseconds bootTime = std::chrono::minutes(6);
constexpr Milliseconds stageTime = std::chrono::minutes(4);
constexpr Milliseconds watchStep{5};

/** What is killed when the host agent has written that the stage begins. */
struct Fault
{
    std::string stage;
    std::string victim; ///< "hostd", "bootd", "libvirtd"
};

std::string logOf(const HostRig& rig)
{
    Bytes bytes = readFile(rig.path() / "hostd.log", 64U << 20);
    return {bytes.begin(), bytes.end()};
}

void waitStage(const HostRig& rig, const std::string& stage,
               std::size_t logStart)
{
    Deadline deadline(stageTime);
    while (logOf(rig).find("STATE=" + stage, logStart) == std::string::npos)
    {
        if (deadline.passed())
        {
            throw TimedOut("the reboot never got to " + stage + "; " +
                           rig.logs());
        }
        std::this_thread::sleep_for(watchStep);
    }
}

void killVictim(HostRig& rig, const std::string& victim)
{
    if (victim == "hostd")
    {
        rig.hostd().kill();
        rig.startHostd();
    }
    else if (victim == "bootd")
    {
        rig.bootd().kill();
        rig.startBootd();
    }
    else
    {
        rig.libvirt().kill();
        rig.libvirt().start();
    }
}

void rebootWith(HostRig& rig, const Fault& fault, unsigned round)
{
    SCOPED_TRACE(fault.victim + " killed at " + fault.stage);
    std::string marker = fmt::format("/root/round-{}", round);
    rig.run(fmt::format("head -c 300000 /dev/urandom >{0} && sha256sum {0} "
                        ">{0}.sum && sync {0} {0}.sum",
                        marker));
    std::size_t start = logOf(rig).size();
    rig.send("reboot");
    waitStage(rig, fault.stage, start);
    killVictim(rig, fault.victim);
    waitStage(rig, "running", start);
    rig.waitReborn(bootTime);
    rig.run("for s in /root/round-*.sum; do sha256sum -c --quiet $s || exit 1; "
            "done");
    EXPECT_EQ(rig.run("dmesg --level=emerg,alert,crit,err | grep -ci 'ext4\\|"
                      "i/o error' || true"),
              "0\n");
    fmt::print("{:<10} killed at {:<10} the guest came back\n", fault.victim,
               fault.stage);
    std::fflush(stdout);
}

TEST(Kill, EveryStageOnce)
{
    HostRig rig({"cloud", 2, 1ULL << 30, true});
    rig.libvirt().virsh({"start", rig.domain()});
    rig.waitAlive(bootTime);
    unsigned round = 0;
    for (const Fault& fault : std::vector<Fault>{{"exporting", "hostd"},
                                                 {"exporting", "bootd"},
                                                 {"booting", "hostd"},
                                                 {"booting", "bootd"},
                                                 {"booting", "libvirtd"},
                                                 {"returning", "hostd"},
                                                 {"admitting", "hostd"},
                                                 {"applying", "hostd"}})
    {
        rebootWith(rig, fault, ++round);
        if (HasFailure())
        {
            return;
        }
    }
    rig.libvirt().virsh({"destroy", rig.domain()});
}

} // namespace
} // namespace airlock::test
