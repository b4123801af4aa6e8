/** What the two modes of an isolated boot host cost, in a capsule.
 *
 * The mode change: clean, dirty, clean, without a guest, against a plain reboot
 * of the same virtual machine, which is QEMU's system_reset of clean mode: the
 * same firmware, image and TPM, once. Both end when clean mode has unsealed and
 * begins its work. They take turns on one machine: what one ends with the other
 * begins with.
 *
 * The steps of FIG. 6: jobs of the tiny guest through a capsule with the images
 * as they are shipped, behind a real switch agent, as a host agent sends them.
 * A step ends when the switch agent, the supervisor or the boot host's console
 * says so; nothing is asked of the capsule for it.
 */
#include "boot_jobs.hpp"
#include "common/error.hpp"
#include "common/table.hpp"
#include "paired.hpp"
#include "tests/modes/probe.hpp"
#include "tools/rigs/capsule_case.hpp"
#include "tools/rigs/frame_watch.hpp"
#include "tools/rigs/isolated_rig.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <thread>

namespace airlock::bench
{
namespace
{

namespace fs = std::filesystem;
using capsule::Capsule;
using capsule::ModeEnd;
using capsule::RunningMode;
using rig::WallTime;

constexpr Milliseconds bootTime = std::chrono::minutes(8);
/** A guest in a guest, without hardware help. */
constexpr Milliseconds dirtyTime = std::chrono::minutes(25);
constexpr Milliseconds look{20};
constexpr unsigned jobCount = 2;
constexpr std::size_t maxText = 1U << 20;

fs::path imagesOf(const char* variable)
{
    const char* path = std::getenv(variable);
    if (path == nullptr)
    {
        throw Error(std::string(variable) +
                    " is not set: run this with tools/bench modes");
    }
    return path;
}

double between(WallTime begin, WallTime end)
{
    return std::chrono::duration<double>(end - begin).count();
}

WallTime now()
{
    return std::chrono::system_clock::now();
}

/** Clean mode at work; it cannot be moved. */
struct Running
{
    explicit Running(Capsule& capsule) : mode(capsule.start({}, false)) {}

    RunningMode mode;
};

/** A capsule whose work is the tests' own: it says the order that it finds and
 * follows it. */
class ProbedCapsule
{
  public:
    ProbedCapsule() : images_(imagesOf("AIRLOCK_MODES_IMAGES"))
    {
        capsule_.emplace(
            Capsule::create(home_.path() / "one",
                            rig::partsOf(images_, 32 * capsule::mebibyte)));
        machine::EnrolmentRequest request;
        request.name = "bench";
        request.addressRoot = Secret::random();
        rig::enrol(*capsule_, {}, images_, std::move(request), bootTime);
        start("hold");
    }

    /** Leaves it where its next order, to go dirty, is known. */
    double plainReboot()
    {
        order("dirty");
        QmpClient qmp = running_->mode.qmp();
        qmp.execute("set-action", {{"reboot", "reset"}});
        const WallTime begin = now();
        qmp.execute("system_reset");
        waitOrder();
        return between(begin, now());
    }

    /** After a plainReboot(). */
    double modeChange()
    {
        const WallTime begin = now();
        const ModeEnd clean = running_->mode.finish(bootTime);
        running_.reset();
        if (clean.timedOut || !clean.dirtyNext)
        {
            throw Error("clean mode did not ask for dirty mode: " +
                        clean.console);
        }
        order("nothing");
        const ModeEnd dirty = capsule_->run({}, true, bootTime);
        if (dirty.timedOut)
        {
            throw Error("dirty mode does not end: " + dirty.console);
        }
        start("hold");
        return between(begin, now());
    }

