#include "tools/switchd/alert_relay.hpp"

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/log.hpp"
#include "common/stop_signals.hpp"
#include "common/toml_table.hpp"
#include "tools/switchd/alert_socket.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace airlock::sw
{

namespace
{

constexpr int exitError = 1;
constexpr int exitUsage = 2;
constexpr std::size_t maxText = 300;
constexpr std::size_t maxReason = 1000;
constexpr mode_t privateMask = 0077;
constexpr JsonLimits messageLimits{AlertSocket::maxMessage, 3};

/** All other fields of an event, as "NAME=value". */
std::string reasonOf(const Json& event)
{
    std::string out;
    for (const auto& [name, value] : event.items())
    {
        const bool field = !name.empty() && name[0] >= 'A' && name[0] <= 'Z';
        if (field && name != "PORT" && name != "BOOT_HOST" && value.is_string())
        {
            out += (out.empty() ? "" : " ") + name + "=" +
                   value.get<std::string>();
        }
    }
    return plainText(out, maxReason);
}

std::string textAt(const JsonField& event, std::string_view name)
{
    const auto field = event.find(name);
    return field ? plainText(field->string(AlertSocket::maxMessage), maxText)
                 : "";
}

/** Whoever started it: from here on nothing has a privilege, commands neither.
 */
void dropPrivileges()
{
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    const __user_cap_data_struct none[2] = {};
    if (::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0 ||
        ::syscall(SYS_capset, &header, none) != 0 ||
        ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    {
        throwErrno("cannot drop privileges");
    }
}

/** That of systemd's socket unit, or a new one. */
UniqueFd listenAt(const std::filesystem::path& path)
{
    if (::sd_listen_fds(1) == 1)
    {
        return UniqueFd(SD_LISTEN_FDS_START);
    }
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    if (path.string().size() >= sizeof(at.sun_path))
    {
        throw Error("socket: the path is too long for a Unix socket");
    }
    std::strncpy(at.sun_path, path.c_str(), sizeof(at.sun_path) - 1);
    UniqueFd out(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    std::filesystem::remove(path);
    if (!out || ::bind(out.get(), reinterpret_cast<const sockaddr*>(&at),
                       sizeof(at)) != 0)
    {
        throwErrno("cannot listen at " + path.string());
    }
    return out;
}

class Relay
{
  public:
    Relay(const RelayConfig& config, UniqueFd socket)
        : socket_(std::move(socket)), limit_(config.every),
          delivery_(config.alerts)
    {
        wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        if (!wake_)
        {
            throwErrno("cannot create an eventfd");
        }
    }

    void run(const std::stop_token& stop)
    {
        const std::stop_callback onStop(stop, [this] {
            const std::uint64_t one = 1;
            [[maybe_unused]] const ssize_t n =
                ::write(wake_.get(), &one, sizeof(one));
        });
        while (!stop.stop_requested())
        {
            pollfd entries[] = {{wake_.get(), POLLIN, 0},
                                {socket_.get(), POLLIN, 0}};
            ::poll(entries, 2, waitTime());
            if ((entries[1].revents & POLLIN) != 0)
            {
                receive();
            }
            for (const SwitchAlert& alert : limit_.due(now()))
            {
                delivery_.deliver(alert.note());
            }
        }
        for (const SwitchAlert& alert :
             limit_.due(AlertLimit::TimePoint::max()))
        {
            log::warning("An alert was not told before the end",
                         {{"ALERT", dumpJson(alert.note().body)}});
        }
    }

  private:
    static AlertLimit::TimePoint now()
    {
        return std::chrono::steady_clock::now();
    }

    int waitTime() const
    {
        const auto due = limit_.nextDue();
        if (!due)
        {
            return -1;
        }
        const auto left = std::chrono::ceil<Milliseconds>(*due - now());
        return static_cast<int>(
            std::clamp<std::int64_t>(left.count(), 0, 60'000));
    }

    void receive()
    {
        std::array<char, AlertSocket::maxMessage + 1> buffer{};
        const ssize_t got =
            ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
        if (got <= 0)
        {
            return;
        }
        try
        {
            const auto alert = SwitchAlert::parse(
                std::string_view(buffer.data(), static_cast<std::size_t>(got)));
            if (const auto told = limit_.take(alert, now()))
            {
                delivery_.deliver(told->note());
            }
        }
        catch (const Error& error)
        {
            log::warning("what came in is no alert",
                         {{"REASON", error.what()}});
        }
    }

    UniqueFd socket_;
    UniqueFd wake_;
    AlertLimit limit_;
    AlertDelivery delivery_;
};

void readTables(TomlTable& top, RelayConfig& out)
{
    top.path("socket", out.socket);
    TomlTable alert = top.sub("alert");
    alert.time("every", out.every);
    readAlertSettings(alert, out.alerts);
    alert.done();
}

void serve(const RelayConfig& config)
{
    const StopSignals signals;
    Relay relay(config, listenAt(config.socket));
    ::sd_notify(0, "READY=1");
    relay.run(signals.token());
    ::sd_notify(0, "STOPPING=1");
}

} // namespace

SwitchAlert SwitchAlert::parse(std::string_view message)
{
    const Json json = parseJson(message, "alert", messageLimits);
    const JsonField event(json, "alert");
    SwitchAlert out;
    out.level = plainText(event.at("level").string(maxText), maxText);
    out.what = plainText(event.at("what").string(maxText), maxText);
    out.port = textAt(event, "PORT");
    out.bootHost = textAt(event, "BOOT_HOST");
    out.reason = reasonOf(json);
    if (const auto lost = event.find("lost"))
    {
        out.lost = lost->u64();
    }
    return out;
}

AlertNote SwitchAlert::note() const
{
    return {{what, port, bootHost, reason, std::to_string(count)},
            {{"level", level},
             {"what", what},
             {"port", port},
             {"boot-host", bootHost},
             {"reason", reason},
             {"count", count},
             {"lost", lost}}};
}

std::optional<SwitchAlert> AlertLimit::take(const SwitchAlert& alert,
                                            TimePoint now)
{
    std::pair<std::string, std::string> key = {alert.port, alert.what};
    if (!kinds_.contains(key) && kinds_.size() >= maxKinds)
    {
        key = {}; // all that has no room of its own
    }
    Kind& kind = kinds_[key];
    if (kind.until <= now && !kind.waiting)
    {
        kind.until = now + every_;
        return alert;
    }
    SwitchAlert next = alert;
    if (kind.waiting)
    {
        next.count += kind.waiting->count;
        next.lost += kind.waiting->lost;
    }
    kind.waiting = std::move(next);
    return std::nullopt;
}

std::vector<SwitchAlert> AlertLimit::due(TimePoint now)
{
    std::vector<SwitchAlert> out;
    for (auto at = kinds_.begin(); at != kinds_.end();)
    {
        Kind& kind = at->second;
        if (kind.until > now)
        {
            ++at;
        }
        else if (kind.waiting)
        {
            out.push_back(std::move(*kind.waiting));
            kind.waiting.reset();
            kind.until = now + every_;
            ++at;
        }
        else
        {
            at = kinds_.erase(at);
        }
    }
    return out;
}

std::optional<AlertLimit::TimePoint> AlertLimit::nextDue() const
{
    std::optional<TimePoint> out;
    for (const auto& [key, kind] : kinds_)
    {
        out = out ? std::min(*out, kind.until) : kind.until;
    }
    return out;
}

RelayConfig readRelayConfig(const std::filesystem::path& file)
{
    RelayConfig out;
    readToml(file, [&](TomlTable& top) { readTables(top, out); });
    return out;
}

std::vector<std::string> relayConfigKeys()
{
    return tomlKeys([](TomlTable& top) {
        RelayConfig ignored;
        readTables(top, ignored);
    });
}

int runAlertRelay(int argc, const char* const* argv)
{
    std::string file = "/etc/airlock/switch-alert.toml";
    bool checkOnly = false;
    CLI::App app("Tells operators what the switch agent reports.",
                 "airlock-switch-alert");
    app.add_option("--config", file, "configuration")->capture_default_str();
    app.add_flag("--check-config", checkOnly,
                 "read the configuration and exit");
    app.set_version_flag("--version", "airlock-switch-alert " AIRLOCK_VERSION);
    try
    {
        app.parse(argc, argv);
    }
    catch (const CLI::ParseError& error)
    {
        return app.exit(error) == 0 ? 0 : exitUsage;
    }
    try
    {
        dropPrivileges();
        ::umask(privateMask);
        const RelayConfig config = readRelayConfig(file);
        if (checkOnly)
        {
            fmt::print("{}: ok\n", file);
            return 0;
        }
        serve(config);
        return 0;
    }
    catch (const std::exception& error)
    {
        log::error("alerts cannot be passed on", {{"REASON", error.what()}});
        return exitError;
    }
}

} // namespace airlock::sw
