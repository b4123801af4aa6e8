#include "tests/machine/switch_net.hpp"

#include "common/control_client.hpp"
#include "common/socket.hpp"
#include "common/tls.hpp"

#include <fcntl.h>

#include <thread>

namespace airlock::test
{

namespace
{

constexpr Milliseconds startTime = std::chrono::seconds(20);
constexpr Milliseconds portTime = std::chrono::seconds(40);

MacAddress addressOf(const char* link)
{
    Json all = parseJson(runTool({"ip", "-j", "link", "show", link}), "ip");
    return mac(all.at(0)["address"].get<std::string>());
}

std::vector<std::string> inside(const NetNamespace& net)
{
    return {"nsenter", "--net=" + net.path()};
}

} // namespace

SwitchNet::SwitchNet(MachineRig& machine) : machine_(machine)
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
        cable("boot0", boot_);
        cable("prod0", production_);
        for (const char* link : {"br0", "boot0", "prod0"})
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
        prodEnd_ = std::make_unique<CableEnd>("eth0");
    });
}

void SwitchNet::setUpMachine(machine::ProofMethod method)
{
    machine_.nic = "eth0";
    machine_.launcher = inside(boot_);
    machine_.site.tls =
        machine_.identityFor("boot1", tls::bootRole, bootAddress);
    machine_.site.network = {std::string(bootAddress) + "/24", ""};
    machine::Site::Switch site;
    site.host = switchAddress;
    site.method = method;
    site.leaseSeconds = 6;
    machine_.site.switchTo = site;
}

void SwitchNet::plugInTap()
{
    switch_.run([this] {
        runTool({"ip", "link", "delete", "boot0"});
        runTool({"ip", "tuntap", "add", "boot0", "mode", "tap"});
        runTool({"ip", "link", "set", "boot0", "addrgenmode", "none"});
        runTool({"ip", "link", "set", "boot0", "master", "br0", "up"});
        // A bridge takes the lowest address of its ports.
        for (const char* link : {"br0", "boot0"})
        {
            own_.insert(addressOf(link));
        }
    });
}

void SwitchNet::startAgent()
{
    const std::filesystem::path& directory = machine_.directory();
    auto own = machine_.identityFor("switch1", tls::switchRole, switchAddress);
    writeFileAtomic(directory / "switchd.crt", own.certificate);
    writeFileAtomic(directory / "switchd.key", own.key, 0600);
    writeFileAtomic(directory / "ca.crt", own.authorities);
    auto path = [&directory](const char* name) {
        return "\"" + (directory / name).string() + "\"\n";
    };
    writeFileAtomic(
        directory / "switchd.toml",
        "bridge = \"br0\"\nstate = " + path("switch") +
            "socket = " + path("switchd.sock") + "listen = \"" + switchAddress +
            "\"\n[tls]\ncertificate = " + path("switchd.crt") +
            "key = " + path("switchd.key") + "authorities = " + path("ca.crt") +
            "[lease]\nseconds = 6\n[[port]]\nname = \"boot0\"\n");
    UniqueFd out = openFile(directory / "switchd.log",
                            O_WRONLY | O_CREAT | O_APPEND, 0600);
    SpawnOptions options;
    options.argv = inside(switch_);
    options.argv.insert(
        options.argv.end(),
        {AIRLOCK_SWITCHD, "--config", (directory / "switchd.toml").string()});
    options.stdoutFd = out.get();
    options.stderrFd = out.get();
    agent_.emplace(options);
    connectUnix(directory / "switchd.sock", startTime);
}

std::string SwitchNet::log() const
{
    return readTextFile(machine_.directory() / "switchd.log", 16U << 20);
}

Json SwitchNet::call(const std::string& method, Json parameters)
{
    return control::Client(machine_.directory() / "switchd.sock",
                           {"the switch agent", "airlock-switchd"})
        .call(method, std::move(parameters));
}

void SwitchNet::enroll(const std::string& method, const std::string& key)
{
    Json wanted = {{"port", "boot0"}, {"host", "boot1"}, {"method", method}};
    if (key.empty())
    {
        wanted["root"] = toHex(machine_.root().view());
    }
    else
    {
        wanted["key"] = key;
    }
    call("enroll", wanted);
}

bool SwitchNet::portBecomes(const std::string& state)
{
    for (Deadline deadline(portTime); !deadline.passed();)
    {
        if (port()["state"] == state)
        {
            return true;
        }
        std::this_thread::sleep_for(Milliseconds(50));
    }
    return false;
}

MacAddress SwitchNet::bootAddressNow()
{
    MacAddress out;
    boot_.run([&out] { out = addressOf("eth0"); });
    return out;
}

std::size_t SwitchNet::framesOfOthers()
{
    std::size_t out = 0;
    for (const Caught& caught : prodEnd_->take())
    {
        out += isOwn(caught.source()) ? 0U : 1U;
    }
    return out;
}

boot::Client SwitchNet::client(const std::string& name)
{
    return machine_.clientAt(bootAddress, name);
}

} // namespace airlock::test
