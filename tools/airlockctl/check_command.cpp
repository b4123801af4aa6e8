#include "hostagent/daemon/config.hpp"
#include "hostagent/domain/domain_spec.hpp"
#include "tools/airlockctl/certificate.hpp"
#include "tools/airlockctl/cli.hpp"
#include "tools/airlockctl/commands.hpp"
#include "tools/airlockctl/libvirt_domain.hpp"
#include "tools/airlockctl/matching.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <map>

namespace airlock::ctl
{

namespace
{

constexpr int soonDays = 30;

/** Thrown for what works today but not for long. */
class Warning : public Error
{
  public:
    using Error::Error;
};

/** The findings of one run. */
class Checks
{
  public:
    /** Runs a check: it returns what is fine, or throws what is not. */
    void check(const std::string& what,
               const std::function<std::string()>& action)
    {
        try
        {
            add(what, "ok", action());
        }
        catch (const Warning& e)
        {
            add(what, "warning", e.what());
        }
        catch (const std::exception& e)
        {
            add(what, "FAILED", e.what());
        }
    }

    Result result() const
    {
        std::string text = text_;
        text += failed_ == 0 ? (warnings_ == 0 ? "all is well\n"
                                               : "all is well for now\n")
                             : fmt::format("{} of {} checks failed\n", failed_,
                                           json_.size());
        return {failed_ == 0 ? kOk : kRefused,
                {{"ok", failed_ == 0}, {"checks", json_}},
                text};
    }

  private:
    void add(const std::string& what, std::string_view verdict,
             const std::string& detail)
    {
        bool ok = verdict != "FAILED";
        bool warning = verdict == "warning";
        text_ += fmt::format("{:<7} {}: {}\n", verdict, what, detail);
        json_.push_back({{"check", what},
                         {"ok", ok},
                         {"warning", warning},
                         {"detail", detail}});
        failed_ += ok ? 0 : 1;
        warnings_ += warning ? 1 : 0;
    }

    std::string text_;
    Json json_ = Json::array();
    std::size_t failed_ = 0;
    std::size_t warnings_ = 0;
};

std::string checkKey(const std::filesystem::path& key)
{
    struct stat info
    {};
    if (::stat(key.c_str(), &info) != 0)
    {
        throwErrno("cannot look at " + key.string());
    }
    if ((info.st_mode & (S_IWGRP | S_IRWXO)) != 0)
    {
        throw Error(key.string() + " can be read by others: chmod 600");
    }
    return key.string();
}

/** Throws for a certificate that has ended or soon will. */
std::string checkTime(const std::string& where, const std::string& name,
                      int daysLeft)
{
    if (daysLeft < 0)
    {
        throw Error(where + " has expired: issue a new one");
    }
    if (daysLeft < soonDays)
    {
        throw Warning(fmt::format("{} ends in {} days: issue a new one", where,
                                  daysLeft));
    }
    return fmt::format("{}, {} days left", name, daysLeft);
}

std::string checkTime(const std::filesystem::path& file,
                      const Certificate& certificate)
{
    return checkTime(file.string(), certificate.name, certificate.daysLeft);
}

std::string checkCertificate(const std::filesystem::path& file)
{
    Certificate certificate = readCertificate(file);
    if (certificate.role != tls::hostRole)
    {
        throw Error(fmt::format("{} is for the role {}, not {}", file.string(),
                                printable(certificate.role), tls::hostRole));
    }
    return checkTime(file, certificate);
}

std::string sameVersion(const std::string& version)
{
    if (version != AIRLOCK_VERSION)
    {
        throw Error(fmt::format("is version {}, this is {}", printable(version),
                                AIRLOCK_VERSION));
    }
    return "version " + version;
}

std::string checkServer(const boot::Health& health)
{
    std::string version = sameVersion(health.version);
    if (!health.qemu)
    {
        throw Error("its QEMU does not run; its journal says why");
    }
    return fmt::format("{}, mode {}, {} of {} boots, QEMU {} build {}", version,
                       printable(health.mode), health.bootsRunning,
                       health.bootsMax, health.qemu->version,
                       health.qemu->build.empty() ? "unknown"
                                                  : health.qemu->build);
}

std::string checkAgent(const std::filesystem::path& socket)
{
    host::control::Client client(socket);
    Json info = client.call("info");
    return sameVersion(JsonField(info, "info").at("version").string());
}

/** The QEMUs of this host, each asked once. */
class Emulators
{
  public:
    const boot::QemuFacts& facts(const std::string& emulator)
    {
        auto known = facts_.find(emulator);
        if (known == facts_.end())
        {
            known = facts_.emplace(emulator, boot::askQemu(emulator)).first;
        }
        return known->second;
    }

