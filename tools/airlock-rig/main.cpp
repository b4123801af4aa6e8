#include "common/error.hpp"
#include "common/progress.hpp"
#include "common/stop_signals.hpp"
#include "devmodel/vm/qemu_argv.hpp"
#include "tools/airlock-rig/capture.hpp"
#include "tools/airlock-rig/keeper.hpp"

#include <CLI/CLI.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>

#include <algorithm>
#include <functional>
#include <string_view>
#include <thread>

// The hosts of an isolated site on this machine, for people: airlock-rig(1).

namespace airlock::rig
{
namespace
{

namespace fs = std::filesystem;

constexpr int exitUsage = 2;
constexpr Milliseconds upTime = std::chrono::minutes(20);

struct Options
{
    fs::path build = vm::defaultBuildDirectory();
    KeeperOptions keeper;
    std::string host;
    std::vector<std::string> command;
    std::vector<std::string> ports;
    fs::path output;
    unsigned seconds = 0;
};

/** One "up" or "down" of a build at a time. */
UniqueFd lock(const Options& options)
{
    UniqueFd out = openFile(options.build, O_RDONLY | O_DIRECTORY);
    if (::flock(out.get(), LOCK_EX | LOCK_NB) != 0)
    {
        throw Error("another tools/rig up or down is at work");
    }
    return out;
}

void printUsage()
{
    fmt::print(R"(
The boot host is clean, its port open. To use it:

    tools/rig shell production virsh start demo        trapped, booted by the
                                                       boot host, comes back
    tools/rig shell production airlockctl events -f    how that goes
    tools/rig shell administrator airlockctl switch ports
    tools/rig shell boot console -f                    what the boot host says
    tools/rig capture -o frames.pcapng                 frames at the switch
    tools/rig shell HOST                               a shell on production,
                                                       switch, boot or
                                                       administrator
    tools/rig down                                     ends all of it
)");
}

/** Waits until it is up; Error with what went wrong. */
void waitUp(const RigState& state, const std::stop_token& stop)
{
    Step step(ProgressStyle::detect(), "A site with an isolated boot host");
    for (const Deadline deadline(upTime);;)
    {
        const Json status = state.status();
        const std::string now = status.value("state", "");
        if (now == "up")
        {
            step.done();
            return;
        }
        if (now == "failed" || !state.init()->alive())
        {
            throw Error("the rig does not come up: " +
                        status.value("step", "see its log"));
        }
        if (stop.stop_requested() || deadline.passed())
        {
            throw Error(deadline.passed() ? "the rig does not come up in time"
                                          : "stopped");
        }
        step.note(status.value("step", ""));
        std::this_thread::sleep_for(Milliseconds(200));
    }
}

int up(const Options& options)
{
    const UniqueFd held = lock(options);
    RigState state(options.build);
    const auto init = state.init();
    if (init && init->alive())
    {
        throw Error("a rig is up already: tools/rig down ends it");
    }
    state.takeDown(); // what a rig that was killed has left
    const StopSignals signals;
    try
    {
        startKeeper(state, options.keeper);
        waitUp(state, signals.token());
    }
    catch (const std::exception&)
    {
        state.takeDown();
        throw;
    }
    printUsage();
    return 0;
}

int down(const Options& options)
{
    const UniqueFd held = lock(options);
    const bool was = RigState(options.build).takeDown();
    fmt::print("{}\n", was ? "The rig is down; nothing of it is left."
                           : "There is no rig.");
    return 0;
}

int shell(const Options& options)
{
    return runInHost(RigState(options.build), options.host, options.command);
}

/** In the switch's network; whoever starts it there says what to look at. */
int captureHere(const Options& options)
{
    const StopSignals signals;
    CaptureOptions what;
    what.ports = options.ports;
    if (what.ports.empty())
    {
        what.ports = {SwitchedHosts::bootPort, SwitchedHosts::productionPort};
    }
    what.socket = RigState(options.build).site() / "switchd.sock";
    what.output = options.output;
    if (options.seconds != 0)
    {
        what.time = std::chrono::seconds(options.seconds);
    }
    capture(what, signals.token());
    return 0;
}

int captureThere(const Options& options)
{
    std::vector<std::string> command = {fs::read_symlink("/proc/self/exe"),
                                        "capture-here",
                                        "--build",
                                        fs::absolute(options.build),
                                        "--seconds",
                                        std::to_string(options.seconds)};
    if (!options.output.empty())
    {
        command.insert(command.end(), {"--output", options.output});
    }
    command.insert(command.end(), options.ports.begin(), options.ports.end());
    return runInHost(RigState(options.build), "switch", command);
}

using Command = std::function<int(const Options&)>;

CLI::App& add(CLI::App& app, Options& options, const char* name,
              const char* help, Command command, Command& chosen)
{
    CLI::App* out = app.add_subcommand(name, help);
    out->callback(
        [&chosen, command = std::move(command)] { chosen = command; });
    out->add_option("--build", options.build, "Build directory")
        ->capture_default_str();
    return *out;
}

void addRig(CLI::App& app, Options& options)
{
    app.add_option("--images", options.keeper.boot.images,
                   "Directory with clean.efi, dirty.efi and the site's keys")
        ->required();
    app.add_option("--guest", options.keeper.guest,
                   "Kernel of the guest's image")
        ->capture_default_str();
    app.add_option("--cpus", options.keeper.boot.cpus,
                   "Processors of the boot host")
        ->capture_default_str()
        ->check(CLI::Range(1U, 64U));
    app.add_option("--memory", options.keeper.boot.memoryMiB,
                   "Its memory in MiB")
        ->capture_default_str()
        ->check(CLI::Range(512U, 1U << 20));
}

void addCapture(CLI::App& app, Options& options)
{
    app.add_option("PORT", options.ports,
                   "Interfaces of the switch (default: boot0 and prod0)");
    app.add_option(
        "-o,--output", options.output,
        "Where the frames go, as pcapng; standard output without it");
    app.add_option("--seconds", options.seconds,
                   "How long; until it is stopped without it");
}

void addCommands(CLI::App& app, Options& options, Command& chosen)
{
    addRig(add(app, options, "up", "Bring the hosts up", up, chosen), options);
    add(app, options, "down", "End all of it", down, chosen);
    CLI::App& inHost =
        add(app, options, "shell", "Run a command, or a shell, on a host",
            shell, chosen);
    inHost
        .add_option("HOST", options.host,
                    "production, switch, boot or administrator")
        ->required();
    addCapture(add(app, options, "capture", "Write the frames at the switch",
                   captureThere, chosen),
               options);
    CLI::App& here = add(app, options, "capture-here", "", captureHere, chosen);
    here.group("");
    addCapture(here, options);
    CLI::App& keeper = add(
        app, options, "keep", "",
        [](const Options& all) {
            return keep(RigState(all.build), all.keeper);
        },
        chosen);
    keeper.group("");
    addRig(keeper, options);
}

/** What comes behind "shell HOST" is a command of its own, whatever its words
 * look like. */
int endOfOurs(int argc, char** argv)
{
    if (argc < 2 || std::string_view(argv[1]) != "shell")
    {
        return argc;
    }
    int host = 2;
    while (host < argc && argv[host][0] == '-')
    {
        host += std::string_view(argv[host]) == "--build" ? 2 : 1;
    }
    return std::min(argc, host + 1);
}

int run(int argc, char** argv)
{
    CLI::App app("The hosts of an isolated site on this machine, each in a "
                 "network namespace.",
                 "airlock-rig");
    app.require_subcommand(1);
    Options options;
    Command chosen;
    addCommands(app, options, chosen);
    try
    {
        const int ours = endOfOurs(argc, argv);
        options.command.assign(argv + ours, argv + argc);
        app.parse(ours, argv);
    }
    catch (const CLI::ParseError& error)
    {
        return app.exit(error) == 0 ? 0 : exitUsage;
    }
    // Where all parts look for what was built.
    ::setenv("AIRLOCK_BUILD", fs::absolute(options.build).c_str(), 1);
    try
    {
        return chosen(options);
    }
    catch (const std::exception& error)
    {
        fmt::print(stderr, "airlock-rig: {}\n", error.what());
        return EXIT_FAILURE;
    }
}

} // namespace
} // namespace airlock::rig

int main(int argc, char** argv)
{
    return airlock::rig::run(argc, argv);
}
