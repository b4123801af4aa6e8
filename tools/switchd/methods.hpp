#pragma once

#include "common/control_server.hpp"
#include "tools/switchd/agent.hpp"

namespace airlock::sw
{

/** Adds status, port, cut, enroll and rotate to the control socket; what they
 * take and give is in airlock-switchd(8). The agent has to outlive the server.
 */
void addMethods(control::Server& server, SwitchAgent& agent,
                const std::string& version);

} // namespace airlock::sw
