#include "hostagent/daemon/daemon.hpp"

#include "common/log.hpp"
#include "common/stop_signals.hpp"
#include "hostagent/agent/agent.hpp"
#include "hostagent/control/server.hpp"
#include "hostagent/daemon/metrics.hpp"

#include <fmt/format.h>
#include <systemd/sd-daemon.h>

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <thread>

namespace airlock::host
{

namespace
{

/** How often the boot servers are asked how they are. */
constexpr std::chrono::seconds lookEvery{15};

/** To find changes of state in the journal; listed in airlock-hostd(8). */
constexpr const char* stateId = "5d0c3f1e6a9b4f5c8f27d1b4907e2a63";

std::vector<log::Field> fieldsOf(const VmRecord& record)
{
    return {{"MESSAGE_ID", stateId},
            {"DOMAIN", record.name},
            {"VM_UUID", record.uuid},
            {"STATE", std::string(toString(record.state))},
            {"GENERATION", std::to_string(record.generation)},
            {"BOOT_SERVER", record.bootServer},
            {"JOB", record.jobId},
            {"REASON", record.reason}};
}

/** What has to be done again and again, in a thread of its own: asking the boot
 * servers how they are, and forgetting old jobs. */
class Housekeeping
{
  public:
    Housekeeping(Store& store, ServerPool& servers, std::chrono::hours history)
        : store_(store), servers_(servers), history_(history),
          thread_([this](const std::stop_token& stop) { run(stop); })
    {}

  private:
    void run(const std::stop_token& stop)
    {
        std::mutex mutex;
        std::condition_variable_any never;
        while (!stop.stop_requested())
        {
            servers_.look();
            prune();
            std::unique_lock lock(mutex);
            never.wait_for(lock, stop, lookEvery, [] { return false; });
        }
    }

    void prune()
    {
        try
        {
            store_.pruneJobs(std::chrono::time_point_cast<Milliseconds>(
                std::chrono::system_clock::now() - history_));
        }
        catch (const Error& error)
        {
            log::error("old jobs cannot be forgotten",
                       {{"REASON", error.what()}});
        }
    }

    Store& store_;
    ServerPool& servers_;
    std::chrono::hours history_;
    std::jthread thread_;
};

void logServer(const std::string& name, const ServerState& state)
{
    if (state.up)
    {
        log::notice("a boot server is back", {{"BOOT_SERVER", name}});
    }
    else
    {
        log::warning("a boot server does not answer",
                     {{"BOOT_SERVER", name}, {"REASON", state.why}});
    }
}

/** Answers airlockctl in a thread of its own. */
class ControlSocket
{
  public:
    ControlSocket(const Config& config, Store& store, const ServerPool& servers)
        : server_(options(config)), servers_(servers)
    {
        control::Actions actions;
        actions.retry = [this](const VmRecord& vm) {
            current().retry(vm.uuid);
        };
        actions.release = [this, &store](const VmRecord& vm, bool discard) {
            release(store, vm, discard);
        };
        actions.info = [this, &config] { return info(config); };
        control::addStoreMethods(server_, store, std::move(actions));
    }

    void publish(Json event) { server_.publish(std::move(event)); }

    /** From now on there is an agent to act. */
    void start(Agent& agent, const CycleContext& context)
    {
        agent_ = &agent;
        context_ = &context;
        thread_ = std::jthread(
            [this](const std::stop_token& stop) { server_.run(stop); });
    }

    /** No call is running or will be. */
    void stop() { thread_ = {}; }

  private:
    static control::ServerOptions options(const Config& config)
    {
        control::ServerOptions out;
        out.path = config.socket;
        return out;
    }

    Agent& current() { return *agent_; }

