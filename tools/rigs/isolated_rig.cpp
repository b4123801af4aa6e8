#include "tools/rigs/isolated_rig.hpp"

#include "bootsrv/machine/kept.hpp"
#include "common/file.hpp"
#include "common/sha256.hpp"
#include "common/tls.hpp"
#include "tools/rigs/capsule_case.hpp"
#include "tools/rigs/logged.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <thread>

namespace airlock::rig
{

namespace
{

namespace fs = std::filesystem;

constexpr Milliseconds bootTime = std::chrono::minutes(8);
constexpr Milliseconds waitStep{200};
constexpr std::size_t maxLog = 64U << 20;
constexpr std::uint16_t bootServerPort = 7420;
constexpr std::uint16_t metricsPort = 9557;
/** The boot host is asked before all others. */
constexpr unsigned firstWeight = 10;

constexpr const char* managementBridge = "mgmt";
constexpr const char* administratorAddress = "10.10.0.1/24";
constexpr const char* switchManagement = "10.10.0.2/24";
constexpr const char* hostManagement = "10.10.0.3/24";

/** The tap device of plugIn(). */
constexpr const char* capsuleTap = "cap0";

/** The capsule's end of the cable: what its tap sends comes out of eth0 of the
 * boot host's namespace. */
void plugIn(const NetNamespace& boot)
{
    boot.run([] {
        runTool({"ip", "link", "add", "cable", "type", "bridge",
                 "mcast_snooping", "0"});
        runTool({"ip", "tuntap", "add", capsuleTap, "mode", "tap"});
        for (const char* link : {"cable", "eth0", capsuleTap})
        {
            runTool({"ip", "link", "set", link, "addrgenmode", "none"});
        }
        for (const char* link : {"eth0", capsuleTap})
        {
            runTool({"ip", "link", "set", link, "master", "cable", "up"});
        }
        runTool({"ip", "link", "set", "cable", "up"});
    });
}

NetNamespace enterProduction()
{
    enterPrivateNamespaces();
    return NetNamespace::current();
}

} // namespace

IsolatedRig::IsolatedRig(fs::path directory, BootHostCase boot)
    : directory_(std::move(directory)), bootCase_(std::move(boot)),
      authority_(pki::makeAuthority("airlock-rig")),
      net_(directory_, authority_, enterProduction())
{
    plugAdministrator();
    net_.startAgent();
    net_.call("enroll", {{"port", SwitchedHosts::bootPort},
                         {"host", bootHostName},
                         {"method", "mac96"},
                         {"root", toHex(root_.view())}});
    plugIn(net_.boot());
}

/** A network that is not that of boot hosts, as a site should have it. */
void IsolatedRig::plugAdministrator()
{
    auto cable = [](const char* name, const NetNamespace& far,
                    const char* address) {
        runTool({"ip", "link", "add", name, "type", "veth", "peer", "name",
                 "mgmt0", "netns", far.path()});
        runTool({"ip", "link", "set", name, "master", managementBridge, "up"});
        far.run([&] {
            runTool({"ip", "address", "add", address, "dev", "mgmt0"});
            runTool({"ip", "link", "set", "mgmt0", "up"});
            // Neither is a way from one network into the other.
            writeAll(openFile("/proc/sys/net/ipv4/ip_forward", O_WRONLY).get(),
                     asBytes("0"));
        });
    };
    administrator_.run([&] {
        runTool({"ip", "link", "set", "lo", "up"});
        runTool({"ip", "link", "add", managementBridge, "type", "bridge"});
        runTool({"ip", "address", "add", administratorAddress, "dev",
                 managementBridge});
        runTool({"ip", "link", "set", managementBridge, "up"});
        cable("switch0", net_.theSwitch(), switchManagement);
        cable("host0", net_.production(), hostManagement);
    });
}

Json IsolatedRig::site() const
{
    const pki::Credential own =
        pki::issue(authority_,
                   {bootHostName, tls::bootRole, {SwitchedHosts::bootAddress}});
    machine::Site out;
    out.tls = {own.certificate, own.key, authority_.certificate};
    out.listen = "0.0.0.0";
    out.port = bootServerPort;
    out.network = {std::string(SwitchedHosts::bootAddress) + "/24", ""};
    out.switchTo.emplace();
    out.switchTo->host = SwitchedHosts::switchAddress;
    out.switchTo->leaseSeconds = SwitchedHosts::leaseSeconds;
    return out.toJson();
}

void IsolatedRig::enrol()
{
    capsule_.emplace(capsule::Capsule::create(
        directory_ / "capsule",
        partsOf(bootCase_.images, bootCase_.stagingBytes)));
    capsule::CapsuleOptions options;
    options.tap = capsuleTap;
    options.cpus = bootCase_.cpus;
    options.memoryMiB = bootCase_.memoryMiB;
    net_.boot().run([&] {
        machine::EnrolmentRequest request;
        request.name = bootHostName;
        request.addressRoot = Secret(root_.view());
        request.site = WipedJson(site());
        rig::enrol(*capsule_, options, bootCase_.images, std::move(request),
                   bootTime);
    });
}

void IsolatedRig::startBootHost()
{
    std::vector<std::string> argv = inside(net_.boot());
    argv.insert(argv.end(),
                {builtProgram("bootsrv/airlock-bootd"), "capsule", "run",
                 (directory_ / "capsule").string(), "--tap", capsuleTap,
                 "--cpus", std::to_string(bootCase_.cpus), "--memory",
                 std::to_string(bootCase_.memoryMiB)});
    bootHost_.emplace(spawnLogged(argv, bootLog()));
}

void IsolatedRig::waitClean(Milliseconds time,
                            const std::function<void()>& tick)
{
    for (Deadline deadline(time); net_.port()["state"] != "open";)
    {
        if (deadline.passed() || !bootHost_->running())
        {
            throw TimedOut("the boot host does not get to the network: " +
                           logs());
        }
        if (tick)
        {
            tick();
        }
        std::this_thread::sleep_for(waitStep);
    }
}

HostRig& IsolatedRig::startProduction(const DomainCase& domain,
                                      ProductionCase more)
{
    BootServerCase server;
    server.name = bootHostName;
    server.host = SwitchedHosts::bootAddress;
    server.port = bootServerPort;
    server.weight = firstWeight;
    RigSettings settings;
    settings.servers = std::move(more.others);
    settings.servers.insert(settings.servers.begin(), server);
    settings.authority = authority_;
    settings.reboot = std::move(more.reboot);
    settings.tables =
        more.tables +
        fmt::format("[metrics]\nlisten = \"{}:{}\"\n",
                    std::string_view(hostManagement)
                        .substr(0, std::string_view(hostManagement).find('/')),
                    metricsPort);
    production_ = std::make_unique<HostRig>(std::vector{domain}, settings);
    return *production_;
}

boot::Client IsolatedRig::client()
{
    const pki::Credential own = pki::issue(
        authority_, {"host1", tls::hostRole, {SwitchedHosts::hostAddress}});
    const tls::Identity files = {directory_ / "host1.crt",
                                 directory_ / "host1.key",
                                 directory_ / "ca.crt"};
    writeFileAtomic(files.certificate, own.certificate);
    writeFileAtomic(files.key, own.key, 0600);
    return {{SwitchedHosts::bootAddress, bootServerPort, tls::bootRole},
            std::make_shared<tls::Context>(files, tls::Context::Side::client)};
}

std::string IsolatedRig::mode() const
{
    return fs::exists(bootLog()) ? modeIn(readTextFile(bootLog(), maxLog))
                                 : "off";
}

std::string modeIn(std::string_view log)
{
    constexpr std::string_view field = " MODE=";
    const std::size_t start = log.rfind("A mode starts ");
    if (start == std::string_view::npos)
    {
        return "off";
    }
    std::string_view line = log.substr(start);
    line = line.substr(0, line.find('\n'));
    const std::size_t at = line.find(field);
    if (at == std::string_view::npos)
    {
        throw Error("the supervisor does not say which mode it starts: " +
                    std::string(line));
    }
    line.remove_prefix(at + field.size());
    return std::string(line.substr(0, line.find(' ')));
}

fs::path IsolatedRig::console() const
{
    return directory_ / "capsule" / "console";
}

std::string IsolatedRig::logs() const
{
    return "switch: " + endOf(directory_ / "switchd.log") +
           "\nboot host: " + endOf(bootLog()) +
           "\nits console: " + endOf(console());
}

} // namespace airlock::rig
