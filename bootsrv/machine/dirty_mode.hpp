#pragma once

#include "bootsrv/dirty_side.hpp"
#include "common/secret.hpp"

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>

namespace airlock::machine
{

/** The part of staging that is dirty mode's own, for a file system. To be
 * mapped as dm-crypt does it:
 *
 *     0 SECTORS crypt aes-xts-plain64 KEY 0 DEVICE FIRST-SECTOR
 *
 * with what is written there gone for everybody when the job's key is. */
struct ScratchArea
{
    std::filesystem::path device;  ///< staging
    std::uint64_t firstSector = 0; ///< of 512 bytes
    std::uint64_t sectors = 0;
    Secret key; ///< 64 bytes: AES-256-XTS
};

/** What dirty mode has to be given, by PID 1. */
struct DirtySetup
{
    std::filesystem::path staging; ///< partition "airlock-staging"

    /** Makes a file system in the scratch area and mounts it; returns the
     * directory, which may have nothing in it but lost+found. Empty: `work` is
     * used as it is. */
    std::function<std::filesystem::path(const ScratchArea&)> mountScratch;
    /** A directory with room for the guest's disks and memory. */
    std::filesystem::path work = "/run/airlock/work";

    /** airlock-bootrun and the QEMU of the boot build. */
    boot::BootSettings boot;

    /** Set by somebody else: give up. */
    const std::atomic<bool>* stop = nullptr;
};

/** The whole of dirty mode (steps 612 to 616 of FIG. 6): unpacks the one job
 * that staging holds, boots its guest behind airlock-bootrun's fence, packs the
 * result. What comes out is for clean mode to judge.
 *
 * Returns 0 when a result was packed, be it that the boot failed; 1 when there
 * was nothing to do or nothing could be written. The caller powers off in any
 * case, and has a time limit of its own.
 */
int runDirtyMode(const DirtySetup& setup);

} // namespace airlock::machine
