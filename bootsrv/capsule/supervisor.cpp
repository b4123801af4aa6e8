#include "bootsrv/capsule/supervisor.hpp"

#include "common/json.hpp"
#include "common/log.hpp"

#include <ctime>

namespace airlock::capsule
{

namespace
{

constexpr auto step = std::chrono::milliseconds(200);
constexpr std::size_t shownConsole = 1500;

/** True when one of the signals has come. */
bool signalled(const sigset_t& signals, Milliseconds wait)
{
    const timespec time = {wait.count() / 1000,
                           wait.count() % 1000 * 1'000'000};
    return ::sigtimedwait(&signals, nullptr, &time) > 0;
}

/** Nothing when a signal came first. */
std::optional<ModeEnd> runMode(Capsule& capsule,
                               const SupervisorOptions& options, bool dirty,
                               const sigset_t& signals)
{
    RunningMode mode = capsule.start(options.machine, dirty);
    const Deadline deadline(dirty ? options.dirtyLimit : options.cleanLimit);
    while (!mode.ended(step) && !deadline.passed())
    {
        if (signalled(signals, Milliseconds::zero()))
        {
            return std::nullopt;
        }
    }
    return mode.finish(Milliseconds::zero());
}

std::string lastWords(const ModeEnd& end)
{
    const std::size_t from = end.console.size() > shownConsole
                                 ? end.console.size() - shownConsole
                                 : 0;
    return plainText(end.console.substr(from), shownConsole);
}

void tell(const ModeEnd& end, bool dirty)
{
    const std::string mode = dirty ? "dirty" : "clean";
    if (end.timedOut)
    {
        log::warning("A mode took too long and was ended",
                     {{"MODE", mode}, {"CONSOLE", lastWords(end)}});
    }
    else if (!dirty && !end.dirtyNext)
    {
        log::warning(
            "Clean mode ended without a job for dirty mode",
            {{"STATUS", end.status.describe()}, {"CONSOLE", lastWords(end)}});
    }
    else
    {
        log::info("A mode ended",
                  {{"MODE", mode}, {"STATUS", end.status.describe()}});
    }
}

} // namespace

void supervise(Capsule& capsule, const SupervisorOptions& options,
               const sigset_t& signals)
{
    bool dirty = false;
    for (;;)
    {
        log::info("A mode starts", {{"MODE", dirty ? "dirty" : "clean"}});
        const auto end = runMode(capsule, options, dirty, signals);
        if (!end)
        {
            return;
        }
        tell(*end, dirty);
        // Only clean mode is asked what comes next.
        const bool wanted = !dirty && end->dirtyNext;
        if (!dirty && !wanted && signalled(signals, options.pause))
        {
            return;
        }
        dirty = wanted;
    }
}

} // namespace airlock::capsule
