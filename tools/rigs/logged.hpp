#pragma once

#include "common/process.hpp"

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace airlock::rig
{

/** Starts a program whose output is appended to a file. */
Process spawnLogged(std::vector<std::string> argv,
                    const std::filesystem::path& log);

/** Waits until a daemon says the port that it listens on; Error with the last
 * words in its log when it does not. The log has to begin with this start. */
std::uint16_t waitPort(Process& daemon, const std::filesystem::path& log);

/** The last words in a file; empty when it is not there. */
std::string endOf(const std::filesystem::path& file);

} // namespace airlock::rig
