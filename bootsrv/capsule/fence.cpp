#include "bootsrv/capsule/fence.hpp"

#include "bootsrv/isolate.hpp"
#include "common/error.hpp"
#include "common/log.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <linux/close_range.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace airlock::capsule
{

namespace
{

namespace fs = std::filesystem;

constexpr int exitError = 126;
constexpr int exitUsage = 2;
/** The directories that lead to ours have to be made such that the user can
 * get there. */
constexpr mode_t mountsMask = 0022;
constexpr mode_t privateMask = 0077;

struct Options
{
    boot::Isolation isolation;
    std::string user;
    std::vector<std::string> command;
};

[[noreturn]] void becomeProgram(const Options& options)
{
    std::vector<char*> argv;
    for (const std::string& word : options.command)
    {
        argv.push_back(const_cast<char*>(word.c_str()));
    }
    argv.push_back(nullptr);
    ::execvp(argv[0], argv.data());
    throwErrno("cannot run " + options.command[0]);
}

void goBehind(Options& options)
{
    if (!options.user.empty() && ::geteuid() == 0)
    {
        options.isolation.user = boot::findUser(options.user);
    }
    options.isolation.alone = true;
    ::umask(mountsMask);
    const std::vector<std::string> missing = boot::isolate(options.isolation);
    if (!missing.empty())
    {
        throw Error(fmt::format("the kernel does not allow a part of the "
                                "fence: {}",
                                fmt::join(missing, ", ")));
    }
    ::umask(privateMask);
    // What we were in before is outside: its parent would lead there.
    fs::current_path(options.isolation.runDirectory);
}

/** The program as a child: we stay the first process behind the fence, whose
 * end the program cannot outlive, whatever it does, and which it cannot get
 * at. */
int keepProgram(const Options& options)
{
    ::prctl(PR_SET_DUMPABLE, 0);
    const pid_t child = ::fork();
    if (child < 0)
    {
        throwErrno("cannot start a process");
    }
    if (child == 0)
    {
        becomeProgram(options);
    }
    ::syscall(SYS_close_range, 3U, ~0U, 0U);
    int status = 0;
    // Orphans come to us, too.
    for (pid_t ended = 0; ended != child;)
    {
        ended = ::wait(&status);
    }
    return boot::exitCodeOf(status);
}

} // namespace

void Fence::putAround(SpawnOptions& options, const Room& room) const
{
    std::vector<std::string> argv = {
        program,        fenced,
        "--directory",  room.directory,
        "--hide",       hidden,
        "--user",       user,
        "--file-bytes", std::to_string(room.fileBytes)};
    if (!room.mayWrite)
    {
        argv.emplace_back("--read-only");
    }
    argv.emplace_back("--");
    argv.insert(argv.end(), options.argv.begin(), options.argv.end());
    options.argv = std::move(argv);
    // Nothing of ours: a service manager's socket, for one.
    options.env = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"};
    options.workingDirectory = "/";
}

int runFenced(int argc, const char* const* argv)
{
    Options options;
    CLI::App app("Runs a capsule's program behind a fence; started by "
                 "airlock-bootd only.",
                 "airlock-bootd fenced");
    app.add_option("--directory", options.isolation.runDirectory,
                   "what it works in")
        ->required();
    app.add_flag("--read-only", options.isolation.runReadOnly,
                 "it writes nothing there");
    app.add_option("--hide", options.isolation.hidden,
                   "directory to make empty");
    app.add_option("--user", options.user, "become this user");
    app.add_option("--file-bytes", options.isolation.fileBytes,
                   "longest file that it may write")
        ->required();
    app.add_option("COMMAND", options.command, "what to run")->required();
    try
    {
        app.parse(argc, argv);
    }
    catch (const CLI::ParseError& error)
    {
        return app.exit(error) == 0 ? 0 : exitUsage;
    }
    try
    {
        goBehind(options);
        return keepProgram(options);
    }
    catch (const std::exception& error)
    {
        log::error("A capsule's program cannot be started behind the fence",
                   {{"REASON", error.what()}});
    }
    return exitError;
}

} // namespace airlock::capsule
