#pragma once

#include <filesystem>
#include <string>

/** The dirty side of a job: airlock-bootrun.
 *
 * It finds in its run directory what the clean side put there, and leaves there
 * what the clean side takes:
 *
 *     request.json   JobRequest                       read
 *     disk-N         raw images, written by the guest read and written
 *     boot.log       what QEMU said                   written
 *     device-state   what QEMU saved                  written
 *     memory.img     guest memory, sparse             written
 *
 * On its standard output it says "stage NAME" when something begins, and
 * "without PART" for what the fence lacks (isolate.hpp). All of it is hostile
 * to the clean side: a guest may have taken QEMU over, and that whatever it
 * runs beside.
 */
namespace airlock::boot
{

inline constexpr const char* runRequestName = "request.json";
inline constexpr const char* runStateName = "device-state";
inline constexpr const char* runMemoryName = "memory.img";
inline constexpr const char* runLogName = "boot.log";
inline std::string runDiskName(std::size_t disk)
{
    return "disk-" + std::to_string(disk);
}

/** Exit codes of airlock-bootrun. */
inline constexpr int bootDone = 0;
inline constexpr int bootFailed = 1;
inline constexpr int bootUsage = 2;
inline constexpr int bootTimedOut = 3; ///< the guest did not come up in time
inline constexpr int bootNoSpace = 4;

/** The whole program. The last line on stderr says why it failed. */
int bootRun(int argc, const char* const* argv);

} // namespace airlock::boot
