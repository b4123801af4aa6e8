#pragma once

namespace airlock::capsule
{

/** Whether the program's first argument is a command of runTool(). */
bool isToolCommand(int argc, const char* const* argv);

/** airlock-bootd install|capsule: disks of boot hosts, and boot hosts that are
 * virtual machines. Returns the exit code: 0, 1 error, 2 usage. */
int runTool(int argc, const char* const* argv);

} // namespace airlock::capsule
