#include "bootsrv/capsule/supervisor.hpp"
#include "common/file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <sstream>
#include <thread>

// Capsules with a TPM and, in the place of QEMU, a program that notes its
// arguments and then does nothing.

namespace airlock::capsule
{
namespace
{

using testing::HasSubstr;
using testing::Not;

constexpr auto enough = std::chrono::minutes(2);

class CapsuleTest : public testing::Test
{
  protected:
    CapsuleTest()
    {
        makeDataDisk(home.path() / "data.img", mebibyte);
        for (const char* name : {"data.tables", "boot.img"})
        {
            writeFileAtomic(home.path() / name, Bytes(2 * mebibyte));
        }
        for (const char* name : {pristineVariables, "vars.run"})
        {
            writeFileAtomic(home.path() / name, Bytes(1024, 0xff));
        }
        std::filesystem::create_directory(home.path() / "tpm");
        writeFileAtomic(home.path() / "qemu", "#!/bin/sh\necho \"$*\" >>" +
                                                  calls.string() +
                                                  "\nexec sleep 600\n");
        std::filesystem::permissions(home.path() / "qemu",
                                     std::filesystem::perms::owner_all);
        options.qemu = home.path() / "qemu";
        options.tap = "tap7";
    }

    /** The command lines so far, one for each mode. */
    std::vector<std::string> started() const
    {
        std::vector<std::string> out;
        if (std::filesystem::exists(calls))
        {
            const Bytes text = readFile(calls, 1U << 20);
            std::istringstream lines(std::string(text.begin(), text.end()));
            for (std::string line; std::getline(lines, line);)
            {
                out.push_back(line);
            }
        }
        return out;
    }

    bool waitForStarts(std::size_t count) const
    {
        for (const Deadline deadline(enough); !deadline.passed();)
        {
            if (started().size() >= count)
            {
                return true;
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
        }
        return false;
    }

    std::string commandOf(bool dirty)
    {
        const std::size_t before = started().size();
        const RunningMode mode = capsule().start(options, dirty);
        EXPECT_TRUE(waitForStarts(before + 1));
        return started().back();
    }

    Capsule capsule() const { return Capsule(home.path()); }

    TempDirectory home;
    std::filesystem::path calls = home.path() / "calls";
    CapsuleOptions options;
};

TEST_F(CapsuleTest, DirtyModeHasNoNetworkCard)
{
    const std::string clean = commandOf(false);
    EXPECT_THAT(clean, HasSubstr("virtio-net"));
    EXPECT_THAT(clean, HasSubstr("ifname=tap7"));
    const std::string dirty = commandOf(true);
    EXPECT_THAT(dirty, HasSubstr("virtio-blk"));
    EXPECT_THAT(dirty, Not(HasSubstr("net")));
    EXPECT_THAT(dirty, Not(HasSubstr("tap7")));
    // Nor on a machine that keeps all else.
    options.keepAll = true;
    EXPECT_THAT(commandOf(true), Not(HasSubstr("tap7")));
}

TEST_F(CapsuleTest, GuestIsToldOfBrokenDisksAndNotStopped)
{
    // Both disks; the flash has no such thing.
    std::istringstream words(commandOf(false));
    int disks = 0;
    for (std::string word; words >> word;)
    {
        if (word.starts_with("if=none"))
        {
            EXPECT_THAT(word, HasSubstr(",werror=report,rerror=report"));
            disks++;
        }
    }
    EXPECT_EQ(disks, 2);
}

TEST_F(CapsuleTest, CleanModeThatHangsIsStartedAnew)
{
    sigset_t signals;
    ::sigemptyset(&signals);
    ::sigaddset(&signals, SIGUSR1);
    ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    SupervisorOptions supervisor;
    supervisor.machine = options;
    supervisor.cleanLimit = std::chrono::seconds(1);
    supervisor.pause = std::chrono::seconds(0);
    std::jthread thread([&] {
        Capsule one = capsule();
        supervise(one, supervisor, signals);
    });
    EXPECT_TRUE(waitForStarts(2));
    ::pthread_kill(thread.native_handle(), SIGUSR1);
    thread.join();
    // It came back as what it was.
    for (const std::string& command : started())
    {
        EXPECT_THAT(command, HasSubstr("tap7"));
    }
}

} // namespace
} // namespace airlock::capsule
