#pragma once

namespace airlock::sw
{

/** The program airlock-switchd. Returns its exit code: 0, 1 error, 2 usage. */
int runDaemon(int argc, const char* const* argv);

} // namespace airlock::sw
