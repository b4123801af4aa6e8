#pragma once

#include <ostream>

namespace airlock::bundletool
{

/** Exit codes. */
inline constexpr int kOk = 0;
inline constexpr int kRefused = 1; ///< refused, or different
inline constexpr int kFailed = 2;  ///< wrong usage, input or output error

/** The whole command: parses the arguments, runs it, reports errors on `err`
 * (with --json a refusal also on `out`). Returns the exit code. */
int run(int argc, const char* const* argv, std::ostream& out,
        std::ostream& err);

} // namespace airlock::bundletool
