#pragma once

#include "common/control_server.hpp"
#include "hostagent/control/protocol.hpp"

#include <functional>

namespace airlock::host::control
{

/** The host agent's settings of its socket. */
struct ServerOptions : airlock::control::ServerOptions
{
    ServerOptions()
    {
        path = defaultSocket;
        daemon = {"the host agent", "airlock-hostd"};
    }
};

/** What the store cannot do by itself. */
struct Actions
{
    std::function<void(const VmRecord&)> retry;
    std::function<void(const VmRecord&, bool discardDelta)> release;
    std::function<Json()> info; ///< an object: versions, settings, servers
};

/** Adds list, status, jobs, retry, release and info. Actions that are missing
 * answer unknown-method. The store has to outlive the server. */
void addStoreMethods(Server& server, Store& store, Actions actions);

} // namespace airlock::host::control
