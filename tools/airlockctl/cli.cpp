#include "tools/airlockctl/cli.hpp"

#include "tools/airlockctl/commands.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <functional>

namespace airlock::ctl
{

using control::CallError;
using host::control::Client;

namespace
{

constexpr const char* switchSocket = "/run/airlock/switchd/control.sock";

/** All that the command line can say. */
struct Arguments
{
    bool json = false;
    std::string socket{host::control::defaultSocket};
    std::string vm;
    bool discardDelta = false;
    AdoptArguments adopt;
    std::optional<unsigned> limitSeconds;
    bool namesOnly = false;
    JobsArguments jobs;
    std::string since;
    bool follow = false;
    std::filesystem::path directory = ".";
    std::string authority = "Airlock";
    unsigned days = 0;
    IssueArguments issue;
    SwitchArguments onSwitch;
    CheckArguments check;
};

using Command = std::function<Result()>;

class CommandLine
{
  public:
    CommandLine(std::ostream& out, std::ostream& err) : out_(out), err_(err)
    {
        app_.require_subcommand(1);
        app_.fallthrough();
        app_.set_version_flag("--version", AIRLOCK_VERSION);
        app_.add_flag("--json", arguments_.json, "print JSON");
        app_.add_option("--socket", arguments_.socket,
                        "the control socket of the host agent, or of the "
                        "switch agent")
            ->capture_default_str();
        addAdopt();
        addAgent();
        addPki();
        addSwitch();
        addCheck();
    }

    int run(int argc, const char* const* argv)
    {
        try
        {
            app_.parse(argc, argv);
        }
        catch (const CLI::ParseError& e)
        {
            return app_.exit(e, out_, err_) == 0 ? kOk : kFailed;
        }
        try
        {
            Result result = command_();
            out_ << (arguments_.json ? dumpJson(result.json) + "\n"
                                     : result.text);
            return result.code;
        }
        catch (const CallError& e)
        {
            return report(e.name(), e.what(), kRefused);
        }
        catch (const Refused& e)
        {
            return report("refused", e.what(), kRefused);
        }
        catch (const std::exception& e)
        {
            return report("failed", e.what(), kFailed);
        }
    }

  private:
    CLI::App* add(CLI::App& parent, const char* name, const char* help,
                  Command command)
    {
        CLI::App* sub = parent.add_subcommand(name, help);
        sub->fallthrough();
        sub->callback(
            [this, command = std::move(command)] { command_ = command; });
        return sub;
    }

    int report(const std::string& name, const std::string& message, int code)
    {
        err_ << "airlockctl: " << message << "\n";
        if (arguments_.json)
        {
            out_ << dumpJson({{"error", name}, {"message", message}}) << "\n";
        }
        return code;
    }

    Client agent() const { return Client(arguments_.socket); }

    void addAdopt()
    {
        AdoptArguments& a = arguments_.adopt;
        CLI::App* sub =
            add(app_, "adopt", "turn a libvirt domain into an airlock domain",
                [this] {
                    if (arguments_.limitSeconds)
                    {
                        arguments_.adopt.options.limit =
                            std::chrono::seconds(*arguments_.limitSeconds);
                    }
                    return adoptCommand(arguments_.adopt);
                });
        auto* source = sub->add_option_group("source");
        source->add_option("DOMAIN", a.domain, "name or UUID");
        auto* file = source->add_option("--file", a.file,
                                        "XML from a file, - for standard "
                                        "input");
        source->require_option(1);
        auto* apply = sub->add_flag("--apply", a.apply, "define the domain so");
        apply->excludes(file);
        sub->add_flag("--diff", a.diffOnly, "print the difference only");
        sub->add_flag("--revert", a.revert, "back to the XML from before");
        sub->add_option("-o,--output", a.output,
                        "write the XML to a file, - for standard output")
            ->excludes(apply);
        sub->add_option("--connect", a.uri, "libvirt's URI")
            ->capture_default_str();
        sub->add_option("--cpu", a.options.cpuModel, "the guest's CPU model");
        sub->add_option("--emulator", a.options.emulator,
                        "the production QEMU");
        sub->add_flag("--force-virtio", a.options.forceVirtio,
                      "make virtio devices of disks and NICs that are none");
        sub->add_option("--booted", a.options.booted,
                        "when the guest counts as booted, such as idle:5");
        sub->add_option("--tenant", a.options.tenant, "label of its owner");
        sub->add_option("--limit", arguments_.limitSeconds,
                        "seconds that a reboot may take");
    }

