#pragma once

#include "bootsrv/boot_runner.hpp"
#include "bootsrv/job_store.hpp"
#include "common/http_server.hpp"
#include "common/tls.hpp"

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace airlock::boot
{

/** /etc/airlock/bootd.toml, see airlock-bootd(8). */
struct Config
{
    std::string address = "::";
    std::uint16_t port = 7420;
    std::filesystem::path stateDirectory = "/var/lib/airlock/bootd";
    tls::Identity tls = {"/etc/airlock/bootd.crt", "/etc/airlock/bootd.key",
                         "/etc/airlock/ca.crt"};
    BootSettings boot;
    unsigned parallel = 2; ///< boots at once
    Quota quota;
    http::ServerLimits limits;
    /** Where /metrics and /health are; empty: nowhere. */
    std::string metrics;
};

/** Reads a configuration; what is missing has its default. Throws Error with
 * file and line for a value that cannot be used and for keys that are not
 * known. */
Config readConfig(const std::filesystem::path& file);

/** All keys that the file may have, as "quota.jobs". Sorted. */
std::vector<std::string> configKeys();

} // namespace airlock::boot