    void release(Store& store, const VmRecord& vm, bool discard) const
    {
        if (deltaPending(vm) && discard)
        {
            discardDelta(*context_, vm);
            return;
        }
        if (deltaPending(vm))
        {
            throw control::CallError(
                control::errors::wrongState,
                "what the boot wrote is only half on the disk; retry completes "
                "it, and --discard-delta gives it up when the disk was "
                "restored from a backup");
        }
        // Still held: its next life, from `virsh start`, is followed again.
        Change change;
        change.reason = "released by an operator";
        store.transition(vm.uuid, State::held, State::held, change);
    }

    Json info(const Config& config)
    {
        Json servers = Json::array();
        auto states = servers_.states();
        for (const ServerSettings& server : config.servers)
        {
            const ServerState& state = states[server.name];
            servers.push_back({{"name", server.name},
                               {"host", server.endpoint.host},
                               {"port", server.endpoint.port},
                               {"weight", server.weight},
                               {"up", state.up},
                               {"reason", state.why},
                               {"jobs", state.jobs},
                               {"jobs_max", state.jobsMax}});
        }
        return {{"version", AIRLOCK_VERSION},
                {"libvirt", config.uri},
                {"connected", current().connected()},
                {"servers", servers}};
    }

    control::Server server_;
    const ServerPool& servers_;
    Agent* agent_ = nullptr;
    const CycleContext* context_ = nullptr;
    std::jthread thread_;
};

/** Jobs that boot servers have from before a restart count as theirs. */
void countJobs(const Store& store, ServerPool& servers)
{
    for (const VmRecord& vm : store.vms())
    {
        if (!vm.jobId.empty())
        {
            servers.started(vm.bootServer);
        }
    }
}

std::optional<StatusServer> startStatus(const Config& config,
                                        HostMetrics& metrics)
{
    if (config.metrics.empty())
    {
        return std::nullopt;
    }
    return std::optional<StatusServer>(
        std::in_place, config.metrics,
        [&metrics](const std::string& path) { return metrics.page(path); });
}

} // namespace

void runDaemon(const Config& config)
{
    StopSignals signals;
    std::filesystem::path spool = config.state / "spool";
    std::filesystem::create_directories(spool);
    Store store(config.state / "state.db");
    ServerPool servers(config.servers,
                       std::make_shared<tls::Context>(
                           config.identity, tls::Context::Side::client));
    countJobs(store, servers);
    JobSlots slots(config.reboot.jobs);
    ControlSocket control(config, store, servers);
    servers.onChange([&](const std::string& name, const ServerState& state) {
        logServer(name, state);
        control.publish({{"what", "server"},
                         {"name", name},
                         {"up", state.up},
                         {"reason", state.why}});
    });
    Alerts alerts(config.alerts);
    LibvirtEventLoop loop;
    std::atomic<const Agent*> current = nullptr;
    HostMetrics metrics(store, servers, [&current] {
        const Agent* agent = current;
        return agent != nullptr && agent->connected();
    });
    CycleContext context{
        store,
        servers,
        slots,
        config.reboot,
        spool,
        [&](const Alert& alert) {
            if (!alerts.raise(alert))
            {
                return;
            }
            metrics.alerted(alert);
            control.publish({{"what", "alert"},
                             {"alert", alert.what},
                             {"name", alert.name},
                             {"uuid", alert.uuid},
                             {"reason", alert.why}});
        },
        [&](const VmRecord& record) {
            log::info("a VM changed its state", fieldsOf(record));
            alerts.changed(record.uuid);
            metrics.changed(record);
            control.publish(
                {{"what", "state"}, {"vm", control::toJson(record)}});
        },
    };
    Agent agent(context, {config.uri, std::chrono::seconds(30),
                          [](const std::string& line) { log::notice(line); }});
    current = &agent;
    std::optional<StatusServer> status = startStatus(config, metrics);
    Housekeeping housekeeping(store, servers, config.history);
    control.start(agent, context);
    sd_notify(0, "READY=1\nSTATUS=following the domains of libvirt");
    agent.run(signals.token(), [] { sd_notify(0, "WATCHDOG=1"); });
    control.stop();
    sd_notify(0, "STOPPING=1");
}

} // namespace airlock::host
