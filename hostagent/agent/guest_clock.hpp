#pragma once

#include "hostagent/hypervisor/domain.hpp"

namespace airlock::host
{

/** Sets the guest's clock to the host's, through the guest agent, and looks
 * whether it is right then: after a reboot it is late by the time that the
 * state needed to come back from the boot server.
 *
 * Throws LibvirtError while no agent answers, Error when the clock is still
 * wrong by more than a second afterwards.
 */
void setGuestClock(Domain& domain);

} // namespace airlock::host
