#pragma once

#include "common/process.hpp"

#include <filesystem>
#include <string>
#include <vector>

namespace airlock::rig
{

/** Starts a program whose output is appended to a file. */
Process spawnLogged(std::vector<std::string> argv,
                    const std::filesystem::path& log);

/** The last words in a file; empty when it is not there. */
std::string endOf(const std::filesystem::path& file);

} // namespace airlock::rig
