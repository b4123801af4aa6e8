#pragma once

#include "common/process.hpp"

#include <cstdint>
#include <filesystem>
#include <string>

namespace airlock::capsule
{

/** What goes around a capsule's QEMU and TPM on the host: the fence of
 * bootsrv/isolate.hpp, in a process of its own (`airlock-bootd fenced`). Behind
 * it are one directory of the capsule's, the files that were passed open, and
 * to be read what the system lets everybody read, such as its programs. Nothing
 * is in /tmp, /run and the like: no program of QEMU's can be there. */
struct Fence
{
    /** airlock-bootd. */
    std::filesystem::path program = "/proc/self/exe";
    /** The directory of all capsules: empty behind the fence. */
    std::filesystem::path hidden;
    /** Who the programs run as when we are root; empty: root without any
     * capability. */
    std::string user;

    /** What a program is given. */
    struct Room
    {
        /** That it is in. */
        std::filesystem::path directory;
        bool mayWrite = false; ///< to the directory
        /** The longest file that it may write, such as those passed open. */
        std::uint64_t fileBytes = 0;
    };

    /** Has the program of `options` start behind the fence. */
    void putAround(SpawnOptions& options, const Room& room) const;
};

/** The command of runFenced(). */
inline constexpr const char* fenced = "fenced";

/** airlock-bootd fenced: goes behind the fence and runs the program there. For
 * putAround() only. Returns an exit code. To end all of it and to see the end,
 * send SIGTERM (see boot::isolate()). */
int runFenced(int argc, const char* const* argv);

} // namespace airlock::capsule