  private:
    std::map<std::string, boot::QemuFacts> facts_;
};

/** A domain that can be compared with boot servers. */
struct GoodDomain
{
    host::DomainSpec spec;
    boot::QemuFacts emulator;
};

std::string checkDomain(const std::string& xml, Emulators& emulators,
                        std::vector<GoodDomain>& good)
{
    host::DomainSpec spec = host::parseDomain(xml);
    if (::access(spec.emulator.c_str(), X_OK) != 0)
    {
        throwErrno("its emulator " + spec.emulator + " cannot be run");
    }
    const boot::QemuFacts& facts = emulators.facts(spec.emulator);
    if (!facts.machines.contains(std::string(host::productionMachine)))
    {
        throw Error(spec.emulator + " has no machine " +
                    std::string(host::productionMachine));
    }
    if (!facts.cpuModels.contains(spec.cpuModel))
    {
        throw Error(spec.emulator + " has no CPU model " + spec.cpuModel);
    }
    good.push_back({spec, facts});
    return fmt::format("{} vCPUs {}, {} disks, {} NICs, QEMU {} build {}",
                       spec.vcpus, spec.cpuModel, spec.disks.size(),
                       spec.nics.size(), facts.version,
                       facts.build.empty() ? "unknown" : facts.build);
}

std::vector<GoodDomain> checkLibvirt(Checks& checks, const std::string& uri)
{
    std::vector<std::string> definitions;
    checks.check("libvirt", [&] {
        Libvirt libvirt(uri);
        definitions = libvirt.definitions();
        return fmt::format("version {} at {}", libvirt.version(), uri);
    });
    Emulators emulators;
    std::vector<GoodDomain> good;
    for (const std::string& xml : definitions)
    {
        if (host::isAirlockDomain(xml))
        {
            checks.check("domain " + host::domainName(xml),
                         [&] { return checkDomain(xml, emulators, good); });
        }
    }
    return good;
}

/** Whether the domain's metadata keep it away from this server. */
bool excludes(const host::DomainSpec& spec, const host::ServerSettings& server)
{
    for (const host::ServerWeight& wish : spec.settings.servers)
    {
        if (wish.name == server.name)
        {
            return wish.weight == 0;
        }
    }
    return server.weight == 0;
}

std::string checkMatch(const GoodDomain& domain, const boot::Health& health,
                       std::chrono::seconds limit)
{
    const boot::QemuFacts& server = *health.qemu;
    std::string wrong;
    if (limit > health.bootSeconds)
    {
        wrong = fmt::format("a boot may take {} s here and {} s there "
                            "(quota.boot-seconds)",
                            limit.count(), health.bootSeconds.count());
    }
    for (const std::string& one :
         mismatches(domain.spec, domain.emulator, server))
    {
        wrong += (wrong.empty() ? "" : "; ") + one;
    }
    if (!wrong.empty())
    {
        throw Error(wrong);
    }
    return fmt::format("QEMU {}, {}, {}", server.version,
                       bootMachineFor(host::productionMachine),
                       domain.spec.cpuModel);
}

void checkServers(Checks& checks, const host::Config& config,
                  const std::shared_ptr<const tls::Context>& context,
                  const std::vector<GoodDomain>& domains)
{
    for (const host::ServerSettings& server : config.servers)
    {
        std::optional<boot::Health> health;
        std::optional<tls::Peer> peer;
        checks.check("boot server " + server.name, [&] {
            boot::Client client(server.endpoint, context);
            health = client.health();
            peer = client.peer();
            return checkServer(*health);
        });
        if (peer)
        {
            checks.check("certificate of boot server " + server.name, [&] {
                return checkTime("its certificate", peer->name, peer->daysLeft);
            });
        }
        for (const GoodDomain& domain : domains)
        {
            if (health && health->qemu && !excludes(domain.spec, server))
            {
                checks.check(fmt::format("boot server {} for domain {}",
                                         server.name, domain.spec.name),
                             [&] {
                                 return checkMatch(
                                     domain, *health,
                                     domain.spec.settings.limit.value_or(
                                         config.reboot.limit));
                             });
            }
        }
    }
}

/** Nothing when the files cannot be used. */
std::shared_ptr<const tls::Context> checkTls(Checks& checks,
                                             const tls::Identity& identity)
{
    checks.check("certificate",
                 [&] { return checkCertificate(identity.certificate); });
    checks.check("key", [&] { return checkKey(identity.key); });
    checks.check("authority", [&] {
        return checkTime(identity.authorities,
                         readCertificate(identity.authorities));
    });
    std::shared_ptr<const tls::Context> context;
    checks.check("certificates together", [&] {
        context = std::make_shared<tls::Context>(identity,
                                                 tls::Context::Side::client);
        return std::string("certificate, key and authorities fit");
    });
    return context;
}

} // namespace

Result checkCommand(const CheckArguments& arguments)
{
    Checks checks;
    host::Config config;
    bool readable = false;
    checks.check("configuration", [&] {
        config = host::readConfig(arguments.config);
        readable = true;
        return fmt::format("{}, {} boot servers", arguments.config.string(),
                           config.servers.size());
    });
    std::shared_ptr<const tls::Context> context =
        readable ? checkTls(checks, config.identity) : nullptr;
    checks.check("host agent", [&] {
        return checkAgent(arguments.socket.value_or(config.socket));
    });
    std::vector<GoodDomain> domains =
        checkLibvirt(checks, arguments.uri.value_or(config.uri));
    if (context)
    {
        checkServers(checks, config, context, domains);
    }
    return checks.result();
}

} // namespace airlock::ctl
