#include "tools/switchd/daemon.hpp"

#include "common/control_server.hpp"
#include "common/http_server.hpp"
#include "common/log.hpp"
#include "common/stop_signals.hpp"
#include "tools/switchd/agent.hpp"
#include "tools/switchd/alert_socket.hpp"
#include "tools/switchd/config.hpp"
#include "tools/switchd/methods.hpp"
#include "tools/switchd/service.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

#include <csignal>
#include <thread>

namespace airlock::sw
{

namespace
{

constexpr int exitError = 1;
constexpr int exitUsage = 2;
constexpr mode_t privateMask = 0077;

http::Server::Options serverOptions(const Config& config)
{
    http::Server::Options out;
    out.address = config.address;
    out.port = config.port;
    out.role = tls::bootRole;
    out.limits = config.limits;
    out.notice = [](const std::string& peer, const std::string& what) {
        log::notice("a connection ended badly",
                    {{"PEER", peer}, {"REASON", what}});
    };
    return out;
}

HostCalls callsOf(SwitchAgent& agent)
{
    return {
        [&agent](const std::string& host) { return agent.statusOfHost(host); },
        [&agent](const std::string& host) { return agent.cutByHost(host); },
        [&agent](const std::string& host, const Secret& root) {
            return agent.rotateByHost(host, root);
        },
    };
}

void serve(const Config& config)
{
    StopSignals signals;
    control::ServerOptions socket;
    socket.path = config.socket;
    socket.daemon = {"the switch agent", "airlock-switchd"};
    control::Server control(socket);
    AlertSocket alerts(config.alertSocket);
    SwitchAgent agent(config.agent, [&](const Json& event) {
        control.publish(event);
        alerts.pass(event);
    });
    addMethods(control, agent, AIRLOCK_VERSION);
    http::Server http(serverOptions(config),
                      std::make_shared<tls::Context>(
                          config.identity, tls::Context::Side::server),
                      makeHandler(callsOf(agent), AIRLOCK_VERSION));
    std::jthread operators(
        [&](const std::stop_token& stop) { control.run(stop); });
    log::info("the switch agent guards its ports",
              {{"BRIDGE", config.agent.bridge},
               {"PORTS", std::to_string(config.agent.ports.size())}});
    ::sd_notifyf(0, "READY=1\nSTATUS=Guards %zu ports of %s",
                 config.agent.ports.size(), config.agent.bridge.c_str());
    agent.run(signals.token(), [] { ::sd_notify(0, "WATCHDOG=1"); });
    ::sd_notify(0, "STOPPING=1");
    http.stop();
}

/** Shuts all ports and leaves them so: after an agent that was killed. */
void cutAll(const Config& config)
{
    SwitchAgent agent(config.agent, [](const Json&) {});
}

} // namespace

int runDaemon(int argc, const char* const* argv)
{
    std::string file = "/etc/airlock/switchd.toml";
    bool checkOnly = false;
    bool cutOnly = false;
    bool fenceOnly = false;
    bool verbose = false;
    CLI::App app("Guards the switch ports of boot hosts.", "airlock-switchd");
    app.add_option("--config", file, "configuration")->capture_default_str();
    app.add_flag("--check-config", checkOnly,
                 "read the configuration and exit");
    app.add_flag("--cut-off", cutOnly, "shut all ports and exit");
    app.add_flag("--fence", fenceOnly,
                 "shut all ports before there is a bridge, and exit");
    app.add_flag("-v,--verbose", verbose, "log more");
    app.set_version_flag("--version", "airlock-switchd " AIRLOCK_VERSION);
    try
    {
        app.parse(argc, argv);
    }
    catch (const CLI::ParseError& error)
    {
        return app.exit(error) == 0 ? 0 : exitUsage;
    }
    // Roots are in our memory and in our files.
    ::prctl(PR_SET_DUMPABLE, 0);
    ::umask(privateMask);
    try
    {
        log::setLevel(verbose ? log::Level::debug : log::Level::info);
        Config config = readConfig(file);
        if (checkOnly)
        {
            tls::Context(config.identity, tls::Context::Side::server);
            fmt::print("{}: ok\n", file);
        }
        else if (cutOnly)
        {
            cutAll(config);
        }
        else if (fenceOnly)
        {
            fenceOff(config.agent);
        }
        else
        {
            serve(config);
        }
        return 0;
    }
    catch (const std::exception& error)
    {
        log::error("the switch agent cannot run", {{"REASON", error.what()}});
        return exitError;
    }
}

} // namespace airlock::sw
