#pragma once

#include "common/http_server.hpp"
#include "common/tls.hpp"
#include "tools/switchd/agent.hpp"

#include <cstdint>
#include <filesystem>
#include <string>

namespace airlock::sw
{

inline constexpr const char* defaultSocket =
    "/run/airlock/switchd/control.sock";
inline constexpr std::uint16_t defaultPort = 7421;

/** /etc/airlock/switchd.toml, see airlock-switchd.toml(5). */
struct Config
{
    AgentSettings agent;
    std::string address = "::"; ///< where boot hosts reach us
    std::uint16_t port = defaultPort;
    std::filesystem::path socket = defaultSocket;
    tls::Identity identity = {"/etc/airlock/switchd.crt",
                              "/etc/airlock/switchd.key",
                              "/etc/airlock/ca.crt"};
    http::ServerLimits limits;
    /** Where airlock-switch-alert listens; empty: nowhere. */
    std::filesystem::path alertSocket;
};

/** Throws Error with file, line and what is wrong: a syntax error, an unknown
 * key, a value that cannot be. */
Config readConfig(const std::filesystem::path& file);

} // namespace airlock::sw