  private:
    /** Each order is another one: the console may still have the last. */
    void order(const std::string& text)
    {
        order_ = fmt::format("{} {}", text, ++number_);
        Bytes sector(probe::orderSize);
        std::copy(order_.begin(), order_.end(), sector.begin());
        const UniqueFd disk = openFile(capsule_->stagingDisk(), O_WRONLY);
        writeAllAt(disk.get(), sector, capsule_->layout().staging);
    }

    void waitOrder()
    {
        running_->mode.waitForConsole("probe order: " + order_, bootTime);
    }

    void start(const std::string& text)
    {
        order(text);
        running_.reset();
        running_.emplace(*capsule_);
        waitOrder();
    }

    TempDirectory home_{"airlock-modes"};
    fs::path images_;
    std::optional<Capsule> capsule_;
    std::optional<Running> running_;
    std::string order_;
    unsigned number_ = 0;
};

Json measureModeChange(const Options& options)
{
    fmt::print("Mode change: clean, dirty, clean, against a plain reboot of "
               "clean mode\n");
    std::fflush(stdout);
    ProbedCapsule capsule;
    std::vector<Pair> pairs;
    for (unsigned round = 0; round < options.rounds; round++)
    {
        Pair pair;
        pair.baseline = capsule.plainReboot();
        pair.ours = capsule.modeChange();
        fmt::print("  round {}: plain reboot {:6.1f} s   mode change {:6.1f} "
                   "s\n",
                   round + 1, pair.baseline, pair.ours);
        std::fflush(stdout);
        pairs.push_back(pair);
    }
    const Ratio ratio = speedUp(pairs);
    fmt::print("  {:.2f} times as long (95 % interval {:.2f} to {:.2f})\n",
               1 / ratio.mean, 1 / ratio.high, 1 / ratio.low);
    Json out = toJson(pairs, ratio);
    out["baseline"] = "QEMU's system_reset of the same VM in clean mode";
    out["times_as_long"] = 1 / ratio.mean;
    return out;
}

/** When what was waited for had come. */
WallTime waitFor(const std::string& what, Milliseconds time,
                 const std::function<bool()>& there)
{
    for (const Deadline deadline(time); !there();)
    {
        if (deadline.passed())
        {
            throw TimedOut("the boot host does not come to this: " + what);
        }
        std::this_thread::sleep_for(look);
    }
    return now();
}

struct StepOfFigure
{
    const char* number;
    const char* what;
};

constexpr std::array figure = {
    StepOfFigure{"602", "job taken in and sealed"},
    StepOfFigure{"604, 606", "the switch has cut it off"},
    StepOfFigure{"608, 610", "generic address, power cycle"},
    StepOfFigure{"612", "dirty mode starts"},
    StepOfFigure{"614", "the guest boots"},
    StepOfFigure{"616", "its result is stored, power cycle"},
    StepOfFigure{"618", "clean mode starts, unseals, caps"},
    StepOfFigure{"620, 622", "address, proof, the port is open"},
    StepOfFigure{"624", "result looked through and fetched"},
};

/** A boot host at work, and one guest's jobs. */
class Jobs
{
  public:
    Jobs() : rig_(directory_.path(), bootHost())
    {
        rig_.enrol();
        rig_.startBootHost();
        rig_.waitClean(bootTime);
    }

    /** Seconds of each step of the figure. */
    std::vector<double> run()
    {
        const test::GuestJob job(
            files_,
            std::chrono::duration_cast<std::chrono::seconds>(dirtyTime));
        std::vector<WallTime> ends = {now()};
        std::string id;
        rig_.net().production().run([&] {
            boot::Client client = rig_.client();
            id = job.upload(client);
            client.seal(id);
        });
        ends.push_back(now());
        waitBoot(ends);
        rig_.net().production().run([&] {
            boot::Client client = rig_.client();
            const boot::JobStatus status =
                test::waitFinished(client, id, bootTime);
            if (status.state != boot::JobState::done)
            {
                throw Error("the job failed: " + dumpJson(status.toJson()));
            }
            handover::Bundle bundle = job.fetchBundle(client, id);
            job.applyDelta(client, status);
            client.remove(id);
        });
        ends.push_back(now());
        std::vector<double> out;
        for (std::size_t i = 1; i < ends.size(); i++)
        {
            out.push_back(between(ends[i - 1], ends[i]));
        }
        return out;
    }

