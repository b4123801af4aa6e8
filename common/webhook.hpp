#pragma once

#include "common/deadline.hpp"
#include "common/json.hpp"

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

/** Telling somebody else's web server something. */
namespace airlock::http
{

/** The parts of "https://alerts.example.org:8443/airlock?x=1". */
struct WebAddress
{
    bool tls = false;
    std::string host; ///< without the brackets of an IPv6 address
    std::uint16_t port = 0;
    std::string target; ///< path and query, at least "/"

    bool operator==(const WebAddress&) const = default;
};

/** Reads an http or https URL. Throws Refused for anything else, and for user
 * names, passwords and fragments in it. */
WebAddress parseWebAddress(std::string_view url);

/** Sends a JSON object by POST and waits for the status line. An https server's
 * certificate has to be for its host, from one of `authorities` (PEM; empty:
 * those that the system trusts). Redirections are not followed. Throws Error
 * unless the server answers 2xx before the time is over. */
void postJson(const WebAddress& address, const Json& body, Milliseconds timeout,
              const std::filesystem::path& authorities = {});

} // namespace airlock::http
