#pragma once

#include "common/bytes.hpp"
#include "common/deadline.hpp"
#include "common/fd.hpp"

#include <sys/types.h>

#include <csignal>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace airlock
{

/** How a child ended: by exit (code) or by a signal (then code is -1). */
struct ExitStatus
{
    int code = -1;
    int signal = 0;

    bool ok() const { return signal == 0 && code == 0; }
    /** "exit status 1", "killed by signal 9 (Killed)" */
    std::string describe() const;
};

/** What to start, and with what. */
struct SpawnOptions
{
    /** argv[0] is looked up in PATH when it holds no slash. */
    std::vector<std::string> argv;
    /** "NAME=value"; without it the child has our environment. */
    std::optional<std::vector<std::string>> env;
    /** File descriptors that the child inherits under the same number (as in
     * /proc/self/fd/N); every other one above 2 is closed in it. */
    std::vector<int> inheritFds;
    int stdinFd = -1;                       ///< -1: /dev/null
    int stdoutFd = 1;                       ///< -1: /dev/null
    int stderrFd = 2;                       ///< -1: /dev/null
    std::filesystem::path workingDirectory; ///< empty: ours
    /** A process group of its own, which is killed with it. */
    bool ownGroup = false;
};

/** A child process that does not outlive its owner.
 *
 * The destructor kills and reaps it; when this process dies, the kernel kills
 * it (PR_SET_PDEATHSIG). The kernel takes the death of the *thread* that
 * started the child for that, so start children from a thread that lives as
 * long as they should. Not shared between threads; move only.
 */
class Process
{
  public:
    /** Throws SystemError when the program cannot be executed. */
    explicit Process(const SpawnOptions& options);
    Process(Process&& other) noexcept;
    Process& operator=(Process&& other) noexcept;
    ~Process();

    pid_t pid() const { return pid_; }
    /** Readable (poll) once the child has ended. */
    int pidFd() const { return pidFd_.get(); }

    /** Whether the child has not ended yet; reaps it when it has. */
    bool running();
    /** Waits for the end; nothing when it still runs after the time. */
    std::optional<ExitStatus> wait(Milliseconds timeout);
    /** Sends a signal; no effect when the child has ended. */
    void signal(int number);
    /** SIGTERM, and SIGKILL when that does not end it within `grace`. */
    ExitStatus terminate(Milliseconds grace = std::chrono::seconds(5));
    /** SIGKILL, and waits: after it the child touches nothing any more. */
    ExitStatus kill();

  private:
    void killAll() const;

    pid_t pid_ = -1;
    bool ownGroup_ = false;
    UniqueFd pidFd_;
    std::optional<ExitStatus> status_;
};

/** What a short-lived helper program said. */
struct ProcessOutput
{
    ExitStatus status;
    std::string out; ///< its standard output
    std::string err; ///< its standard error
};

/** Runs a program of ours or of the system to its end and collects what it
 * wrote. The stdout and stderr of `options` are not used. Throws TimedOut, and
 * Refused as soon as it has written more than maxOutput; then the program is
 * killed with all that it started. */
ProcessOutput runProgram(const SpawnOptions& options,
                         Milliseconds timeout = std::chrono::minutes(1),
                         std::size_t maxOutput = 16U << 20);

/** The same for a program that has to succeed: its standard output. Error with
 * its command line and what it said when it does not. */
std::string runTool(const SpawnOptions& options,
                    Milliseconds timeout = std::chrono::minutes(1));
std::string runTool(std::vector<std::string> argv,
                    Milliseconds timeout = std::chrono::minutes(1));

} // namespace airlock
