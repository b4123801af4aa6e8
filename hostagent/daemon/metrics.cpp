#include "hostagent/daemon/metrics.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace airlock::host
{

namespace
{

/** States that take as long as they take are no stages. */
bool isStage(State state)
{
    return state != State::running && state != State::held;
}

bool isState(const std::string& word)
{
    return std::ranges::any_of(
        allStates, [&](State state) { return toString(state) == word; });
}

/** What a boot server calls its steps, as long as it is one of those that
 * there are (airlockctl(1)): each other word would be a series for ever. */
std::string bootStep(const std::string& word)
{
    // The last three are a boot server's that boots itself.
    constexpr std::string_view known[] = {"queue",  "copy",   "start",  "boot",
                                          "save",   "memory", "digest", "dirty",
                                          "unpack", "pack"};
    return std::ranges::find(known, word) == std::end(known) ? "other" : word;
}

} // namespace

HostMetrics::HostMetrics(Store& store, const ServerPool& servers,
                         std::function<bool()> connected)
    : store_(store), servers_(servers), connected_(std::move(connected)),
      build_(registry_.gauge("airlock_build_info",
                             "Version of this program; always 1.")),
      connectedGauge_(registry_.gauge("airlock_libvirt_connected",
                                      "Whether libvirt can be asked.")),
      state_(registry_.gauge("airlock_vm_state",
                             "1 for the state that a VM is in, else 0.")),
      since_(registry_.gauge(
          "airlock_vm_state_since_seconds",
          "When a VM came into its state, in seconds since 1970.")),
      reboots_(registry_.counter(
          "airlock_reboots_total",
          "Reboots that ended: done, held, or abandoned for another one.")),
      jobs_(registry_.counter("airlock_jobs_total",
                              "Jobs at boot servers that ended, by the first "
                              "word of their result.")),
      alerts_(registry_.counter("airlock_alerts_total",
                                "Alerts that were raised.")),
      stages_(registry_.histogram("airlock_stage_seconds",
                                  "How long VMs were in each state of a "
                                  "reboot.",
                                  metrics::stageBuckets())),
      steps_(registry_.histogram("airlock_step_seconds",
                                 "How long the steps within stages took.",
                                 metrics::stageBuckets())),
      serverUp_(registry_.gauge("airlock_boot_server_up",
                                "Whether a boot server answered when it was "
                                "asked last.")),
      serverJobs_(registry_.gauge("airlock_boot_server_jobs",
                                  "Jobs of this host at a boot server.")),
      storeCheck_([&store] { store.tryWrite(); })
{
    build_.set({{"version", AIRLOCK_VERSION}}, 1);
    for (const char* what :
         {"retrying", "held", "applying", "resumed", "clock"})
    {
        alerts_.add({{"what", what}}, 0);
    }
    for (const VmRecord& vm : store.vms())
    {
        last_[vm.uuid] = vm;
    }
    registry_.beforeText([this] { update(); });
}

void HostMetrics::update()
{
    connectedGauge_.set({}, connected_() ? 1 : 0);
    state_.clear();
    since_.clear();
    std::map<std::string, unsigned> jobs;
    for (const VmRecord& vm : store_.vms())
    {
        for (State state : allStates)
        {
            state_.set(
                {{"domain", vm.name}, {"state", std::string(toString(state))}},
                vm.state == state ? 1 : 0);
        }
        since_.set(
            {{"domain", vm.name}},
            std::chrono::duration<double>(vm.since.time_since_epoch()).count());
        if (!vm.jobId.empty())
        {
            jobs[vm.bootServer]++;
        }
    }
    auto states = servers_.states();
    for (const ServerSettings& server : servers_.servers())
    {
        auto seen = states.find(server.name);
        serverJobs_.set({{"server", server.name}}, jobs[server.name]);
        if (seen != states.end())
        {
            serverUp_.set({{"server", server.name}}, seen->second.up ? 1 : 0);
        }
    }
}

void HostMetrics::changed(const VmRecord& now)
{
    VmRecord before;
    {
        std::lock_guard lock(mutex_);
        auto [place, fresh] = last_.try_emplace(now.uuid, now);
        before = place->second;
        place->second = now;
        if (fresh)
        {
            return;
        }
    }
    if (before.state != now.state && isStage(before.state))
    {
        stages_.observe(
            {{"stage", std::string(toString(before.state))}},
            std::chrono::duration<double>(now.since - before.since).count());
    }
    std::string word;
    if (!before.jobId.empty() && before.jobId != now.jobId)
    {
        word = observeJob(before.jobId);
    }
    ended(before, now, word);
}

void HostMetrics::ended(const VmRecord& before, const VmRecord& now,
                        const std::string& job)
{
    const char* result = nullptr;
    if (now.state == State::running && isStage(before.state))
    {
        result = job == "done" ? "done" : "abandoned";
    }
    else if (now.state == State::held && before.state != State::held)
    {
        result = "held";
    }
    else if (now.generation != before.generation && isStage(before.state))
    {
        result = "abandoned";
    }
    if (result != nullptr)
    {
        reboots_.add({{"domain", now.name}, {"result", result}});
    }
}

std::string HostMetrics::observeJob(const std::string& id)
try
{
    std::optional<JobRecord> job = store_.job(id);
    if (!job || !job->ended)
    {
        return {};
    }
    std::string word = job->result.substr(0, job->result.find_first_of(": "));
    jobs_.add({{"server", job->server}, {"result", word}});
    constexpr std::string_view handOver = "hand-over: ";
    for (const auto& [step, seconds] : job->seconds)
    {
        if (isState(step))
        {
            continue; // that is what stages_ has
        }
        bool ours = step.starts_with(handOver);
        steps_.observe(
            {{"stage", ours ? "admitting" : "booting"},
             {"step", ours ? step.substr(handOver.size()) : bootStep(step)}},
            seconds);
    }
    return word;
}
catch (const Error&)
{
    // A figure less; whoever changes a state next will see what is wrong.
    return {};
}

void HostMetrics::alerted(const Alert& alert)
{
    alerts_.add({{"what", alert.what}});
}

StatusPage HostMetrics::page(const std::string& path)
{
    return daemonPage(path, registry_, AIRLOCK_VERSION, [this] {
        return std::vector<HealthPart>{
            {"libvirt", connected_() ? "" : "libvirt is not connected"},
            {"store", storeCheck_.trouble()},
        };
    });
}

} // namespace airlock::host
