/** From "the guest is paused on the boot machine" to "the guest runs on the
 * production machine", against QEMU's own way to take a guest from one process
 * to another without a network: `migrate` to a file and `-incoming` from it.
 *
 * Ours includes everything: device state saved, the boot QEMU ended, memory
 * digested, copied and compared with the digests, state parsed, reduced,
 * admitted, loaded. The baseline is given what favours it: its file is in
 * memory, not on a disk, and in the "unlimited" rows nothing holds its speed
 * back (QEMU's default is 128 MiB/s). Every measurement boots its own guest.
 */
#include "common/error.hpp"
#include "common/file.hpp"
#include "devmodel/vm/qemu_argv.hpp"
#include "guest_files.hpp"
#include "paired.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <chrono>
#include <string>
#include <vector>

namespace airlock::bench
{
namespace
{

using Clock = std::chrono::steady_clock;
using test::GuestFiles;

constexpr std::uint64_t gib = 1ULL << 30;
constexpr Milliseconds migrateTime = std::chrono::minutes(3);

double since(Clock::time_point start)
{
    return std::chrono::duration<double>(Clock::now() - start).count();
}

std::unique_ptr<vm::BootVm> bootAndPause(const GuestFiles& files)
{
    auto boot = files.startBoot();
    boot->waitBooted(files.site().policy, files.site().timeout);
    boot->machine().stop();
    boot->machine().drainConsoles();
    return boot;
}

void waitMigrated(QmpClient& qmp)
{
    qmp.waitEvent(
        [](const QmpEvent& event) {
            if (event.name == "MIGRATION" &&
                event.data.at("status") == "failed")
            {
                throw Error("QEMU's own migration failed");
            }
            return event.name == "MIGRATION" &&
                   event.data.at("status") == "completed";
        },
        migrateTime);
}

void enableEvents(QmpClient& qmp)
{
    Json events = {{"capability", "events"}, {"state", true}};
    qmp.execute("migrate-set-capabilities",
                {{"capabilities", Json::array({events})}});
}

/** The file behind a descriptor, opened anew: QEMU takes it only with the
 * access mode that it wants. */
void addFile(QmpClient& qmp, int file, int mode)
{
    UniqueFd fd = openFile(fmt::format("/proc/self/fd/{}", file), mode);
    qmp.executeWithFd("add-fd", {{"fdset-id", 1}}, fd.get());
}

std::unique_ptr<vm::Machine> startIncoming(const GuestFiles& files)
{
    vm::Machine::Options options;
    options.serial = true;
    auto argv = [&](const vm::Channels& channels) {
        auto out = vm::bootArgv(files.site().qemu, files.spec(), {}, channels);
        out.insert(out.end(), {"-incoming", "defer"});
        return out;
    };
    return std::make_unique<vm::Machine>(argv, files.spec().memory, options);
}

double stockWay(const test::GuestCase& guest, bool unlimited)
{
    GuestFiles files(guest);
    auto boot = bootAndPause(files);
    QmpClient& source = boot->machine().qmp();

    Clock::time_point start = Clock::now();
    UniqueFd file = createMemfd("stock-migration", 0);
    addFile(source, file.get(), O_WRONLY);
    enableEvents(source);
    if (unlimited)
    {
        source.execute("migrate-set-parameters", {{"max-bandwidth", 0}});
    }
    source.execute("migrate", {{"uri", "file:/dev/fdset/1"}});
    waitMigrated(source);
    boot->machine().quit();

    auto destination = startIncoming(files);
    addFile(destination->qmp(), file.get(), O_RDONLY);
    enableEvents(destination->qmp());
    destination->qmp().execute("migrate-incoming",
                               {{"uri", "file:/dev/fdset/1"}});
    waitMigrated(destination->qmp());
    destination->resume();
    double seconds = since(start);
    if (!destination->running())
    {
        throw Error("the guest does not run after QEMU's own migration");
    }
    return seconds;
}

using Steps = std::vector<vm::StepTime>;

/** Seconds of each step, added up over the rounds. */
void addUp(Steps& sums, const Steps& round)
{
    if (sums.empty())
    {
        sums = round;
        return;
    }
    for (std::size_t i = 0; i < sums.size(); i++)
    {
        sums[i].seconds += round.at(i).seconds;
    }
}

double ourWay(const test::GuestCase& guest, Steps& sums)
{
    GuestFiles files(guest);
    auto production = files.startProduction();
    auto job = handover::JobTicket::issue(files.spec().uuid,
                                          production->trap()->count);
    production->releaseDisks();
    auto boot = bootAndPause(files);

    Steps steps;
    vm::StepClock step(steps);
    Clock::time_point start = Clock::now();
    step("save", [&] { boot->save(); });
    vm::BootedGuest booted = step("end", [&] { return boot->end(); });
    handover::Bundle bundle = step("digest", [&] {
        return vm::makeBundle(std::move(booted), files.spec(), job);
    });
    vm::HandOverReport report = vm::handOver(*production, bundle, job);
    double seconds = since(start);
    steps.insert(steps.end(), report.steps.begin(), report.steps.end());
    addUp(sums, steps);
    if (!production->machine().running())
    {
        throw Error("the guest does not run after the hand-over");
    }
    return seconds;
}

Json measure(const Options& options, std::uint64_t memory, bool unlimited)
{
    test::GuestCase guest{"cloud", 2, memory, true};
    fmt::print("{} GiB, baseline {}\n", memory / gib,
               unlimited ? "unlimited" : "with QEMU's defaults");
    Steps steps;
    auto pairs = measurePairs(
        options.rounds, [&] { return stockWay(guest, unlimited); },
        [&] { return ourWay(guest, steps); });
    Ratio ratio = speedUp(pairs);
    fmt::print("  {:.1f} times faster (95 % interval {:.1f} to {:.1f})\n",
               ratio.mean, ratio.low, ratio.high);
    Json out = toJson(pairs, ratio);
    for (const vm::StepTime& step : steps)
    {
        double mean = step.seconds / static_cast<double>(pairs.size());
        fmt::print("    {:10} {:.3f} s\n", step.name, mean);
        out["ours_steps"].push_back({{"step", step.name}, {"seconds", mean}});
    }
    out["memory_gib"] = memory / gib;
    out["baseline"] = unlimited ? "migrate to a file and -incoming, unlimited"
                                : "migrate to a file and -incoming";
    return out;
}

Json run(const Options& options)
{
    Json out = Json::array();
    for (std::uint64_t memory : {gib, 4 * gib})
    {
        for (bool unlimited : {false, true})
        {
            out.push_back(measure(options, memory, unlimited));
        }
    }
    return out;
}

} // namespace
} // namespace airlock::bench

int main(int argc, char** argv)
{
    return airlock::bench::benchMain(
        argc, argv,
        "Hand-over from paused to running, against QEMU's own migration.",
        airlock::bench::run);
}
