#pragma once

#include "bootsrv/job_store.hpp"

#include <atomic>
#include <filesystem>
#include <functional>
#include <string>

namespace airlock::boot
{

/** How boots are done here. */
struct BootSettings
{
    std::filesystem::path bootrun; ///< the program airlock-bootrun
    std::filesystem::path qemu;
    std::filesystem::path firmwareDirectory; ///< empty: as built in
    std::string firmware;                    ///< empty: SeaBIOS
    std::string user;                        ///< empty: as this process
    std::filesystem::path hide;              ///< from the dirty side
};

/** A boot did not end well; `code` as in docs/protocol-boot.md. */
class BootFailed : public Error
{
  public:
    BootFailed(std::string code, const std::string& message)
        : Error(message), code_(std::move(code))
    {}
    const std::string& code() const { return code_; }

  private:
    std::string code_;
};

/** Nobody wants the result any more. */
class BootCancelled : public Error
{
  public:
    using Error::Error;
};

/** Who follows a boot; called in the thread of runBoot(). */
struct BootWatcher
{
    /** A stage begins; so many seconds took the one before. */
    std::function<void(const std::string& stage, double seconds)> stage;
    /** The kernel does not allow a part of the dirty side's fence here. */
    std::function<void(const std::string& missing)> weakFence;
};

/** The clean side of one boot: copies the disks, has airlock-bootrun do the
 * boot, and makes the result of the opaque files that it left. Leaves out/ in
 * the job's directory complete, or throws BootFailed or BootCancelled.
 *
 * The guest works on copies, so that the uploads stay as they are for another
 * try: a reflink where the file system has them (XFS, Btrfs), else a copy of
 * the data in memory, about a second for each GiB of data. Sending the disk
 * once more would cost several times that and the host agent's attention.
 *
 * Call it from a thread that stays: the child dies with it.
 */
JobResult runBoot(const BootSettings& settings, const Work& work,
                  const std::atomic<bool>& stopping,
                  const BootWatcher& watcher);

} // namespace airlock::boot
