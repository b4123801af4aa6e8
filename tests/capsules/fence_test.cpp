#include "bootsrv/capsule/capsule.hpp"
#include "common/socket.hpp"
#include "tests/capsules/fake_capsule.hpp"
#include "tests/switch/switch_rig.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <array>
#include <csignal>
#include <functional>
#include <set>
#include <sstream>
#include <thread>

// What somebody who has taken over the QEMU of a capsule finds: a script in its
// place looks around. As root, and with the programs as the user "nobody".

namespace airlock::capsule
{
namespace
{

using testing::ContainsRegex;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr auto enough = std::chrono::minutes(2);
constexpr const char* user = "nobody";
/** And the first process there. */
constexpr const char* onlyItself = "processes: 2\n";

/** Where all programs meet. */
constexpr std::array<const char*, 4> places = {"/tmp", "/var/tmp", "/dev/shm",
                                               "/run"};
constexpr const char* allPlaces = "/tmp /var/tmp /dev/shm /run";

/** A file of somebody's in each of them. */
class Marks
{
  public:
    explicit Marks(std::string name) : name_(std::move(name))
    {
        for (const char* place : places)
        {
            writeFileAtomic(in(place), std::string_view("seen"));
        }
    }
    Marks(const Marks&) = delete;
    Marks& operator=(const Marks&) = delete;
    ~Marks()
    {
        for (const char* place : places)
        {
            std::filesystem::remove(in(place));
        }
    }

    const std::string& name() const { return name_; }
    std::filesystem::path in(const std::filesystem::path& place) const
    {
        return place / name_;
    }

  private:
    std::string name_;
};

/** A place for programs, as good as /usr: the tests' own may be one of those
 * that a fence makes empty. */
class ProgramPlace
{
  public:
    ProgramPlace()
    {
        if (::unshare(CLONE_NEWNS) != 0 ||
            ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
            ::mount("tmpfs", path().c_str(), "tmpfs", 0, "mode=0755") != 0)
        {
            throwErrno("cannot mount a directory for programs");
        }
    }
    ProgramPlace(const ProgramPlace&) = delete;
    ProgramPlace& operator=(const ProgramPlace&) = delete;
    ~ProgramPlace() { ::umount2(path().c_str(), MNT_DETACH); }