    void addAgent()
    {
        add(app_, "list", "the airlock domains of this host", [this] {
            Client client = agent();
            return listCommand(client, arguments_.namesOnly);
        })->add_flag("--names", arguments_.namesOnly, "only their names");
        for (const char* name : {"status", "retry", "release"})
        {
            addOnVm(name);
        }
        addJobs();
        add(app_, "events", "what happened lately",
            [this] { return arguments_.follow ? follow() : recent(); })
            ->add_flag("-f,--follow", arguments_.follow,
                       "go on with what happens from now on");
    }

    void addOnVm(const std::string& name)
    {
        const char* help = name == "status" ? "one domain and its last jobs"
                           : name == "retry"
                               ? "let a held domain try again"
                               : "leave a held domain to the operator";
        CLI::App* sub = add(app_, name.c_str(), help, [this, name] {
            Client client = agent();
            return name == "status" ? statusCommand(client, arguments_.vm)
                                    : heldCommand(client, name, arguments_.vm,
                                                  arguments_.discardDelta);
        });
        sub->add_option("VM", arguments_.vm, "name or UUID")->required();
        if (name == "release")
        {
            sub->add_flag("--discard-delta", arguments_.discardDelta,
                          "give up what its boot wrote and is not applied");
        }
    }

    void addJobs()
    {
        JobsArguments& j = arguments_.jobs;
        CLI::App* sub = add(app_, "jobs", "boots, the latest first", [this] {
            if (!arguments_.since.empty())
            {
                arguments_.jobs.since = pointInTime(arguments_.since);
            }
            Client client = agent();
            return jobsCommand(client, arguments_.jobs);
        });
        auto* vm = sub->add_option("VM", j.vm, "name or UUID");
        sub->add_option("--domain", j.vm, "the same")->excludes(vm);
        sub->add_option("--tenant", j.tenant, "of this tenant");
        sub->add_option("--server", j.server, "at this boot server");
        sub->add_option("--result", j.result,
                        "that ended so: done, failed, "
                        "abandoned");
        sub->add_flag("--open", j.open, "that have not ended");
        sub->add_option("--since,--last", arguments_.since,
                        "started since: 90s, 15m, 12h, 7d ago, or a time in "
                        "UTC such as 2026-11-21 or 2026-11-21T16:30");
        sub->add_option("-n,--limit", j.limit, "at most so many")
            ->check(CLI::Range(1, 10000))
            ->capture_default_str();
    }

    /** Seconds after 1970. */
    static std::chrono::seconds pointInTime(const std::string& text)
    {
        if (text.find('-') != std::string::npos)
        {
            return dateAndTime(text);
        }
        return std::chrono::floor<std::chrono::seconds>(
                   std::chrono::system_clock::now().time_since_epoch()) -
               duration(text);
    }

    static std::chrono::seconds duration(const std::string& text)
    {
        static const std::map<char, std::int64_t> units = {
            {'s', 1}, {'m', 60}, {'h', 3600}, {'d', 86400}};
        std::size_t digits = text.find_first_not_of("0123456789");
        if (digits == 0 || digits > 6 || digits + 1 != text.size() ||
            !units.contains(text[digits]))
        {
            throw Error("--since " + printable(text) +
                        " is neither a time such as 90s, 15m, 12h, 7d nor a "
                        "date such as 2026-11-21 or 2026-11-21T16:30");
        }
        return std::chrono::seconds(std::stoll(text.substr(0, digits)) *
                                    units.at(text[digits]));
    }

    static std::chrono::seconds dateAndTime(const std::string& text)
    {
        for (const char* format :
             {"%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S",
              "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S"})
        {
            std::tm fields = {};
            const char* end = ::strptime(text.c_str(), format, &fields);
            if (end != nullptr && *end == '\0')
            {
                return std::chrono::seconds(::timegm(&fields));
            }
        }
        throw Error("--since " + printable(text) +
                    " is no date such as 2026-11-21 or 2026-11-21T16:30");
    }

    Result recent()
    {
        Client client = agent();
        return eventsCommand(client);
    }

    /** Prints as it comes; with --json an object on each line. */
    Result follow()
    {
        Client client = agent();
        client.follow("events", [this](const Json& reply) {
            const Json& event = JsonField(reply, "event").at("event").json();
            out_ << (arguments_.json ? dumpJson(event) + "\n"
                                     : eventLine(event))
                 << std::flush;
            return out_.good();
        });
        return {};
    }