  private:
    static rig::BootHostCase bootHost()
    {
        rig::BootHostCase out;
        out.images = imagesOf("AIRLOCK_BOOT_IMAGES");
        return out;
    }

    /** The switch's own times, of what happened last. */
    WallTime waitPort(bool open)
    {
        std::vector<rig::PortEvent> events;
        waitFor(open ? "its port is open" : "it is cut off", bootTime, [&] {
            events = rig::portEvents(rig_.net().call("events")["events"],
                                     rig::SwitchedHosts::bootPort);
            return !events.empty() && events.back().open == open;
        });
        return events.back().time;
    }

    WallTime waitMode(const std::string& mode, Milliseconds time)
    {
        return waitFor(mode, time, [&] { return rig_.mode() == mode; });
    }

    WallTime waitConsole(const std::string& text, Milliseconds time)
    {
        return waitFor(text, time, [&] {
            return readTextFile(rig_.console(), 2 * maxText).find(text) !=
                   std::string::npos;
        });
    }

    void waitBoot(std::vector<WallTime>& ends)
    {
        ends.push_back(waitPort(false));
        ends.push_back(waitMode("dirty", bootTime));
        ends.push_back(waitConsole("A stage of the boot begins", bootTime));
        ends.push_back(waitConsole("STAGE=save", dirtyTime));
        ends.push_back(waitMode("clean", bootTime));
        ends.push_back(waitConsole("The secrets are unsealed", bootTime));
        ends.push_back(waitPort(true));
    }

    TempDirectory directory_{"airlock-modes"};
    rig::IsolatedRig rig_;
    test::GuestFiles files_{
        {.kernel = "tiny", .vcpus = 1, .memory = 160ULL << 20}};
};

Json measureSteps()
{
    fmt::print("Steps of FIG. 6: the tiny guest, 1 vCPU, 160 MiB, in a capsule "
               "with 2 processors\n");
    std::fflush(stdout);
    Jobs jobs;
    std::vector<double> mean(figure.size());
    for (unsigned i = 0; i < jobCount; i++)
    {
        const std::vector<double> seconds = jobs.run();
        for (std::size_t step = 0; step < mean.size(); step++)
        {
            mean[step] += seconds.at(step) / jobCount;
        }
    }
    Table table({{"step"}, {"what"}, {"seconds", Table::Align::right}});
    Json steps = Json::array();
    double whole = 0;
    for (std::size_t step = 0; step < mean.size(); step++)
    {
        whole += mean[step];
        table.row({figure[step].number, figure[step].what,
                   fmt::format("{:.1f}", mean[step])});
        steps.push_back({{"step", figure[step].number},
                         {"what", figure[step].what},
                         {"seconds", mean[step]}});
    }
    constexpr double hour = 3600;
    table.row({"", "all", fmt::format("{:.1f}", whole)});
    fmt::print("{}  {:.1f} jobs in an hour, one after the other; mean of {}\n",
               table.render(), hour / whole, jobCount);
    std::fflush(stdout);
    return {{"steps", steps},
            {"seconds", whole},
            {"jobs", jobCount},
            {"jobs_per_hour", hour / whole}};
}

Json run(const Options& options)
{
    rig::preferVarTmp();
    Json out;
    out["steps"] = measureSteps();
    out["mode_change"] = measureModeChange(options);
    return out;
}

} // namespace
} // namespace airlock::bench

int main(int argc, char** argv)
{
    return airlock::bench::benchMain(
        argc, argv,
        "The modes of an isolated boot host: each step of a job, and the mode "
        "change against a plain reboot.",
        airlock::bench::run);
}
