#pragma once

#include "hostagent/daemon/config.hpp"

namespace airlock::host
{

/** Runs the host agent until SIGTERM or SIGINT. Tells the service manager when
 * it is ready and, as long as it works, that it is alive. Throws Error when it
 * cannot start. */
void runDaemon(const Config& config);

} // namespace airlock::host
