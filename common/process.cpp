#include "common/process.hpp"

#include "common/file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <utility>

extern char** environ;

namespace airlock
{

namespace
{

/** All that the child needs between vfork and exec, made beforehand: there it
 * may neither allocate nor take a lock. */
struct ChildPlan
{
    std::vector<const char*> argv;
    std::vector<const char*> env;
    char* const* envp = environ;
    const std::vector<int>* inheritFds = nullptr;
    std::array<UniqueFd, 3> standard;
    const char* directory = nullptr;
    pid_t parent = 0;
    sigset_t signalMask = {};
};

std::vector<const char*> pointers(const std::vector<std::string>& texts)
{
    std::vector<const char*> out;
    out.reserve(texts.size() + 1);
    for (const std::string& text : texts)
    {
        out.push_back(text.c_str());
    }
    out.push_back(nullptr);
    return out;
}

/** A duplicate above 2, so that moving one standard descriptor into place
 * cannot overwrite another one's source. */
UniqueFd duplicateHigh(int fd)
{
    UniqueFd source;
    if (fd < 0)
    {
        source = openFile("/dev/null", O_RDWR);
    }
    UniqueFd out(::fcntl(fd < 0 ? source.get() : fd, F_DUPFD_CLOEXEC, 3));
    if (!out)
    {
        throwErrno("cannot pass file descriptor " + std::to_string(fd) +
                   " to a child");
    }
    return out;
}

/** Child side; async-signal-safe calls only. Returns the errno of the step
 * that failed; does not return when the program was started. */
int becomeProgram(const ChildPlan& plan)
{
    // A handler of ours would run on the parent's memory (vfork).
    for (int number = 1; number < NSIG; ++number)
    {
        ::signal(number, SIG_DFL);
    }
    if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
    {
        return errno;
    }
    if (::getppid() != plan.parent)
    {
        return ESRCH; // the parent died before the request was in force
    }
    if (plan.directory != nullptr && ::chdir(plan.directory) != 0)
    {
        return errno;
    }
    for (int i = 0; i < 3; ++i)
    {
        if (::dup2(plan.standard[static_cast<std::size_t>(i)].get(), i) < 0)
        {
            return errno;
        }
    }
    if (::syscall(SYS_close_range, 3U, ~0U, CLOSE_RANGE_CLOEXEC) != 0)
    {
        return errno;
    }
    for (int fd : *plan.inheritFds)
    {
        if (::fcntl(fd, F_SETFD, 0) != 0)
        {
            return errno;
        }
    }
    ::sigprocmask(SIG_SETMASK, &plan.signalMask, nullptr);
    ::execvpe(plan.argv[0], const_cast<char* const*>(plan.argv.data()),
              plan.envp);
    return errno;
}

/** Starts the child; the error of the child side comes back in `error`. vfork
 * rather than fork: it costs the same however much guest memory is mapped. */
[[gnu::noinline]] pid_t vforkExec(const ChildPlan& plan, volatile int& error)
{
    pid_t pid = ::vfork();
    if (pid == 0)
    {
        error = becomeProgram(plan);
        ::_exit(127);
    }
    return pid;
}

void reap(pid_t pid)
{
    while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR)
    {}
}

pid_t start(ChildPlan& plan, const std::string& program)
{
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &plan.signalMask);
    volatile int error = 0;
    pid_t pid = vforkExec(plan, error);
    int forkError = errno;
    ::pthread_sigmask(SIG_SETMASK, &plan.signalMask, nullptr);
    if (pid < 0)
    {
        throw SystemError("cannot start a process for " + program, forkError);
    }
    if (error != 0)
    {
        reap(pid);
        throw SystemError("cannot run " + program, error);
    }
    return pid;
}

ExitStatus decode(int status)
{
    if (WIFSIGNALED(status))
    {
        return {-1, WTERMSIG(status)};
    }
    return {WEXITSTATUS(status), 0};
}

std::string outputIn(int fd, std::size_t max, const std::string& where)
{
    return std::string(asText(readFile(fd, max, where)));
}

} // namespace

