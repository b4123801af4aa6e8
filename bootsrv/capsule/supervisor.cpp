#include "bootsrv/capsule/supervisor.hpp"

#include "common/control.hpp"
#include "common/log.hpp"

#include <algorithm>
#include <thread>

namespace airlock::capsule
{

namespace
{

using std::chrono::steady_clock;
using State = SupervisorStatus::State;

constexpr Milliseconds step{200};
constexpr std::size_t shownConsole = 1500;
constexpr std::size_t maxReason = 300;

class CapsuleMode : public ModeAtWork
{
  public:
    CapsuleMode(Capsule& capsule, const CapsuleOptions& options, bool dirty)
        : mode_(capsule.start(options, dirty))
    {}

    bool ended(Milliseconds time) override { return mode_.ended(time); }
    ModeEnd finish(Milliseconds limit) override { return mode_.finish(limit); }

  private:
    RunningMode mode_;
};

std::string lastWords(const ModeEnd& end)
{
    const std::size_t from = end.console.size() > shownConsole
                                 ? end.console.size() - shownConsole
                                 : 0;
    return plainText(end.console.substr(from), shownConsole);
}

const char* modeName(bool dirty)
{
    return dirty ? "dirty" : "clean";
}

std::string describe(const ModeEnd& end, bool dirty)
{
    const std::string mode = std::string(modeName(dirty)) + " mode ";
    if (end.timedOut)
    {
        return mode + "took too long";
    }
    if (!dirty && end.dirtyNext)
    {
        return mode + "asked for dirty mode";
    }
    return mode + "ended with " + end.status.describe();
}

void nothingRuns(SupervisorStatus& status)
{
    status.state = State::waiting;
    status.since = std::chrono::system_clock::now();
}

Milliseconds since(steady_clock::time_point start)
{
    return std::chrono::duration_cast<Milliseconds>(steady_clock::now() -
                                                    start);
}

} // namespace

StartMode starter(Capsule& capsule, const CapsuleOptions& options)
{
    return [&capsule, options](bool dirty) {
        return std::make_unique<CapsuleMode>(capsule, options, dirty);
    };
}

std::string_view toString(State state)
{
    switch (state)
    {
    case State::waiting:
        return "waiting";
    case State::clean:
        return "clean";
    case State::dirty:
        return "dirty";
    }
    return "waiting";
}

Json SupervisorStatus::toJson() const
{
    return {{"state", std::string(toString(state))},
            {"since", control::timeText(
                          std::chrono::time_point_cast<Milliseconds>(since))},
            {"starts", starts},
            {"runs", runs},
            {"failures", failures},
            {"reason", reason}};
}

Milliseconds pauseAfter(const SupervisorLimits& limits, std::uint64_t failures)
{
    Milliseconds out = limits.pause;
    for (std::uint64_t i = 1; i < failures && out < limits.longestPause; i++)
    {
        out *= 2;
    }
    return std::min(out, limits.longestPause);
}

Supervisor::Supervisor(std::string name, StartMode start,
                       SupervisorLimits limits, Watcher watcher)
    : name_(std::move(name)), start_(std::move(start)), limits_(limits),
      watcher_(std::move(watcher)), seen_(steady_clock::now())
{
    status_.since = std::chrono::system_clock::now();
}

SupervisorStatus Supervisor::status() const
{
    const std::lock_guard lock(mutex_);
    return status_;
}

Milliseconds Supervisor::silent() const
{
    return since(seen_);
}

void Supervisor::ping()
{
    seen_ = steady_clock::now();
}

void Supervisor::change(const std::function<void(SupervisorStatus&)>& action)
{
    ping();
    SupervisorStatus now;
    {
        const std::lock_guard lock(mutex_);
        action(status_);
        now = status_;
    }
    if (watcher_)
    {
        watcher_(now);
    }
}

std::optional<ModeEnd> Supervisor::runMode(bool dirty,
                                           const std::stop_token& stop)
{
    log::info("A mode starts", {{"CAPSULE", name_}, {"MODE", modeName(dirty)}});
    const std::unique_ptr<ModeAtWork> mode = start_(dirty);
    change([dirty](SupervisorStatus& status) {
        status.state = dirty ? State::dirty : State::clean;
        status.since = std::chrono::system_clock::now();
        status.starts++;
        status.runs += dirty ? 1 : 0;
    });
    const Deadline deadline(dirty ? limits_.dirty : limits_.clean);
    while (!mode->ended(step) && !deadline.passed())
    {
        ping();
        if (stop.stop_requested())
        {
            return std::nullopt;
        }
    }
    return mode->finish(Milliseconds::zero());
}

bool Supervisor::judge(const ModeEnd& end, bool dirty, Milliseconds lived)
{
    const std::string reason = describe(end, dirty);
    const bool good = dirty || end.dirtyNext || lived >= limits_.steady;
    if (good && !end.timedOut)
    {
        log::info("A mode ended", {{"CAPSULE", name_}, {"REASON", reason}});
    }
    else
    {
        log::warning("A mode did not end as it should",
                     {{"CAPSULE", name_},
                      {"MODE", modeName(dirty)},
                      {"REASON", reason},
                      {"CONSOLE", lastWords(end)}});
    }
    change([&](SupervisorStatus& status) {
        nothingRuns(status);
        status.reason = reason;
        // Dirty mode does what its guest does: it says nothing of the capsule.
        status.failures =
            good ? (dirty ? status.failures : 0) : status.failures + 1;
    });
    return good;
}

void Supervisor::failed(const std::string& why)
{
    log::error("A capsule failed", {{"CAPSULE", name_}, {"REASON", why}});
    change([&](SupervisorStatus& status) {
        nothingRuns(status);
        status.reason = plainText(why, maxReason);
        status.failures++;
    });
}

void Supervisor::rest(const std::stop_token& stop)
{
    const Deadline deadline(pauseAfter(limits_, status().failures));
    while (!deadline.passed() && !stop.stop_requested())
    {
        ping();
        std::this_thread::sleep_for(std::min(step, deadline.left()));
    }
}

void Supervisor::run(const std::stop_token& stop)
{
    bool dirty = false;
    while (!stop.stop_requested())
    {
        bool good = false;
        bool dirtyNext = false;
        try
        {
            const auto started = steady_clock::now();
            const auto end = runMode(dirty, stop);
            if (!end)
            {
                return;
            }
            good = judge(*end, dirty, since(started));
            // Only clean mode is asked what comes next.
            dirtyNext = !dirty && end->dirtyNext;
        }
        catch (const std::exception& error)
        {
            failed(error.what());
        }
        dirty = dirtyNext;
        if (!good)
        {
            rest(stop);
        }
    }
}

} // namespace airlock::capsule
