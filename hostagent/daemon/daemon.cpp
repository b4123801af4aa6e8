#include "hostagent/daemon/daemon.hpp"

#include "common/log.hpp"
#include "common/process.hpp"
#include "hostagent/agent/agent.hpp"
#include "hostagent/control/server.hpp"

#include <fmt/format.h>
#include <systemd/sd-daemon.h>

#include <csignal>
#include <thread>

namespace airlock::host
{

namespace
{

constexpr Milliseconds alertTime = std::chrono::seconds(30);

/** For rules on alerts; listed in airlock-hostd(8). */
constexpr const char* alertId = "1c8a4d7be3d14b0f9a5e6c20f7d3b981";

/** SIGTERM and SIGINT, taken by a thread that waits for them: blocked in all
 * others, so this has to be made before any of them. */
class StopSignals
{
  public:
    StopSignals()
    {
        sigemptyset(&set_);
        sigaddset(&set_, SIGTERM);
        sigaddset(&set_, SIGINT);
        sigaddset(&set_, SIGUSR2); // ours, to end the wait
        pthread_sigmask(SIG_BLOCK, &set_, nullptr);
        thread_ = std::thread([this] {
            int number = 0;
            sigwait(&set_, &number);
            source_.request_stop();
        });
    }
    StopSignals(const StopSignals&) = delete;
    StopSignals& operator=(const StopSignals&) = delete;
    ~StopSignals()
    {
        pthread_kill(thread_.native_handle(), SIGUSR2);
        thread_.join();
    }

    std::stop_token token() const { return source_.get_token(); }

  private:
    sigset_t set_{};
    std::stop_source source_;
    std::thread thread_;
};

std::vector<log::Field> fieldsOf(const VmRecord& record)
{
    return {{"VM_NAME", record.name},
            {"VM_UUID", record.uuid},
            {"STATE", std::string(toString(record.state))},
            {"GENERATION", std::to_string(record.generation)},
            {"BOOT_SERVER", record.bootServer},
            {"JOB", record.jobId},
            {"REASON", record.reason}};
}

void raiseAlert(const std::string& command, const Alert& alert)
{
    log::warning("a VM needs attention", {{"MESSAGE_ID", alertId},
                                          {"VM_NAME", alert.name},
                                          {"VM_UUID", alert.uuid},
                                          {"WHAT", alert.what},
                                          {"REASON", alert.why}});
    if (command.empty())
    {
        return;
    }
    try
    {
        SpawnOptions options;
        options.argv = {command, alert.what, alert.uuid, alert.name, alert.why};
        runProgram(options, alertTime);
    }
    catch (const Error& error)
    {
        log::error("the alert command failed", {{"REASON", error.what()}});
    }
}

/** Answers airlockctl in a thread of its own. */
class ControlSocket
{
  public:
    ControlSocket(const Config& config, Store& store) : server_(options(config))
    {
        control::Actions actions;
        actions.retry = [this](const VmRecord& vm) {
            current().retry(vm.uuid);
        };
        actions.release = [&store](const VmRecord& vm) {
            if (vm.marks.contains(incompleteDeltaMark))
            {
                throw control::CallError(control::errors::wrongState,
                                         "what the boot wrote is only half on "
                                         "the disk; retry completes it");
            }
            // Still held: its next life, from `virsh start`, is followed again.
            Change change;
            change.reason = "released by an operator";
            store.transition(vm.uuid, State::held, State::held, change);
        };
        actions.info = [this, &config] { return info(config); };
        control::addStoreMethods(server_, store, std::move(actions));
    }

    void publish(const VmRecord& record)
    {
        server_.publish(control::toJson(record));
    }

    /** From now on there is an agent to act. */
    void start(Agent& agent)
    {
        agent_ = &agent;
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

    Json info(const Config& config)
    {
        Json servers = Json::array();
        for (const ServerSettings& server : config.servers)
        {
            servers.push_back({{"name", server.name},
                               {"host", server.endpoint.host},
                               {"port", server.endpoint.port},
                               {"weight", server.weight}});
        }
        return {{"version", AIRLOCK_VERSION},
                {"libvirt", config.uri},
                {"connected", current().connected()},
                {"servers", servers}};
    }

    control::Server server_;
    Agent* agent_ = nullptr;
    std::jthread thread_;
};

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
    JobSlots slots(config.reboot.jobs);
    ControlSocket control(config, store);
    CycleContext context{
        store,
        servers,
        slots,
        config.reboot,
        spool,
        [&](const Alert& alert) { raiseAlert(config.alertCommand, alert); },
        [&](const VmRecord& record) {
            log::info("a VM changed its state", fieldsOf(record));
            control.publish(record);
        },
    };
    LibvirtEventLoop loop;
    Agent agent(context, {config.uri, std::chrono::seconds(30),
                          [](const std::string& line) { log::notice(line); }});
    control.start(agent);
    sd_notify(0, "READY=1\nSTATUS=following the domains of libvirt");
    agent.run(signals.token(), [] { sd_notify(0, "WATCHDOG=1"); });
    control.stop();
    sd_notify(0, "STOPPING=1");
}

} // namespace airlock::host
