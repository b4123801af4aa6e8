#include "common/qmp.hpp"
#include "tests/modes/capsule_files.hpp"
#include "tools/rigs/isolated_rig.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

// Root in dirty mode does not give the boot host back: it never reboots, or it
// destroys the disks first. The operator is told, the job goes to the other
// boot server, and the guest is back. See tests/suites/lost-host.sh.

namespace airlock::test
{
namespace
{

using namespace rig;
using testing::HasSubstr;

constexpr Milliseconds startTime = std::chrono::minutes(10);
constexpr Milliseconds aliveTime = std::chrono::minutes(3);
/** With the time-outs below. */
constexpr Milliseconds returnTime = std::chrono::minutes(25);
constexpr std::size_t wipedAtOnce = 1U << 20;

DomainCase tinyDomain()
{
    DomainCase out;
    out.guest = {"tiny", 1, 160ULL << 20, true};
    return out;
}

class LostHost : public testing::Test
{
  protected:
    LostHost()
    {
        site_.enrol();
        site_.startBootHost();
        site_.waitClean(startTime);
        writeFileAtomic(home_.path() / "command",
                        fmt::format("#!/bin/sh\necho \"$1 $2 $3 $4\" >>{}\n",
                                    alerts().string()),
                        0755);
        ProductionCase more;
        more.others = {{"boot2"}};
        more.reboot = "limit = 240\nserver-time = 60\nretry-delay = 1\n";
        more.tables = fmt::format("[alert]\ncommand = \"{}/command\"\n",
                                  home_.path().string());
        rig_ = &site_.startProduction(tinyDomain(), more);
    }

    std::filesystem::path alerts() const { return home_.path() / "alerts"; }
    std::string told() const
    {
        return std::filesystem::exists(alerts())
                   ? readTextFile(alerts(), 1U << 20)
                   : "";
    }

    QmpClient qmp() const
    {
        return QmpClient::connect(site_.capsule().directory() / "qmp.sock");
    }

    /** Waits until dirty mode has the guest's job, and has root in it do
     * something; until the guest is back. How that job came to its end. */
    Json loseHost(const std::function<void()>& attack)
    {
        const std::string before = rig_->lastJob();
        rig_->libvirt().virsh(
            {rig_->domainState() == "shut off" ? "start" : "reset",
             rig_->domain()});
        bool done = false;
        Json job =
            rig_->waitReturn(before, returnTime, [&](const std::string&) {
                if (!done && site_.mode() == "dirty" &&
                    readTextFile(site_.console(), 16U << 20)
                            .find("STAGE=boot") != std::string::npos)
                {
                    attack();
                    done = true;
                }
            });
        EXPECT_TRUE(done) << site_.logs();
        return job;
    }

    /** The last two jobs: the boot host's has failed, the other server's is
     * done. */
    void expectHelp(const Json& job)
    {
        EXPECT_EQ(job.at("server"), "boot2");
        EXPECT_EQ(job.at("result"), "done");
        const Json jobs =
            rig_->ask("status", {{"vm", rig_->domain()}}).at("jobs");
        EXPECT_EQ(jobs.at(1).at("server"), IsolatedRig::bootHostName);
        EXPECT_THAT(jobs.at(1).at("result").get<std::string>(),
                    HasSubstr("failed"));
        std::printf("%s\n", dumpJson(jobs.at(1)).c_str());
    }

    TempDirectory home_ = roomyDirectory("lost-host");
    IsolatedRig site_{home_.path(),
                      {.images = imagesOf("AIRLOCK_BOOT_IMAGES", "lost-host"),
                       .stagingBytes = 2ULL << 30}};
    HostRig* rig_ = nullptr;
};

TEST_F(LostHost, OtherBootServersHelp)
{
    // It never comes to its end.
    expectHelp(loseHost([&] { qmp().execute("stop"); }));
    rig_->waitAlive(aliveTime);
    EXPECT_EQ(told().substr(0, told().find(' ')), "retrying");
    rig_->run("echo kept >/root/kept && sync");
    EXPECT_EQ(site_.net().port()["state"], "cut-off");

    // Its limit, or somebody who looks after it.
    qmp().execute("quit");
    site_.waitClean(startTime);

    // It wipes its disks, those of clean mode too, and reboots.
    const std::size_t before = told().size();
    expectHelp(loseHost([&] {
        for (const std::filesystem::path& disk :
             {site_.capsule().stagingDisk(), site_.capsule().dataDisk()})
        {
            const UniqueFd fd = openFile(disk, O_WRONLY);
            for (std::uint64_t at = 0; at < fileSize(fd.get());
                 at += wipedAtOnce)
            {
                writeAllAt(fd.get(), Bytes(wipedAtOnce), at);
            }
        }
        qmp().execute("system_reset");
    }));
    rig_->waitReborn(aliveTime);
    EXPECT_EQ(rig_->run("cat /root/kept"), "kept\n");
    EXPECT_THAT(told().substr(before), HasSubstr("retrying"));
    EXPECT_EQ(site_.net().port()["state"], "cut-off");
    EXPECT_THAT(readTextFile(site_.console(), 16U << 20),
                HasSubstr("not enrolled"));
}

} // namespace
} // namespace airlock::test
