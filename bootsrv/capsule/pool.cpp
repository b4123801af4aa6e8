#include "bootsrv/capsule/pool.hpp"

#include "common/control_server.hpp"
#include "common/log.hpp"
#include "common/stop_signals.hpp"

#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

#include <algorithm>
#include <deque>

namespace airlock::capsule
{

namespace
{

constexpr Milliseconds step{1000};
constexpr mode_t privateMask = 0077;

Json describe(const std::string& name, const std::string& tap,
              const SupervisorStatus& status)
{
    Json out = status.toJson();
    out["name"] = name;
    out["tap"] = tap;
    return out;
}

Capsule open(const PoolConfig& config, const PoolCapsule& capsule)
{
    if (!std::filesystem::exists(config.directoryOf(capsule)))
    {
        throw Error("the capsule " + capsule.name +
                    " was not made yet: airlock-bootd capsule make");
    }
    return Capsule(config.directoryOf(capsule));
}

std::vector<Pool::Member> members(const PoolConfig& config,
                                  std::deque<Capsule>& capsules)
{
    std::vector<Pool::Member> out;
    for (const PoolCapsule& it : config.capsules)
    {
        SupervisorLimits limits;
        limits.clean = it.cleanLimit;
        limits.dirty = it.dirtyLimit;
        capsules.push_back(open(config, it));
        out.push_back({it.name, it.tap,
                       starter(capsules.back(), config.optionsOf(it)), limits});
    }
    return out;
}

/** For `systemctl status`. */
void tellManager(const Json& status)
{
    unsigned dirty = 0;
    unsigned waiting = 0;
    for (const Json& it : status["capsules"])
    {
        dirty += it["state"] == "dirty" ? 1U : 0U;
        waiting += it["state"] == "waiting" ? 1U : 0U;
    }
    ::sd_notify(0, fmt::format("WATCHDOG=1\nSTATUS={} capsules, {} at work on "
                               "a job, {} waiting to be started again",
                               status["capsules"].size(), dirty, waiting)
                       .c_str());
}

} // namespace

Pool::Pool(std::vector<Member> members, const Watcher& watcher,
           Milliseconds stuckAfter)
    : stuckAfter_(stuckAfter)
{
    for (Member& it : members)
    {
        Supervisor::Watcher watch;
        if (watcher)
        {
            watch = [watcher, name = it.name,
                     tap = it.tap](const SupervisorStatus& status) {
                watcher(describe(name, tap, status));
            };
        }
        auto supervisor = std::make_unique<Supervisor>(
            it.name, std::move(it.start), it.limits, std::move(watch));
        std::jthread thread(
            [one = supervisor.get()](const std::stop_token& stop) {
                one->run(stop);
            });
        workers_.push_back({it.tap, std::move(supervisor), std::move(thread)});
    }
}

Pool::~Pool()
{
    for (Worker& it : workers_)
    {
        it.thread.request_stop();
    }
    for (Worker& it : workers_)
    {
        it.thread.join();
    }
}

Json Pool::status() const
{
    Json list = Json::array();
    for (const Worker& it : workers_)
    {
        Json one =
            describe(it.supervisor->name(), it.tap, it.supervisor->status());
        if (it.supervisor->silent() > stuckAfter_)
        {
            one["stuck"] = true;
        }
        list.push_back(std::move(one));
    }
    return {{"capsules", list}};
}

void servePool(const PoolConfig& config)
{
    // TPM states are in our files.
    ::prctl(PR_SET_DUMPABLE, 0);
    ::umask(privateMask);
    const StopSignals signals;
    control::ServerOptions socket;
    socket.path = config.socket;
    socket.daemon = {"the pool of capsules", "airlock-bootd capsule serve"};
    control::Server control(socket);
    std::deque<Capsule> capsules;
    const Pool pool(members(config, capsules),
                    [&control](const Json& it) { control.publish(it); });
    control.handle("status",
                   [&pool](const JsonField& parameters, const control::Peer&) {
                       parameters.onlyKeys({});
                       return pool.status();
                   });
    const std::jthread operators(
        [&control](const std::stop_token& stop) { control.run(stop); });
    log::info("The capsules are at work",
              {{"CAPSULES", std::to_string(config.capsules.size())}});
    ::sd_notify(0, "READY=1");
    while (!signals.token().stop_requested())
    {
        tellManager(pool.status());
        std::this_thread::sleep_for(step);
    }
    ::sd_notify(0, "STOPPING=1");
}

} // namespace airlock::capsule
