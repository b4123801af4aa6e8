#include "common/file.hpp"
#include "common/process.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace std::chrono_literals;

namespace airlock
{
namespace
{

SpawnOptions shell(const std::string& script)
{
    SpawnOptions options;
    options.argv = {"sh", "-c", script};
    return options;
}

TEST(Process, TellsExitStatusAndOutput)
{
    ProcessOutput result = runProgram(shell("echo out; echo err >&2; exit 3"));
    EXPECT_EQ(result.status.code, 3);
    EXPECT_EQ(result.status.describe(), "exit status 3");
    EXPECT_EQ(result.out, "out\n");
    EXPECT_EQ(result.err, "err\n");
}

TEST(Process, StandardInputIsEmptyUnlessGiven)
{
    EXPECT_EQ(runProgram(shell("cat; echo end")).out, "end\n");
    UniqueFd input = sealedMemfd("in", Bytes{'h', 'i'});
    ASSERT_EQ(::lseek(input.get(), 0, SEEK_SET), 0);
    SpawnOptions options = shell("cat");
    options.stdinFd = input.get();
    EXPECT_EQ(runProgram(options).out, "hi");
}

TEST(Process, AProgramThatIsNotThereIsAnErrorNotAStatus)
{
    SpawnOptions options;
    options.argv = {"/no/such/program"};
    try
    {
        Process child(options);
        FAIL() << "started a program that does not exist";
    }
    catch (const SystemError& error)
    {
        EXPECT_EQ(error.code(), ENOENT);
        EXPECT_THAT(error.what(), testing::HasSubstr("/no/such/program"));
    }
    EXPECT_THROW(Process(SpawnOptions{}), Error);
}

TEST(Process, GivesEnvironmentAndWorkingDirectory)
{
    TempDirectory dir;
    SpawnOptions options = shell("echo $AIRLOCK_TEST; pwd");
    options.argv[0] = "/bin/sh";
    options.env = {"AIRLOCK_TEST=yes"};
    options.workingDirectory = dir.path();
    EXPECT_EQ(runProgram(options).out, "yes\n" + dir.path().string() + "\n");
}

TEST(Process, InheritsListedDescriptorsOnlyUnderTheirNumber)
{
    UniqueFd listed = createMemfd("listed", 0);
    UniqueFd open = createMemfd("open", 0);
    ASSERT_EQ(::fcntl(open.get(), F_SETFD, 0), 0); // inheritable by mistake
    SpawnOptions options = shell("ls /proc/$$/fd");
    options.inheritFds = {listed.get()};
    std::string fds = runProgram(options).out;
    EXPECT_THAT(fds, testing::HasSubstr(std::to_string(listed.get()) + "\n"));
    EXPECT_THAT(fds, testing::Not(testing::HasSubstr(
                         "\n" + std::to_string(open.get()) + "\n")));
    EXPECT_EQ(::fcntl(listed.get(), F_GETFD), FD_CLOEXEC)
        << "ours must stay closed to other children";
}

TEST(Process, ResetsSignalsThatWeIgnoreOrBlock)
{
    ::signal(SIGPIPE, SIG_IGN);
    sigset_t blocked;
    sigset_t before;
    ::sigemptyset(&blocked);
    ::sigaddset(&blocked, SIGTERM);
    ::pthread_sigmask(SIG_BLOCK, &blocked, &before);
    std::string status =
        runProgram(shell("grep -E 'Sig(Ign|Blk)' /proc/self/status")).out;
    sigset_t after;
    ::pthread_sigmask(SIG_SETMASK, &before, &after);
    EXPECT_EQ(::sigismember(&after, SIGTERM), 1) << "ours is as it was";
    ::signal(SIGPIPE, SIG_DFL);
    EXPECT_EQ(status, "SigBlk:\t0000000000000000\n"
                      "SigIgn:\t0000000000000000\n");
}

TEST(Process, WaitTimesOutAndKillEnds)
{
    Process child(shell("exec sleep 60"));
    EXPECT_FALSE(child.wait(20ms).has_value());
    EXPECT_TRUE(child.running());
    ExitStatus status = child.kill();
    EXPECT_EQ(status.signal, SIGKILL);
    EXPECT_THAT(status.describe(), testing::HasSubstr("signal 9"));
    EXPECT_FALSE(child.running());
    child.signal(SIGTERM); // no effect on whoever has the number now
}

/** A script that has said something: what comes before that is done. */
Process ready(const std::string& script)
{
    int ends[2] = {-1, -1};
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    UniqueFd in(ends[0]);
    UniqueFd out(ends[1]);
    SpawnOptions options = shell(script);
    options.stdoutFd = out.get();
    Process child(options);
    out.reset();
    char said = 0;
    EXPECT_EQ(::read(in.get(), &said, 1), 1) << script;
    return child;
}

TEST(Process, TerminateAsksFirstAndInsistsLater)
{
    Process polite =
        ready("trap 'exit 5' TERM; echo; while :; do sleep 0.01; done");
    EXPECT_EQ(polite.terminate(10s).code, 5);

    Process stubborn =
        ready("trap '' TERM; echo; while :; do sleep 0.01; done");
    EXPECT_EQ(stubborn.terminate(50ms).signal, SIGKILL);
}

TEST(Process, TheDestructorLeavesNoChildBehind)
{
    pid_t pid = 0;
    {
        Process child(shell("exec sleep 60"));
        Process moved = std::move(child);
        pid = moved.pid();
        EXPECT_EQ(::kill(pid, 0), 0);
    }
    EXPECT_EQ(::waitpid(pid, nullptr, WNOHANG), -1);
    EXPECT_EQ(errno, ECHILD);
}

TEST(Process, RunProgramKillsWhatDoesNotEnd)
{
    EXPECT_THROW(runProgram(shell("exec sleep 60"), 50ms), TimedOut);
    EXPECT_THROW(runProgram(shell("echo 123456"), 10s, 3), Refused);
    EXPECT_THROW(runProgram(shell("echo 123456 >&2"), 10s, 3), Refused);
    EXPECT_EQ(runProgram(shell("echo 12"), 10s, 3).out, "12\n");
    // While it runs, not when it has filled the memory.
    EXPECT_THROW(runProgram(shell("exec yes"), 1h, 1U << 20), Refused);
}

TEST(Process, RunProgramKillsWhatThatHasStartedToo)
{
    int ends[2] = {-1, -1};
    ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    UniqueFd in(ends[0]);
    UniqueFd out(ends[1]);
    SpawnOptions options = shell("sleep 3600 & wait");
    options.inheritFds = {out.get()};
    EXPECT_THROW(runProgram(options, 500ms), TimedOut);
    out.reset();
    // End of file only comes when both are gone.
    EXPECT_TRUE(readToEnd(in.get(), 10, "pipe").empty());
}

TEST(Process, RunProgramDoesNotWaitForWhatIsLeftBehind)
{
    EXPECT_EQ(runProgram(shell("echo started; sleep 5 & exit 0"), 1h).out,
              "started\n");
}

/** The kernel must end the grandchild when its parent is killed outright. */
TEST(Process, ChildrenDieWithUs)
{
    int pipeFds[2];
    ASSERT_EQ(::pipe2(pipeFds, O_CLOEXEC), 0);
    UniqueFd readEnd(pipeFds[0]);
    UniqueFd writeEnd(pipeFds[1]);
    pid_t middle = ::fork();
    if (middle == 0)
    {
        SpawnOptions options = shell("exec sleep 60");
        options.inheritFds = {writeEnd.get()};
        Process grandchild(options);
        ::raise(SIGKILL);
    }
    writeEnd.reset();
    ASSERT_EQ(::waitpid(middle, nullptr, 0), middle);
    // End of file only comes when the grandchild is gone as well.
    EXPECT_TRUE(readToEnd(readEnd.get(), 10, "pipe").empty());
}

} // namespace
} // namespace airlock
