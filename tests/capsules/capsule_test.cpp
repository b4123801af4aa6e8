#include "bootsrv/capsule/enrol.hpp"
#include "bootsrv/capsule/supervisor.hpp"
#include "bootsrv/isolate.hpp"
#include "common/file.hpp"
#include "tests/capsules/fake_capsule.hpp"
#include "tests/switch/switch_rig.hpp"
#include "tests/unit/error_of.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

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
        options.qemu = test::script(home.path() / "qemu",
                                    "echo \"$*\" >>" + calls.string() +
                                        "\nexec sleep 600");
        options.tap = "tap7";
        // The thread is the test's, and lives as long as it.
        network.enter();
        runTool({"ip", "tuntap", "add", "tap7", "mode", "tap"});
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

    Capsule capsule() const { return one.capsule(); }

    TempDirectory home;
    test::FakeCapsule one{home.path() / "one"};
    airlock::test::NetNamespace network;
    std::filesystem::path calls = home.path() / "calls";
    CapsuleOptions options;
};

TEST_F(CapsuleTest, DirtyModeHasNoNetworkCard)
{
    EXPECT_THAT(commandOf(false), HasSubstr("virtio-net"));
    const std::string dirty = commandOf(true);
    EXPECT_THAT(dirty, HasSubstr("virtio-blk"));
    EXPECT_THAT(dirty, Not(HasSubstr("net")));
    // Nor on a machine that keeps all else.
    options.keepAll = true;
    EXPECT_THAT(commandOf(true), Not(HasSubstr("net")));
}

TEST_F(CapsuleTest, DirtyModeHasNothingOfWhatCleanModeKeeps)
{
    const auto has = [this](bool dirty) {
        const std::string command = commandOf(dirty);
        return std::pair(command.find("id=data") != std::string::npos,
                         command.find("tpm") != std::string::npos);
    };
    EXPECT_EQ(has(false), std::pair(true, true));
    EXPECT_EQ(has(true), std::pair(false, false));
    EXPECT_THAT(commandOf(true), HasSubstr("id=staging"));
    // A machine's dirty mode has all of it.
    options.dirtyHasAll = true;
    EXPECT_EQ(has(true), std::pair(true, true));
    options.dirtyHasAll = false;
    options.keepAll = true;
    EXPECT_EQ(has(true), std::pair(true, true));
}

TEST_F(CapsuleTest, GuestIsToldOfBrokenDisksAndNotStopped)
{
    // All disks; the flash has no such thing.
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
    EXPECT_EQ(disks, 3);
}

TEST_F(CapsuleTest, CleanModeThatHangsIsStartedAnew)
{
    SupervisorLimits limits;
    limits.clean = std::chrono::seconds(1);
    limits.pause = Milliseconds(0);
    std::jthread thread([&](const std::stop_token& stop) {
        Capsule it = capsule();
        Supervisor("one", starter(it, options), limits).run(stop);
    });
    EXPECT_TRUE(waitForStarts(2));
    thread.request_stop();
    thread.join();
    // It came back as what it was.
    for (const std::string& command : started())
    {
        EXPECT_THAT(command, HasSubstr("virtio-net"));
    }
}

TEST_F(CapsuleTest, TapThatIsNotThereIsNotMade)
{
    options.tap = "tap8";
    EXPECT_THAT(
        airlock::test::errorOf<Error>([&] { capsule().start(options, false); }),
        HasSubstr("no network device 'tap8'"));
    EXPECT_THAT(runTool({"ip", "-o", "link"}), Not(HasSubstr("tap8")));
    options.tap = "lo";
    EXPECT_THAT(
        airlock::test::errorOf<Error>([&] { capsule().start(options, false); }),
        HasSubstr("cannot use lo as a tap device"));
}

TEST_F(CapsuleTest, TwoCannotKeepOneCapsuleAtWork)
{
    const RunningMode mode = capsule().start(options, true);
    EXPECT_THAT(airlock::test::errorOf<Refused>(
                    [&] { capsule().start(options, false); }),
                HasSubstr("is at work"));
}

TEST_F(CapsuleTest, NothingIsUpdatedBesideAModeAtWork)
{
    int prepared = 0;
    const auto update = [&] {
        // Not the site's images.
        capsule().replaceImages({calls, calls}, [&] { prepared++; });
    };
    {
        const RunningMode mode = capsule().start(options, false);
        EXPECT_THAT(airlock::test::errorOf<Refused>(update),
                    HasSubstr("is at work"));
        EXPECT_EQ(prepared, 0);
        EXPECT_TRUE(waitForStarts(1));
    }
    EXPECT_NO_THROW(update());
    EXPECT_EQ(prepared, 1);
}

TEST_F(CapsuleTest, VariablesThatDirtyModeLeavesAreNotBelieved)
{
    const std::filesystem::path noting = options.qemu;
    // Whatever number the flash's file has there.
    options.qemu =
        test::script(home.path() / "junk",
                     "for fd in /proc/self/fd/*; do case $(readlink $fd) in\n"
                     "*/vars.run) echo junk >$fd; echo written;; esac; done");
    const ModeEnd end = capsule().run(options, true, enough);
    EXPECT_THAT(end.console, HasSubstr("written"));
    EXPECT_FALSE(end.dirtyNext);
    EXPECT_EQ(fileSize(openFile(one.directory() / "vars.run", O_RDONLY).get()),
              5U);
    options.qemu = noting;
    commandOf(false);
    EXPECT_EQ(readFile(one.directory() / "vars.run", 1U << 20),
              readFile(one.directory() / pristineVariables, 1U << 20));
}

TEST_F(CapsuleTest, RequestForANewRootWaitsForCleanMode)
{
    giveCapsule(one.directory(), "nobody");
    const std::filesystem::path file = one.directory() / "rotate.json";
    machine::RotationRequest request;
    request.target = sha256(Bytes{1});
    request.signature = {1, 2, 3};
    const machine::SealStore store = sealStoreOf(capsule());
    machine::SealRecord record;
    record.target = request.target;
    store.write(record);

    capsule().leave(request);
    struct stat info = {};
    ASSERT_EQ(::stat(file.c_str(), &info), 0);
    EXPECT_EQ(info.st_uid, boot::findUser("nobody").id);
    commandOf(true);
    EXPECT_FALSE(store.read().rotation);
    commandOf(false);
    ASSERT_TRUE(store.read().rotation);
    EXPECT_EQ(store.read().rotation->target, request.target);
    EXPECT_EQ(store.read().rotation->signature, request.signature);
    EXPECT_EQ(store.read().target, request.target);
    EXPECT_FALSE(std::filesystem::exists(file));
}

TEST_F(CapsuleTest, RotationIsForCapsulesThatAreEnrolled)
{
    EXPECT_THAT(airlock::test::errorOf<Refused>([&] {
                    askForRotation(sealStoreOf(capsule()).read(),
                                   trust::makeKey());
                }),
                HasSubstr("not enrolled"));
}

} // namespace
} // namespace airlock::capsule
