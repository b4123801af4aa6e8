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
    bool ownGroup = false;
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
    if (plan.ownGroup && ::setpgid(0, 0) != 0)
    {
        return errno;
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
    // What we have blocked (StopSignals) is no business of the program.
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
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

pid_t start(const ChildPlan& plan, const std::string& program)
{
    sigset_t all;
    sigset_t before;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before);
    volatile int error = 0;
    pid_t pid = vforkExec(plan, error);
    int forkError = errno;
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
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

/** What a child writes to its standard output or error. */
class OutputPipe
{
  public:
    /** Refused when it becomes more than `max` bytes. */
    OutputPipe(std::string what, std::size_t max)
        : what_(std::move(what)), max_(max)
    {
        std::array<int, 2> ends{};
        if (::pipe2(ends.data(), O_CLOEXEC) != 0)
        {
            throwErrno("cannot make a pipe");
        }
        read_.reset(ends[0]);
        write_.reset(ends[1]);
        if (::fcntl(read_.get(), F_SETFL, O_NONBLOCK) != 0)
        {
            throwErrno("cannot read a pipe without waiting");
        }
    }

    int writeEnd() const { return write_.get(); }
    /** Once the child has it. */
    void closeWriteEnd() { write_.reset(); }
    /** To wait for more; -1 when there will be no more. */
    int readEnd() const { return read_.get(); }

    /** Reads what is there. */
    void drain()
    {
        std::array<char, 16384> buffer{};
        while (read_)
        {
            const ssize_t got =
                ::read(read_.get(), buffer.data(), buffer.size());
            if (got < 0 && errno == EAGAIN)
            {
                return;
            }
            if (got < 0 && errno != EINTR)
            {
                throwErrno("cannot read " + what_);
            }
            if (got == 0)
            {
                read_.reset();
            }
            append(buffer.data(), got > 0 ? static_cast<std::size_t>(got) : 0);
        }
    }

    std::string take() { return std::move(text_); }

  private:
    void append(const char* data, std::size_t size)
    {
        if (size > max_ - text_.size())
        {
            throw Refused(what_, fmt::format("more than {} bytes", max_));
        }
        text_.append(data, size);
    }

    std::string what_;
    std::size_t max_;
    UniqueFd read_;
    UniqueFd write_;
    std::string text_;
};

/** Reads what the child writes until it ends; nothing when it does not. */
std::optional<ExitStatus> followToEnd(Process& child, OutputPipe& out,
                                      OutputPipe& err, Milliseconds timeout)
{
    const Deadline deadline(timeout);
    while (child.running())
    {
        if (deadline.passed())
        {
            return std::nullopt;
        }
        pollfd events[] = {{child.pidFd(), POLLIN, 0},
                           {out.readEnd(), POLLIN, 0},
                           {err.readEnd(), POLLIN, 0}};
        if (::poll(events, 3, deadline.pollTimeout()) < 0 && errno != EINTR)
        {
            throwErrno("cannot wait for process " +
                       std::to_string(child.pid()));
        }
        out.drain();
        err.drain();
    }
    // Not to the end of the pipes: what it started may have them, too.
    out.drain();
    err.drain();
    return child.wait(Milliseconds::zero());
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
    plan.ownGroup = options.ownGroup;
    pid_ = start(plan, options.argv[0]);
    ownGroup_ = options.ownGroup;
    pidFd_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
    if (!pidFd_)
    {
        int error = errno;
        killAll();
        reap(pid_);
        throw SystemError("cannot watch a process", error);
    }
}

Process::Process(Process&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), ownGroup_(other.ownGroup_),
      pidFd_(std::move(other.pidFd_)), status_(other.status_)
{}

Process& Process::operator=(Process&& other) noexcept
{
    std::swap(pid_, other.pid_);
    std::swap(ownGroup_, other.ownGroup_);
    std::swap(pidFd_, other.pidFd_);
    std::swap(status_, other.status_);
    return *this;
}

Process::~Process()
{
    if (pid_ > 0 && !status_)
    {
        killAll();
        reap(pid_);
    }
}

/** Until it is reaped, nobody else can get its number. */
void Process::killAll() const
{
    ::kill(ownGroup_ ? -pid_ : pid_, SIGKILL);
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
    if (running())
    {
        killAll();
    }
    while (!wait(std::chrono::hours(1)))
    {}
    return *status_;
}

ProcessOutput runProgram(const SpawnOptions& options, Milliseconds timeout,
                         std::size_t maxOutput)
{
    const std::string name = options.argv.empty() ? "" : options.argv[0];
    OutputPipe out(name + ": output", maxOutput);
    OutputPipe err(name + ": error output", maxOutput);
    SpawnOptions redirected = options;
    redirected.stdoutFd = out.writeEnd();
    redirected.stderrFd = err.writeEnd();
    redirected.ownGroup = true;
    Process child(redirected);
    out.closeWriteEnd();
    err.closeWriteEnd();
    const std::optional<ExitStatus> status =
        followToEnd(child, out, err, timeout);
    if (!status)
    {
        throw TimedOut(name + " did not end within " +
                       std::to_string(timeout.count()) + " ms");
    }
    return {*status, out.take(), err.take()};
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
