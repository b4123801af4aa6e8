#pragma once

#include "common/http_server.hpp"
#include "common/secret.hpp"

#include <functional>
#include <string>

namespace airlock::sw
{

/** What a boot host may do to its own port. `host` is the common name of its
 * certificate. All throw NoSuchPort. */
struct HostCalls
{
    std::function<Json(const std::string& host)> status;
    std::function<Json(const std::string& host)> cut;
    std::function<Json(const std::string& host, const Secret& root)> rotate;
};

/** The calls of docs/protocol-switch.md. */
http::Handler makeHandler(HostCalls calls, const std::string& version);

} // namespace airlock::sw
