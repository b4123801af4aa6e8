#include "tools/rigs/switched_hosts.hpp"

#include "common/control_client.hpp"
#include "common/file.hpp"
#include "common/socket.hpp"
#include "common/tls.hpp"
#include "tools/rigs/built.hpp"
#include "tools/rigs/logged.hpp"

#include <fmt/format.h>

#include <thread>

namespace airlock::rig
{

namespace
{

/** Of the cable: a guest's memory comes through before somebody looks. */
constexpr int room = 512 << 20;
constexpr Milliseconds startTime = std::chrono::seconds(20);
constexpr std::size_t maxLog = 16U << 20;

} // namespace

std::vector<std::string> inside(const NetNamespace& net)
{
    return {"nsenter", "--net=" + net.path()};
}

SwitchedHosts::SwitchedHosts(std::filesystem::path directory,
                             const pki::Credential& authority,
                             NetNamespace production)
    : directory_(std::move(directory)), authority_(authority),
      production_(std::move(production))
{
    switch_.run([this] {
        runTool({"ip", "link", "set", "lo", "up"});
        runTool({"ip", "link", "add", "br0", "type", "bridge"});
        runTool({"ip", "link", "set", "br0", "up"});
        runTool({"ip", "address", "add", std::string(switchAddress) + "/24",
                 "dev", "br0"});
        auto cable = [](const char* port, const NetNamespace& far) {
            runTool({"ip", "link", "add", port, "type", "veth", "peer", "name",
                     "eth0", "netns", far.path()});
            runTool({"ip", "link", "set", port, "master", "br0", "up"});
        };
        cable(bootPort, boot_);
        cable(productionPort, production_);
        for (const char* link : {"br0", bootPort, productionPort})
        {
            own_.insert(addressOf(link));
        }
    });
    production_.run([this] {
        runTool({"ip", "link", "set", "eth0", "up"});
        runTool({"ip", "address", "add", std::string(hostAddress) + "/24",
                 "dev", "eth0"});
        productionMac_ = addressOf("eth0");
        own_.insert(productionMac_);
        prodEnd_ =
            std::make_unique<CableEnd>("eth0", CableEnd::Sees::incoming, room);
    });
}

void SwitchedHosts::plugInTap()
{
    switch_.run([this] {
        runTool({"ip", "link", "delete", bootPort});
        runTool({"ip", "tuntap", "add", bootPort, "mode", "tap"});
        runTool({"ip", "link", "set", bootPort, "addrgenmode", "none"});
        runTool({"ip", "link", "set", bootPort, "master", "br0", "up"});
        // A bridge takes the lowest address of its ports.
        for (const char* link : {"br0", bootPort})
        {
            own_.insert(addressOf(link));
        }
    });
}

void SwitchedHosts::startAgent(const std::string& more)
{
    const pki::Credential own =
        pki::issue(authority_, {"switch1", tls::switchRole, {switchAddress}});
    writeFileAtomic(directory_ / "switchd.crt", own.certificate);
    writeFileAtomic(directory_ / "switchd.key", own.key, 0600);
    writeFileAtomic(directory_ / "ca.crt", authority_.certificate);
    writeFileAtomic(directory_ / "switchd.toml",
                    fmt::format(R"(bridge = "br0"
state = "{0}/switch"
socket = "{1}"
listen = "{2}"
{5}
[tls]
certificate = "{0}/switchd.crt"
key = "{0}/switchd.key"
authorities = "{0}/ca.crt"
[lease]
seconds = {3}
[[port]]
name = "{4}"
)",
                                directory_.string(), socket().string(),
                                switchAddress, leaseSeconds, bootPort, more));
    std::vector<std::string> argv = inside(switch_);
    argv.insert(argv.end(),
                {builtProgram("tools/switchd/airlock-switchd"), "--config",
                 (directory_ / "switchd.toml").string()});
    agent_.emplace(spawnLogged(argv, directory_ / "switchd.log"));
    connectUnix(socket(), startTime);
}

std::string SwitchedHosts::log() const
{
    return readTextFile(directory_ / "switchd.log", maxLog);
}

Json SwitchedHosts::call(const std::string& method, Json parameters)
{
    return control::Client(socket(), {"the switch agent", "airlock-switchd"})
        .call(method, std::move(parameters));
}

bool SwitchedHosts::portBecomes(const std::string& state, Milliseconds time)
{
    for (Deadline deadline(time); !deadline.passed();)
    {
        if (port()["state"] == state)
        {
            return true;
        }
        std::this_thread::sleep_for(Milliseconds(50));
    }
    return false;
}

std::size_t SwitchedHosts::framesOfOthers()
{
    std::size_t out = 0;
    for (const Caught& caught : prodEnd_->take())
    {
        out += own_.contains(caught.source()) ? 0U : 1U;
    }
    return out;
}

} // namespace airlock::rig
