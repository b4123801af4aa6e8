#pragma once

#include "bootsrv/dirty_side.hpp"
#include "bootsrv/job_store.hpp"

#include <atomic>

namespace airlock::boot
{

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