    void addPki()
    {
        CLI::App* pki =
            app_.add_subcommand("pki", "certificates for a small site");
        pki->require_subcommand(1);
        pki->fallthrough();
        auto shared = [this](CLI::App* sub) {
            sub->add_option("--dir", arguments_.directory,
                            "where the files are")
                ->capture_default_str();
            sub->add_option("--days", arguments_.days, "how long it is valid")
                ->check(CLI::Range(1, 36500));
        };
        CLI::App* init =
            add(*pki, "init", "make an authority: ca.crt, ca.key", [this] {
                return pkiInit(arguments_.directory, arguments_.authority,
                               validity(3650));
            });
        shared(init);
        init->add_option("--name", arguments_.authority,
                         "name of the authority")
            ->capture_default_str();
        IssueArguments& i = arguments_.issue;
        CLI::App* issue =
            add(*pki, "issue", "make a daemon's certificate", [this] {
                arguments_.issue.directory = arguments_.directory;
                arguments_.issue.validity = validity(825);
                return pkiIssue(arguments_.issue);
            });
        shared(issue);
        issue->add_option("ROLE", i.role, "hostd, bootd or switchd")
            ->required()
            ->check(CLI::IsMember({"hostd", "bootd", "switchd"}));
        issue->add_option("NAME", i.name, "of the host, and of the files")
            ->required();
        issue->add_option("--host", i.hosts,
                          "host name or address of a boot server or switch; "
                          "repeatable");
    }

    control::Client switchAgent() const
    {
        return control::Client(app_.count("--socket") > 0 ? arguments_.socket
                                                          : switchSocket,
                               {"the switch agent", "airlock-switchd"});
    }

    void addSwitch()
    {
        SwitchArguments& s = arguments_.onSwitch;
        CLI::App* parent = app_.add_subcommand(
            "switch", "the ports of boot hosts, on their switch");
        parent->require_subcommand(1);
        parent->fallthrough();
        auto call = [this](auto command) {
            return [this, command] {
                control::Client client = switchAgent();
                return command(client, arguments_.onSwitch);
            };
        };
        auto port = [&](CLI::App* sub) {
            return sub->add_option("PORT", s.port, "name of the interface");
        };
        auto root = [&](CLI::App* sub) {
            sub->add_option("--root", s.root,
                            "file with the root that the boot host made");
            sub->add_option("-o,--output", s.output,
                            "file for a root that is made here");
        };
        add(*parent, "ports", "all ports, one on each line", [this] {
            control::Client client = switchAgent();
            return switchPortsCommand(client);
        });
        port(add(*parent, "status", "the agent, or one port",
                 call(switchStatusCommand)));
        port(add(*parent, "cut", "cut a port off", call(switchCutCommand)))
            ->required();
        CLI::App* enroll = add(*parent, "enroll", "say which boot host it is",
                               call(switchEnrollCommand));
        port(enroll)->required();
        enroll->add_option("HOST", s.host, "name in its certificate")
            ->required();
        enroll->add_option("--method", s.method, "how it proves clean mode")
            ->check(CLI::IsMember({"mac", "mac96", "quote"}))
            ->capture_default_str();
        root(enroll);
        enroll->add_option("--key", s.key, "quote: file with its public key");
        enroll->add_option("--address", s.address,
                           "quote: the only address it may have");
        CLI::App* rotate = add(*parent, "rotate", "replace a port's root",
                               call(switchRotateCommand));
        port(rotate)->required();
        root(rotate);
    }

    std::chrono::hours validity(unsigned days) const
    {
        return std::chrono::hours(
            24 * (arguments_.days != 0 ? arguments_.days : days));
    }

    void addCheck()
    {
        CheckArguments& c = arguments_.check;
        CLI::App* sub =
            add(app_, "check",
                "configuration, certificates, boot servers, domains", [this] {
                    if (app_.count("--socket") > 0)
                    {
                        arguments_.check.socket = arguments_.socket;
                    }
                    return checkCommand(arguments_.check);
                });
        sub->add_option("--config", c.config, "the host agent's")
            ->capture_default_str();
        sub->add_option("--connect", c.uri,
                        "libvirt's URI instead of the configuration's");
    }

    std::ostream& out_;
    std::ostream& err_;
    CLI::App app_{"Operates Airlock on a production host or a switch.",
                  "airlockctl"};
    Arguments arguments_;
    Command command_;
};

} // namespace

int run(int argc, const char* const* argv, std::ostream& out, std::ostream& err)
{
    return CommandLine(out, err).run(argc, argv);
}

} // namespace airlock::ctl
