#include "common/error.hpp"
#include "common/file.hpp"
#include "common/json.hpp"
#include "common/progress.hpp"
#include "keep.hpp"
#include "options.hpp"
#include "report.hpp"
#include "story.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <system_error>
#include <thread>

namespace
{

using namespace airlock;

/** Ctrl-C in the middle of anything: remove the files and end. The kernel
 * kills the QEMUs with us. */
void cleanUpOnSignals(const std::filesystem::path& directory)
{
    sigset_t signals;
    ::sigemptyset(&signals);
    for (int number : {SIGINT, SIGTERM, SIGHUP})
    {
        ::sigaddset(&signals, number);
    }
    ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    std::thread([signals, directory] {
        int number = 0;
        ::sigwait(&signals, &number);
        std::error_code ignored;
        std::filesystem::remove_all(directory, ignored);
        std::fputs("\n", stderr);
        ::_exit(128 + number);
    }).detach();
}

/** A copy of a disk is nothing for a /tmp in memory. */
void preferVarTmp()
{
    ::setenv("TMPDIR", "/var/tmp", 0);
}

int runDemo(const demo::Options& options)
{
    vm::enterPrivateNetwork(); // before there is a second thread
    preferVarTmp();
    TempDirectory directory("airlock-demo");
    cleanUpOnSignals(directory.path());

    demo::Story story(options, ProgressStyle::detect(), directory.path());
    const demo::Outcome& outcome = story.run();
    std::fputs(demo::render(outcome).c_str(), stdout);
    if (options.json)
    {
        writeFileAtomic(*options.json, dumpJson(outcome.toJson()) + "\n");
    }
    bool held = outcome.checks.allHeld();
    fmt::print("\n{}\n", held ? "Everything held."
                              : "Not everything held: see the table above.");
    if (options.keep)
    {
        std::filesystem::path socket = directory.path() / "console";
        demo::Keeper keeper(story, socket);
        fmt::print("\nThe guest goes on running. Log in from another "
                   "terminal:\n\n    socat -,raw,echo=0,escape=0x1d "
                   "unix-connect:{}\n\n(Ctrl-] leaves; reboot as you like.) "
                   "Ctrl-C here ends it.\n",
                   socket.string());
        std::fflush(stdout);
        keeper.run();
        fmt::print("The guest has powered off.\n");
    }
    return held ? EXIT_SUCCESS : EXIT_FAILURE;
}

} // namespace

int main(int argc, char** argv)
{
    demo::ParsedOptions parsed = demo::parseOptions(argc, argv);
    if (parsed.exitStatus)
    {
        return *parsed.exitStatus;
    }
    try
    {
        return runDemo(parsed.options);
    }
    catch (const std::exception& error)
    {
        fmt::print(stderr, "airlock-demo: {}\n", error.what());
        return EXIT_FAILURE;
    }
}
