#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

namespace airlock::rig
{

struct CaptureOptions
{
    std::vector<std::string> ports; ///< of the switch
    std::filesystem::path socket;   ///< of its agent
    /** Where the frames go (pcapng); empty: standard output. */
    std::filesystem::path output;
    std::optional<std::chrono::seconds> time; ///< or until it is stopped
};

/** Writes the frames at these interfaces, in both directions, with a mark
 * wherever the agent opened a port or cut it off; says on standard error what
 * it saw. In the switch's network. Throws Error. */
void capture(const CaptureOptions& options, const std::stop_token& stop);

} // namespace airlock::rig
