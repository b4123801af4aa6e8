#include "common/file.hpp"
#include "common/json.hpp"
#include "common/progress.hpp"
#include "isolated_story.hpp"
#include "options.hpp"
#include "report.hpp"
#include "story.hpp"
#include "tools/rigs/contained.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <thread>

namespace
{

using namespace airlock;

/** Says how to use the guest, and waits until it is switched off. */
template <typename Story>
void keep(Story& story)
{
    rig::HostRig& host = story.host();
    std::string virsh = fmt::format("virsh -c '{}'", host.libvirt().uri());
    fmt::print("\nThe guest goes on running. From another terminal:\n\n"
               "    {0} console {1}\n    {0} reboot {1}\n"
               "    {2} --socket {3} jobs {1}\n\n"
               "(Ctrl-] leaves the console.) Ctrl-C here ends it.\n",
               virsh, host.domain(),
               host.program("tools/airlockctl/airlockctl"),
               (host.path() / "hostd.sock").string());
    std::fflush(stdout);
    while (host.domainState() != "shut off")
    {
        std::this_thread::sleep_for(std::chrono::seconds(1));
    }
    fmt::print("The guest has powered off.\n");
}

/** What both stories end with. */
template <typename Story>
int conclude(const demo::Options& options, Story& story, const Json& result,
             bool held)
{
    if (options.json)
    {
        writeFileAtomic(*options.json, dumpJson(result) + "\n");
    }
    fmt::print("\n{}\n", held ? "Everything held."
                              : "Not everything held: see the table above.");
    if (options.keep)
    {
        keep(story);
    }
    return held ? EXIT_SUCCESS : EXIT_FAILURE;
}

int runDemo(const demo::Options& options)
{
    demo::Story story(options, ProgressStyle::detect());
    const demo::Outcome& outcome = story.run();
    std::fputs(demo::render(outcome).c_str(), stdout);
    return conclude(options, story, outcome.toJson(), outcome.checks.allHeld());
}

int runIsolated(const demo::Options& options)
{
    const TempDirectory directory("site");
    demo::IsolatedStory story(directory.path(), *options.isolated,
                              ProgressStyle::detect());
    story.run();
    std::fputs(story.render().c_str(), stdout);
    return conclude(options, story, story.toJson(), story.checks().allHeld());
}

} // namespace

int main(int argc, char** argv)
{
    demo::ParsedOptions parsed = demo::parseOptions(argc, argv);
    if (parsed.exitStatus)
    {
        return *parsed.exitStatus;
    }
    // Where all parts look for what was built.
    ::setenv("AIRLOCK_BUILD", parsed.options.build.c_str(), 1);
    try
    {
        return rig::runContained("airlock", [&] {
            return parsed.options.isolated ? runIsolated(parsed.options)
                                           : runDemo(parsed.options);
        });
    }
    catch (const std::exception& error)
    {
        fmt::print(stderr, "airlock-demo: {}\n", error.what());
        return EXIT_FAILURE;
    }
}
