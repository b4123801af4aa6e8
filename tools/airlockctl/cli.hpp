#pragma once

#include <ostream>

namespace airlock::ctl
{

/** Exit codes. */
inline constexpr int kOk = 0;
inline constexpr int kRefused = 1; ///< refused, not found, a check failed
inline constexpr int kFailed = 2;  ///< wrong usage, nobody to talk to

/** The whole command: parses the arguments, runs it, reports errors on `err`
 * (with --json also on `out`). Returns the exit code. */
int run(int argc, const char* const* argv, std::ostream& out,
        std::ostream& err);

} // namespace airlock::ctl
