#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace airlock::boot
{

/** How the dirty side is fenced off. */
struct Isolation
{
    /** The one directory that it works in. */
    std::filesystem::path runDirectory;
    bool runReadOnly = false; ///< and writes nothing to
    /** Made empty for it, but for runDirectory when that lies below. */
    std::filesystem::path hidden;
    /** Places where all programs meet (/tmp, /run and the like) are empty for
     * it too, and nothing is to be written anywhere but in runDirectory. */
    bool alone = false;
    /** Who it becomes when it is started by root; none: root without any
     * capability. */
    struct User
    {
        uid_t id = 0;
        gid_t group = 0;
        std::vector<gid_t> groups; ///< for /dev/kvm
    };
    std::optional<User> user;
    std::uint64_t fileBytes = 0; ///< longest file that it may write
};

/** Parts of the fence that some kernels and containers do not allow. */
inline constexpr std::array<const char*, 3> fenceParts = {
    "own processes and mounts", "own /proc", "hidden files"};

/** Goes on in a child process that cannot reach anything: a network without an
 * interface that is up, own process ids, mounts, IPC and (unless started by
 * root) users, no capabilities, no new privileges, limits on files and dumps.
 *
 * Returns in that child only; the caller's process waits for its end and exits
 * with its code. When either dies, so does all that the child has started:
 * the child is the init of its process ids. SIGTERM to the caller's process
 * ends the child, and then all of them have gone when it ends; after SIGKILL
 * they go a moment later. Has to be called while there is one thread. Throws
 * Error when the network cannot be taken away; what else the kernel does not
 * allow here (mounts in some containers) is left out and returned, as
 * fenceParts.
 */
std::vector<std::string> isolate(const Isolation& isolation);

/** Of a process that waitpid() has told of, as a shell has it. */
int exitCodeOf(int status);

/** A user of the system, with all of its groups; Error when there is none of
 * that name. */
Isolation::User findUser(const std::string& name);

} // namespace airlock::boot
