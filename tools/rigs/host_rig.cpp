#include "tools/rigs/host_rig.hpp"

#include "common/error.hpp"
#include "common/pki.hpp"
#include "common/tls.hpp"
#include "hostagent/control/client.hpp"
#include "tools/rigs/logged.hpp"

#include <fmt/format.h>

#include <thread>

namespace airlock::rig
{

namespace
{

/** Of the first boot server; the others follow. */
constexpr unsigned bootPort = 17420;

} // namespace

HostRig::HostRig(const GuestCase& guest) : HostRig({DomainCase{"demo", guest}})
{}

HostRig::HostRig(std::vector<DomainCase> domains, RigSettings settings)
    : directory_("airlock-host"), settings_(std::move(settings)),
      libvirt_(directory_.path() / "libvirt"), bootd_(settings_.servers.size())
{
    writeCertificates();
    writeHostConfiguration();
    for (DomainCase& domain : domains)
    {
        guests_.push_back(std::make_unique<HostedGuest>(
            libvirt_, domain, path(), [this] { return logs(); }));
        define(*guests_.back(), domain, guests_.size() - 1);
    }
    for (std::size_t i = 0; i < settings_.servers.size(); i++)
    {
        if (!settings_.servers[i].host.empty())
        {
            continue;
        }
        writeBootConfiguration(i);
        if (settings_.daemons)
        {
            startBootd(i);
        }
    }
    if (settings_.daemons)
    {
        startHostd();
    }
}

HostRig::~HostRig() = default;

void HostRig::writeCertificates()
{
    const pki::Credential authority = settings_.authority
                                          ? *settings_.authority
                                          : pki::makeAuthority("airlock-test");
    writeFileAtomic(path() / "ca.crt", authority.certificate);
    for (const char* role : {tls::hostRole, tls::bootRole})
    {
        pki::Credential made =
            pki::issue(authority, {role, role, {"127.0.0.1", "localhost"}});
        writeFileAtomic(path() / (std::string(role) + ".crt"),
                        made.certificate);
        writeFileAtomic(path() / (std::string(role) + ".key"), made.key, 0600);
    }
}

void HostRig::writeHostConfiguration()
{
    std::string text =
        fmt::format(R"(libvirt = "{0}"
state = "{1}/hostd"
socket = "{1}/hostd.sock"

[tls]
certificate = "{1}/airlock-hostd.crt"
key = "{1}/airlock-hostd.key"
authorities = "{1}/ca.crt"

[reboot]
booted = "{4}"
{2}

{3}
)",
                    libvirt_.uri(), path().string(), settings_.reboot,
                    settings_.tables, settings_.booted);
    for (std::size_t i = 0; i < settings_.servers.size(); i++)
    {
        const BootServerCase& server = settings_.servers[i];
        const bool here = server.host.empty();
        text += fmt::format(R"(
[[server]]
name = "{}"
host = "{}"
port = {}
weight = {}
)",
                            server.name, here ? "127.0.0.1" : server.host,
                            here ? bootPort + i : server.port, server.weight);
    }
    writeFileAtomic(path() / "hostd.toml", text);
}

/** "bootd.log" of the first one, "bootd-1.log" of the next. */
std::string HostRig::bootName(std::size_t server, const char* end) const
{
    return fmt::format("{}/bootd{}{}", path().string(),
                       server == 0 ? "" : fmt::format("-{}", server), end);
}

void HostRig::writeBootConfiguration(std::size_t server)
{
    std::string qemu = settings_.servers[server].qemu;
    if (qemu.empty())
    {
        qemu = builtQemu("boot");
    }
    writeFileAtomic(bootName(server, ".toml"),
                    fmt::format(R"(listen = "127.0.0.1"
port = {2}
state-directory = "{4}"

[tls]
certificate = "{1}/airlock-bootd.crt"
key = "{1}/airlock-bootd.key"
authorities = "{1}/ca.crt"

[boot]
qemu = "{5}"
bootrun = "{0}"
{3}
)",
                                program("bootsrv/airlock-bootrun"),
                                path().string(), bootPort + server,
                                settings_.boot, bootName(server, ""), qemu));
}

void HostRig::define(const HostedGuest& guest, const DomainCase& domain,
                     std::size_t index)
{
    std::string disks;
    if (domain.disks)
    {
        disks = domain.disks(path());
    }
    else
    {
        copyImage(domain.image.empty() ? imageOf(domain.guest.kernel)
                                       : domain.image,
                  guest.image());
        disks = imageDisk(guest.image());
    }
    const std::filesystem::path qemu =
        builtQemu(domain.plain ? "boot" : "production");
    std::filesystem::path file = path() / (domain.name + ".xml");
    writeFileAtomic(file, domainXml(domain, index, disks, qemu, path()));
    libvirt_.virsh({"define", file.string()});
}

void HostRig::startHostd()
{
    hostd_.emplace(spawnLogged({program("hostagent/daemon/airlock-hostd"),
                                "--config", (path() / "hostd.toml").string()},
                               path() / "hostd.log"));
}

void HostRig::startBootd(std::size_t server)
{
    bootd_.at(server).emplace(
        spawnLogged({program("bootsrv/airlock-bootd"), "--config",
                     bootName(server, ".toml")},
                    bootName(server, ".log")));
}

Json HostRig::ask(const std::string& method, Json parameters) const
{
    return host::control::Client(socket()).call(method, std::move(parameters));
}

std::string HostRig::lastJob() const
{
    const Json jobs = ask("jobs", {{"limit", 1}}).at("jobs");
    return jobs.empty() ? "" : jobs.at(0).at("id").get<std::string>();
}

Json HostRig::waitReturn(
    const std::string& lastJob, Milliseconds timeout,
    const std::function<void(const std::string&)>& tick) const
{
    for (Deadline deadline(timeout);;)
    {
        const Json status = ask("status", {{"vm", domain()}});
        const std::string state = status.at("vm").at("state");
        const Json& jobs = status.at("jobs");
        if (state == "running" && !jobs.empty() &&
            jobs.at(0).at("id") != lastJob)
        {
            return jobs.at(0);
        }
        const std::string reason = status.at("vm").at("reason");
        if (state == "held")
        {
            throw Error("the guest is held: " + reason + "; " + logs());
        }
        if (deadline.passed())
        {
            throw TimedOut("the guest does not come back, it is " + state +
                           ": " + reason + "; " + logs());
        }
        tick(state);
        std::this_thread::sleep_for(Milliseconds(200));
    }
}

std::string HostRig::logs() const
{
    std::string out = "hostd: " + endOf(path() / "hostd.log") +
                      "\nbootd: " + endOf(path() / "bootd.log");
    for (const auto& guest : guests_)
    {
        out += "\nqemu: " +
               endOf(path() / "libvirt/log/qemu" / (guest->name() + ".log"));
    }
    return out;
}

} // namespace airlock::rig
