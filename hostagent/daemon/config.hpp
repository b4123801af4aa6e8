#pragma once

#include "common/tls.hpp"
#include "hostagent/agent/cycle.hpp"
#include "hostagent/daemon/alerts.hpp"

#include <filesystem>
#include <string>
#include <vector>

namespace airlock::host
{

/** /etc/airlock/hostd.toml, see airlock-hostd.toml(5). */
struct Config
{
    std::string uri = "qemu:///system";
    std::filesystem::path state = "/var/lib/airlock/hostd";
    std::filesystem::path socket = "/run/airlock/hostd/control.sock";
    std::string socketGroup; ///< members may use the socket; empty: root only
    tls::Identity identity = {"/etc/airlock/hostd.crt",
                              "/etc/airlock/hostd.key", "/etc/airlock/ca.crt"};
    AlertSettings alerts;
    /** Where /metrics and /health are; empty: nowhere. */
    std::string metrics;
    /** Jobs are forgotten so long after their end. */
    std::chrono::hours history{24 * 400};
    RebootSettings reboot;
    std::vector<ServerSettings> servers;
};

/** Throws Error with file, line and what is wrong: a syntax error, an unknown
 * key, a value that cannot be. */
Config readConfig(const std::filesystem::path& file);

/** All keys that the file may have, as "reboot.limit"; those of a server as
 * "server.name". Sorted. */
std::vector<std::string> configKeys();

} // namespace airlock::host
