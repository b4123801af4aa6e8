#include "tools/rigs/contained.hpp"

#include "common/error.hpp"
#include "common/file.hpp"
#include "tools/rigs/guest_case.hpp"

#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>

namespace airlock::rig
{

namespace
{

constexpr int fromSignal = 128;

sigset_t endSignals()
{
    sigset_t out;
    ::sigemptyset(&out);
    for (int number : {SIGINT, SIGTERM, SIGHUP, SIGCHLD})
    {
        ::sigaddset(&out, number);
    }
    return out;
}

int exitStatusOf(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status)
                             : fromSignal + WTERMSIG(status);
}

[[noreturn]] void runBody(const std::filesystem::path& directory,
                          const std::function<int()>& body)
{
    int status = EXIT_FAILURE;
    try
    {
        if (::mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC,
                    nullptr) != 0)
        {
            throwErrno("cannot mount /proc");
        }
        ::setenv("TMPDIR", directory.c_str(), 1);
        status = body();
    }
    catch (const std::exception& error)
    {
        std::fprintf(stderr, "%s\n", error.what());
    }
    std::fflush(nullptr);
    ::_exit(status);
}

/** The init of the new process ids: waits for all that are left to it, daemons
 * that others have started, until the body ends. */
[[noreturn]] void runInit(const std::filesystem::path& directory,
                          const std::function<int()>& body)
{
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigset_t signals = endSignals();
    ::sigprocmask(SIG_UNBLOCK, &signals, nullptr);
    pid_t child = ::fork();
    if (child == 0)
    {
        runBody(directory, body);
    }
    for (;;)
    {
        int status = 0;
        pid_t ended = ::wait(&status);
        if (ended == child || ended == -1)
        {
            ::_exit(ended == child ? exitStatusOf(status) : EXIT_FAILURE);
        }
    }
}

/** Waits for the child's end; a signal to us is the child's end. */
int waitFor(pid_t child)
{
    sigset_t signals = endSignals();
    int killedBy = 0;
    int status = 0;
    while (::waitpid(child, &status, WNOHANG) == 0)
    {
        int number = 0;
        ::sigwait(&signals, &number);
        if (number != SIGCHLD)
        {
            killedBy = number;
            ::kill(child, SIGKILL);
        }
    }
    if (killedBy != 0)
    {
        return fromSignal + killedBy;
    }
    return exitStatusOf(status);
}

} // namespace

int runContained(const std::string& name, const std::function<int()>& body)
{
    preferVarTmp();
    TempDirectory directory(name);
    return runContainedIn(directory.path(), body);
}

int runContainedIn(const std::filesystem::path& directory,
                   const std::function<int()>& body,
                   const std::function<void(pid_t)>& started)
{
    if (::unshare(CLONE_NEWPID | CLONE_NEWNS) != 0 ||
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    {
        throwErrno("cannot have process ids and mounts of our own");
    }
    sigset_t signals = endSignals();
    ::sigprocmask(SIG_BLOCK, &signals, nullptr);
    pid_t child = ::fork();
    if (child == -1)
    {
        throwErrno("cannot fork");
    }
    if (child == 0)
    {
        runInit(directory, body);
    }
    if (started)
    {
        started(child);
    }
    return waitFor(child);
}

} // namespace airlock::rig
