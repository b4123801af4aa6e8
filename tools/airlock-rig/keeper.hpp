#pragma once

#include "tools/airlock-rig/state.hpp"
#include "tools/rigs/isolated_rig.hpp"

#include <string>

namespace airlock::rig
{

/** The hosts that a shell can be had on, as their namespaces are called. */
inline constexpr const char* hostNames[] = {"production", "switch", "boot",
                                            "administrator"};

struct KeeperOptions
{
    BootHostCase boot;
    std::string guest = "tiny"; ///< kernel of the domain "demo"
};

/** Starts a process that holds the rig, in a session of its own; returns when
 * its files name it. */
void startKeeper(const RigState& state, const KeeperOptions& options);

/** That process: brings everything up and stays. Its exit status. */
int keep(RigState state, const KeeperOptions& options);

/** Runs a command in a host of the rig; an interactive shell without one. It
 * ends with the rig, and with us. Its exit status. */
int runInHost(const RigState& state, const std::string& host,
              const std::vector<std::string>& command);

} // namespace airlock::rig
