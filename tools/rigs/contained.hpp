#pragma once

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <string>

namespace airlock::rig
{

/** Runs `body` in a child that is the init of process ids of its own and has
 * mounts of its own: whatever it starts, daemons too, ends with it. TMPDIR is a
 * new directory there, `name` and a random end, which is removed afterwards.
 *
 * SIGINT, SIGTERM and SIGHUP end the child at once. Returns the exit status of
 * `body`, 128 and the number of a signal. Call it while there is one thread.
 * Throws SystemError.
 */
int runContained(const std::string& name, const std::function<int()>& body);

/** The same in a directory that is there and stays. Calls `started` with the
 * child's process id; who knows it can enter its namespaces. */
int runContainedIn(const std::filesystem::path& directory,
                   const std::function<int()>& body,
                   const std::function<void(pid_t)>& started = {});

} // namespace airlock::rig
