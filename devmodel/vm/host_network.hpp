#pragma once

#include "common/deadline.hpp"
#include "common/fd.hpp"

#include <string>

namespace airlock::vm
{

/** A network of its own for this process and the QEMUs that it starts.
 *
 * Real interfaces are out of reach from then on, and all that was made in it
 * goes away with the last process. Call it while the process has one thread.
 * Needs root, or a kernel that lets users make user namespaces. Throws
 * SystemError.
 */
void enterPrivateNetwork();

/** The host's end of a guest's NIC: a tap device in the private network.
 *
 * Frames carry no virtio header: the boot machine has no host side at all, and
 * what a NIC offers must be the same on both machines.
 */
class Tap
{
  public:
    /** Creates the device, gives it an IPv4 address ("192.0.2.1", /24) and
     * sets it up. Throws SystemError. */
    Tap(const std::string& name, const std::string& address);

    int fd() const { return fd_.get(); }

  private:
    UniqueFd fd_;
};

/** Whether a host answers one of several ICMP echo requests in this time. */
bool ping(const std::string& address, Milliseconds timeout);

} // namespace airlock::vm
