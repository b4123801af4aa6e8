#pragma once

#include "common/alert_delivery.hpp"

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/** The operator's side of the switch agent's alerts. */
namespace airlock::sw
{

/** What the switch agent reported. Its texts are bounded and printable. */
struct SwitchAlert
{
    std::string level; ///< "warning" or "error"
    std::string what;
    std::string port;     ///< may be empty
    std::string bootHost; ///< may be empty
    std::string reason;
    std::uint64_t count = 1; ///< so often since it was told last
    std::uint64_t lost = 0;  ///< alerts before it that nobody took

    /** Reads a datagram of AlertSocket; Refused. */
    static SwitchAlert parse(std::string_view message);
    AlertNote note() const;
};

/** Tells the same thing of the same port at once when it comes first, and what
 * comes within some time after it together, at the end of it. */
class AlertLimit
{
  public:
    using TimePoint = std::chrono::steady_clock::time_point;

    /** Kinds of alerts that are known at a time; others wait for room as one.
     */
    static constexpr std::size_t maxKinds = 256;

    explicit AlertLimit(std::chrono::seconds every) : every_(every) {}

    /** What is to be told now: this alert, or nothing. */
    std::optional<SwitchAlert> take(const SwitchAlert& alert, TimePoint now);
    /** What has waited long enough. */
    std::vector<SwitchAlert> due(TimePoint now);
    /** When due() has something the next time. */
    std::optional<TimePoint> nextDue() const;

  private:
    struct Kind
    {
        TimePoint until;
        std::optional<SwitchAlert> waiting; ///< the last one, with the count
    };

    std::chrono::seconds every_;
    std::map<std::pair<std::string, std::string>, Kind> kinds_;
};

/** /etc/airlock/switch-alert.toml, see airlock-switch-alert(8). */
struct RelayConfig
{
    /** Where the agent's alerts come in, unless systemd passes the socket. */
    std::filesystem::path socket = "/run/airlock-switch-alert.sock";
    std::chrono::seconds every{60};
    AlertSettings alerts;
};

/** Throws Error with file, line and what is wrong. */
RelayConfig readRelayConfig(const std::filesystem::path& file);
/** All keys that the file may have. Sorted. */
std::vector<std::string> relayConfigKeys();

/** The program airlock-switch-alert. Its exit code: 0, 1 error, 2 usage. */
int runAlertRelay(int argc, const char* const* argv);

} // namespace airlock::sw
