#include "bootsrv/capsule/capsule.hpp"
#include "tests/capsules/fake_capsule.hpp"
#include "tests/switch/switch_rig.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <sstream>

// What somebody who has taken over the QEMU of a capsule finds: a script in its
// place looks around. As root, and with the programs as the user "nobody".

namespace airlock::capsule
{
namespace
{

using testing::HasSubstr;
using testing::Not;

constexpr auto enough = std::chrono::minutes(2);
constexpr const char* user = "nobody";

class FenceTest : public testing::Test
{
  protected:
    FenceTest()
    {
        // Others have to get to it.
        std::filesystem::permissions(home.path(),
                                     static_cast<std::filesystem::perms>(0755));
        writeFileAtomic(other.directory() / "secret",
                        std::string_view("another tenant's"));
        network.enter();
        runTool({"ip", "link", "set", "lo", "up"});
        runTool({"ip", "tuntap", "add", "tap7", "mode", "tap"});
        options.tap = "tap7";
        options.qemu = test::script(home.path() / "qemu", lookAround());
    }

    /** All in lines "what: ...". */
    std::string lookAround() const
    {
        const std::string all = state.string();
        return "echo user: $(id -u)\n"
               "echo capabilities: $(grep CapEff /proc/self/status)\n"
               "echo privileges: $(grep NoNewPrivs /proc/self/status)\n"
               "echo capsules: $(ls " +
               all +
               ")\n"
               "echo above: $(ls ..)\n"
               "echo mine: $(ls " +
               mine.directory().string() +
               ")\n"
               "echo secret: $(cat " +
               all +
               "/other/secret 2>&1)\n"
               "echo processes: $(ls -d /proc/[0-9]* | wc -l)\n"
               "echo network: $(ip -o link show up)\n"
               "echo environment: $(env)\n"
               "for fd in /proc/self/fd/*; do\n"
               "  file=$(readlink $fd)\n"
               "  echo open: $file\n"
               "  case $file in\n"
               "  */boot.img) if (: >>$fd) 2>/dev/null; then\n"
               "    echo images: written; else echo images: refused; fi;;\n"
               "  esac\n"
               "done\n"
               "echo over\n";
    }

    void raise()
    {
        options.fence.emplace();
        options.fence->program = AIRLOCK_BOOTD;
        options.fence->hidden = state;
        options.fence->user = user;
        giveCapsule(mine.directory(), user);
    }

    std::string look(bool dirty)
    {
        const ModeEnd end = mine.capsule().run(options, dirty, enough);
        EXPECT_FALSE(end.timedOut);
        EXPECT_TRUE(end.status.ok()) << end.status.describe() << end.console;
        return end.console;
    }

    TempDirectory home{"fence"};
    std::filesystem::path state = home.path() / "state";
    test::FakeCapsule mine{state / "mine"};
    test::FakeCapsule other{state / "other"};
    airlock::test::NetNamespace network;
    CapsuleOptions options;
};

TEST_F(FenceTest, WithoutItEverythingIsInReach)
{
    // The script finds what it looks for.
    const std::string seen = look(true);
    EXPECT_THAT(seen, HasSubstr("user: 0"));
    EXPECT_THAT(seen, HasSubstr("capsules: mine other"));
    EXPECT_THAT(seen, HasSubstr("secret: another tenant's"));
    EXPECT_THAT(seen, HasSubstr("data.img"));
    EXPECT_THAT(seen, HasSubstr("LOOPBACK,UP"));
    EXPECT_THAT(seen, HasSubstr("images: written"));
}

TEST_F(FenceTest, NothingOfTheHostIsInReach)
{
    raise();
    ::setenv("AIRLOCK_TEST_OF_FENCE", "leaks", 1);
    const std::string seen = look(true);
    ::unsetenv("AIRLOCK_TEST_OF_FENCE");
    EXPECT_THAT(seen, Not(HasSubstr("user: 0")));
    EXPECT_THAT(seen, HasSubstr("capabilities: CapEff: 0000000000000000"));
    EXPECT_THAT(seen, HasSubstr("privileges: NoNewPrivs: 1"));
    // Its own, for the directory that it works in: empty.
    EXPECT_THAT(seen, HasSubstr("capsules: mine\n"));
    EXPECT_THAT(seen, HasSubstr("mine: run\n"));
    EXPECT_THAT(seen, Not(HasSubstr("another tenant")));
    EXPECT_THAT(seen, Not(HasSubstr("UP")));
    EXPECT_THAT(seen, HasSubstr("images: refused"));
    EXPECT_THAT(seen, Not(HasSubstr("leaks")));
    EXPECT_THAT(seen, Not(HasSubstr("fenced off less")));
}

TEST_F(FenceTest, DirtyModeHoldsOnlyWhatItWorksOn)
{
    raise();
    std::set<std::string> names;
    std::istringstream lines(look(true));
    for (std::string line; std::getline(lines, line);)
    {
        if (line.starts_with("open: /") && !line.starts_with("open: /proc") &&
            !line.starts_with("open: /dev/null") &&
            !line.starts_with("open: " + options.qemu.string()))
        {
            names.insert(line.substr(line.rfind('/') + 1));
        }
    }
    EXPECT_EQ(names,
              (std::set<std::string>{"OVMF_CODE_4M.secboot.fd", "boot.img",
                                     "staging.img", "vars.run"}));
}

TEST_F(FenceTest, CleanModeHasTheCableAndNoOtherNetwork)
{
    raise();
    RunningMode mode = mine.capsule().start(options, false);
    mode.waitForConsole("over", enough);
    mode.kill();
    const std::string seen =
        readTextFile(mine.directory() / "console", 1U << 20);
    EXPECT_THAT(seen, HasSubstr("open: /dev/net/tun"));
    EXPECT_THAT(seen, HasSubstr("data.img"));
    EXPECT_THAT(seen, Not(HasSubstr("UP")));
}

/** How many processes have it open. */
std::size_t holders(const std::filesystem::path& file)
{
    std::size_t out = 0;
    for (const auto& process : std::filesystem::directory_iterator("/proc"))
    {
        std::error_code gone;
        for (const auto& fd :
             std::filesystem::directory_iterator(process.path() / "fd", gone))
        {
            out += std::filesystem::read_symlink(fd.path(), gone) == file ? 1U
                                                                          : 0U;
        }
    }
    return out;
}

TEST_F(FenceTest, NothingOutlivesThePlug)
{
    raise();
    options.qemu = test::script(home.path() / "stays",
                                "echo begins\nsleep 600 & sleep 600");
    const std::filesystem::path disk = mine.directory() / "staging.img";
    RunningMode mode = mine.capsule().start(options, true);
    mode.waitForConsole("begins", enough);
    EXPECT_GT(holders(disk), 1U);
    mode.kill();
    EXPECT_EQ(holders(disk), 0U);
}

} // namespace
} // namespace airlock::capsule
