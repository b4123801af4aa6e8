#include "common/process.hpp"
#include "hostagent/daemon/config.hpp"
#include "hostagent/domain/domain_spec.hpp"
#include "tools/airlockctl/certificate.hpp"
#include "tools/airlockctl/cli.hpp"
#include "tools/airlockctl/commands.hpp"
#include "tools/airlockctl/libvirt_domain.hpp"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <set>
#include <sstream>

namespace airlock::ctl
{

namespace
{

constexpr int soonDays = 30;

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
            add(what, true, action());
        }
        catch (const std::exception& e)
        {
            add(what, false, e.what());
        }
    }

    Result result() const
    {
        std::string text = text_;
        text += failed_ == 0 ? "all is well\n"
                             : fmt::format("{} of {} checks failed\n", failed_,
                                           json_.size());
        return {failed_ == 0 ? kOk : kRefused,
                {{"ok", failed_ == 0}, {"checks", json_}},
                text};
    }

  private:
    void add(const std::string& what, bool ok, const std::string& detail)
    {
        text_ +=
            fmt::format("{:<7} {}: {}\n", ok ? "ok" : "FAILED", what, detail);
        json_.push_back({{"check", what}, {"ok", ok}, {"detail", detail}});
        failed_ += ok ? 0 : 1;
    }

    std::string text_;
    Json json_ = Json::array();
    std::size_t failed_ = 0;
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

std::string checkCertificate(const std::filesystem::path& file)
{
    Certificate certificate = readCertificate(file);
    if (certificate.role != tls::hostRole)
    {
        throw Error(fmt::format("{} is for the role {}, not {}", file.string(),
                                printable(certificate.role), tls::hostRole));
    }
    if (certificate.daysLeft < soonDays)
    {
        throw Error(fmt::format("{} ends in {} days: issue a new one",
                                file.string(), certificate.daysLeft));
    }
    return fmt::format("{}, {} days left", certificate.name,
                       certificate.daysLeft);
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

std::string checkServer(const host::ServerSettings& server,
                        const std::shared_ptr<const tls::Context>& context)
{
    boot::Client client(server.endpoint, context);
    boot::Health health = client.health();
    return fmt::format("{}, mode {}, {} of {} boots",
                       sameVersion(health.version), printable(health.mode),
                       health.bootsRunning, health.bootsMax);
}

std::string checkAgent(const std::filesystem::path& socket)
{
    host::control::Client client(socket);
    Json info = client.call("info");
    return sameVersion(JsonField(info, "info").at("version").string());
}

/** What a QEMU lists for "-machine help" or "-cpu help", by first words. */
std::set<std::string> listedBy(const std::string& emulator, const char* option)
{
    SpawnOptions options;
    options.argv = {emulator, "-machine", "none", option, "help"};
    ProcessOutput output = runProgram(options, std::chrono::seconds(20));
    std::set<std::string> words;
    std::istringstream lines(output.out);
    for (std::string line; std::getline(lines, line);)
    {
        std::istringstream parts(line);
        std::string word;
        parts >> word;
        words.insert(word);
    }
    return words;
}

std::string checkDomain(const std::string& xml)
{
    host::DomainSpec spec = host::parseDomain(xml);
    if (::access(spec.emulator.c_str(), X_OK) != 0)
    {
        throwErrno("its emulator " + spec.emulator + " cannot be run");
    }
    if (!listedBy(spec.emulator, "-machine")
             .contains(std::string(host::productionMachine)))
    {
        throw Error(spec.emulator + " has no machine " +
                    std::string(host::productionMachine));
    }
    std::set<std::string> models = listedBy(spec.emulator, "-cpu");
    if (!models.contains(spec.cpuModel))
    {
        throw Error(spec.emulator + " has no CPU model " + spec.cpuModel);
    }
    return fmt::format("{} vCPUs {}, {} disks, {} NICs", spec.vcpus,
                       spec.cpuModel, spec.disks.size(), spec.nics.size());
}

void checkLibvirt(Checks& checks, const std::string& uri)
{
    std::vector<std::string> definitions;
    checks.check("libvirt", [&] {
        Libvirt libvirt(uri);
        definitions = libvirt.definitions();
        return fmt::format("version {} at {}", libvirt.version(), uri);
    });
    for (const std::string& xml : definitions)
    {
        if (host::isAirlockDomain(xml))
        {
            checks.check("domain " + host::domainName(xml),
                         [&] { return checkDomain(xml); });
        }
    }
}

void checkTls(Checks& checks, const host::Config& config)
{
    checks.check("certificate",
                 [&] { return checkCertificate(config.identity.certificate); });
    checks.check("key", [&] { return checkKey(config.identity.key); });
    std::shared_ptr<const tls::Context> context;
    checks.check("certificates together", [&] {
        context = std::make_shared<tls::Context>(config.identity,
                                                 tls::Context::Side::client);
        return std::string("certificate, key and authorities fit");
    });
    for (const host::ServerSettings& server : config.servers)
    {
        if (context)
        {
            checks.check("boot server " + server.name,
                         [&] { return checkServer(server, context); });
        }
    }
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
    if (readable)
    {
        checkTls(checks, config);
    }
    checks.check("host agent", [&] {
        return checkAgent(arguments.socket.value_or(config.socket));
    });
    checkLibvirt(checks, arguments.uri.value_or(config.uri));
    return checks.result();
}

} // namespace airlock::ctl