std::string ExitStatus::describe() const
{
    if (signal == 0)
    {
        return "exit status " + std::to_string(code);
    }
    return "killed by signal " + std::to_string(signal) + " (" +
           ::strsignal(signal) + ")";
}

Process::Process(const SpawnOptions& options)
{
    if (options.argv.empty())
    {
        throw Error("no program to run was given");
    }
    ChildPlan plan;
    plan.argv = pointers(options.argv);
    if (options.env)
    {
        plan.env = pointers(*options.env);
        plan.envp = const_cast<char* const*>(plan.env.data());
    }
    plan.inheritFds = &options.inheritFds;
    plan.standard = {duplicateHigh(options.stdinFd),
                     duplicateHigh(options.stdoutFd),
                     duplicateHigh(options.stderrFd)};
    if (!options.workingDirectory.empty())
    {
        plan.directory = options.workingDirectory.c_str();
    }
    plan.parent = ::getpid();
    pid_ = start(plan, options.argv[0]);
    pidFd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    if (!pidFd_)
    {
        int error = errno;
        ::kill(pid_, SIGKILL);
        reap(pid_);
        throw SystemError("cannot watch a process", error);
    }
}

Process::Process(Process&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), pidFd_(std::move(other.pidFd_)),
      status_(other.status_)
{}

Process& Process::operator=(Process&& other) noexcept
{
    std::swap(pid_, other.pid_);
    std::swap(pidFd_, other.pidFd_);
    std::swap(status_, other.status_);
    return *this;
}

Process::~Process()
{
    if (pid_ > 0 && !status_)
    {
        ::syscall(SYS_pidfd_send_signal, pidFd_.get(), SIGKILL, nullptr, 0);
        reap(pid_);
    }
}

bool Process::running()
{
    return !wait(Milliseconds::zero()).has_value();
}

std::optional<ExitStatus> Process::wait(Milliseconds timeout)
{
    Deadline deadline(timeout);
    while (!status_)
    {
        pollfd event{pidFd_.get(), POLLIN, 0};
        int ready = ::poll(&event, 1, deadline.pollTimeout());
        if (ready < 0 && errno != EINTR)
        {
            throwErrno("cannot wait for process " + std::to_string(pid_));
        }
        int status = 0;
        if (ready > 0 && ::waitpid(pid_, &status, WNOHANG) == pid_)
        {
            status_ = decode(status);
        }
        else if (deadline.passed())
        {
            break;
        }
    }
    return status_;
}

void Process::signal(int number)
{
    if (running())
    {
        ::syscall(SYS_pidfd_send_signal, pidFd_.get(), number, nullptr, 0);
    }
}

ExitStatus Process::terminate(Milliseconds grace)
{
    signal(SIGTERM);
    std::optional<ExitStatus> status = wait(grace);
    return status ? *status : kill();
}

ExitStatus Process::kill()
{
    signal(SIGKILL);
    while (!wait(std::chrono::hours(1)))
    {}
    return *status_;
}

ProcessOutput runProgram(const SpawnOptions& options, Milliseconds timeout,
                         std::size_t maxOutput)
{
    UniqueFd out = createMemfd("stdout", 0);
    UniqueFd err = createMemfd("stderr", 0);
    SpawnOptions redirected = options;
    redirected.stdoutFd = out.get();
    redirected.stderrFd = err.get();
    Process child(redirected);
    std::optional<ExitStatus> status = child.wait(timeout);
    const std::string& name = options.argv[0];
    if (!status)
    {
        throw TimedOut(name + " did not end within " +
                       std::to_string(timeout.count()) + " ms");
    }
    return {*status, outputIn(out.get(), maxOutput, name + ": output"),
            outputIn(err.get(), maxOutput, name + ": error output")};
}

std::string runTool(const SpawnOptions& options, Milliseconds timeout)
{
    ProcessOutput output = runProgram(options, timeout);
    if (!output.status.ok())
    {
        throw Error(fmt::format("{}: {}: {}", fmt::join(options.argv, " "),
                                output.status.describe(), output.err));
    }
    return output.out;
}

std::string runTool(std::vector<std::string> argv, Milliseconds timeout)
{
    SpawnOptions options;
    options.argv = std::move(argv);
    return runTool(options, timeout);
}

} // namespace airlock