    static std::filesystem::path path() { return "/srv"; }
};

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
        options.qemu = test::script(programs.path() / "qemu", lookAround());
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
               "echo here: $(ls -A)\n"
               "echo can write: $(for at in . / /srv " +
               allPlaces +
               "; do\n"
               "  [ -w $at ] && echo $at\n"
               "done)\n"
               "echo meets in: $(for at in " +
               allPlaces +
               "; do\n"
               "  [ -e $at/" +
               marks.name() +
               " ] && echo $at\n"
               "done)\n"
               "touch left 2>/dev/null\n"
               "echo secret: $(cat " +
               all +
               "/other/secret 2>&1)\n"
               // Without a process of its own.
               "set -- /proc/[0-9]*; echo processes: $#\n"
               "echo first: $(ls /proc/1/fd 2>/dev/null)\n"
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
    Marks marks{home.path().filename().string() + ".mark"};
    ProgramPlace programs;
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
    EXPECT_THAT(seen, ContainsRegex("above: .*data.img"));
    EXPECT_THAT(seen, HasSubstr("LOOPBACK,UP"));
    EXPECT_THAT(seen, HasSubstr("processes: "));
    EXPECT_THAT(seen, Not(HasSubstr(onlyItself)));
    EXPECT_THAT(seen, HasSubstr("first: 0"));
    EXPECT_THAT(seen, HasSubstr("images: written"));
    const std::string all = allPlaces;
    EXPECT_THAT(seen, HasSubstr("can write: . / /srv " + all + "\n"));
    EXPECT_THAT(seen, HasSubstr("meets in: " + all + "\n"));
}

TEST_F(FenceTest, WhatAModeLeavesIsNotThereForTheNext)
{
    look(true);
    EXPECT_TRUE(std::filesystem::exists(mine.directory() / "run" / "left"));
    EXPECT_THAT(look(true), HasSubstr("here:\n"));
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
    EXPECT_THAT(seen, HasSubstr("above: run\n"));
    EXPECT_THAT(seen, HasSubstr(onlyItself));
    EXPECT_THAT(seen, Not(HasSubstr("another tenant")));
    EXPECT_THAT(seen, Not(HasSubstr("UP")));
    EXPECT_THAT(seen, HasSubstr("first:\n"));
    EXPECT_THAT(seen, HasSubstr("meets in:\n"));
    EXPECT_THAT(seen, HasSubstr("can write:\n"));
    EXPECT_THAT(seen, HasSubstr("images: refused"));
    EXPECT_THAT(seen, Not(HasSubstr("leaks")));
}

TEST_F(FenceTest, NotEvenRootMayWrite)
{
    raise();
    options.fence->user = "";
    const std::string seen = look(true);
    EXPECT_THAT(seen, HasSubstr("user: 0"));
    EXPECT_THAT(seen, HasSubstr("can write:\n"));
}

TEST_F(FenceTest, NothingStartsBehindHalfOfIt)
{
    raise();
    options.fence->hidden = home.path() / "missing";
    const ModeEnd end = mine.capsule().run(options, true, enough);
    EXPECT_FALSE(end.status.ok());
    EXPECT_EQ(end.console, "");
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

/** One that takes a capsule's power has gone, and still has its disk. */
class FencePlugTest : public FenceTest
{
  protected:
    FencePlugTest()
    {
        // It does not die with its parent, and is not heard of any more.
        options.qemu = test::script(programs.path() / "stays",
                                    "exec setpriv --pdeathsig clear sh -c '\n"
                                    "setsid sleep 600 >&- 2>&- &\n"
                                    "echo begins; exec sleep 600 >&- 2>&-'");
    }

    ~FencePlugTest() override
    {
        for (const pid_t it : holders())
        {
            ::kill(it, SIGKILL);
        }
    }

    /** Has a mode at work, and does this. */
    void during(const std::function<void(RunningMode&)>& action)
    {
        RunningMode mode = mine.capsule().start(options, true);
        mode.waitForConsole("begins", enough);
        action(mode);
    }

    /** Who has the disk open, but for us. */
    std::set<pid_t> holders() const
    {
        std::set<pid_t> out;
        for (const auto& process : std::filesystem::directory_iterator("/proc"))
        {
            const pid_t pid = std::atoi(process.path().filename().c_str());
            std::error_code gone;
            for (const auto& fd : std::filesystem::directory_iterator(
                     process.path() / "fd", gone))
            {
                if (pid > 0 && pid != ::getpid() &&
                    std::filesystem::read_symlink(fd.path(), gone) == disk)
                {
                    out.insert(pid);
                }
            }
        }
        return out;
    }

    std::filesystem::path disk = mine.directory() / "staging.img";
};

TEST_F(FencePlugTest, WithoutItSomethingOutlivesThePlug)
{
    during([](RunningMode& mode) { mode.kill(); });
    EXPECT_THAT(holders(), Not(IsEmpty()));
}

TEST_F(FencePlugTest, NothingOutlivesThePlug)
{
    raise();
    during([this](RunningMode& mode) {
        EXPECT_THAT(holders(), Not(IsEmpty()));
        mode.kill();
        EXPECT_THAT(holders(), IsEmpty());
    });
}

TEST_F(FencePlugTest, NothingOutlivesTheSupervisor)
{
    raise();
    auto [begun, ends] = socketPair();
    const pid_t supervisor = ::fork();
    if (supervisor == 0)
    {
        try
        {
            during([fd = ends.get()](RunningMode&) {
                ::shutdown(fd, SHUT_RDWR);
                ::pause();
            });
        }
        catch (const std::exception& error)
        {
            std::fprintf(stderr, "%s\n", error.what());
        }
        ::_exit(1);
    }
    ends.reset();
    char nothing = 0;
    EXPECT_EQ(::read(begun.get(), &nothing, 1), 0);
    EXPECT_GT(holders().size(), 1U);
    ::kill(supervisor, SIGKILL);
    ASSERT_EQ(::waitpid(supervisor, nullptr, 0), supervisor);
    for (const Deadline deadline(enough);
         !holders().empty() && !deadline.passed();)
    {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    EXPECT_THAT(holders(), IsEmpty());
}

} // namespace
} // namespace airlock::capsule
