#pragma once

#include <istream>
#include <ostream>

namespace airlock::tpmtool
{

/** Exit codes. */
inline constexpr int kOk = 0;
inline constexpr int kRefused = 1; ///< refused: another state, a bad quote
inline constexpr int kFailed = 2;  ///< wrong usage, TPM, input or output error

/** The whole command: parses the arguments, runs it, reports errors on `err`
 * (with --json a refusal also on `out`). Returns the exit code. */
int run(int argc, const char* const* argv, std::istream& in, std::ostream& out,
        std::ostream& err);

} // namespace airlock::tpmtool
