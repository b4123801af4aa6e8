#pragma once

#include "common/deadline.hpp"
#include "common/fd.hpp"

#include <cstdint>
#include <string>

namespace airlock::vm
{

/** Asks the QEMU guest agent whether it is there (docs/interop/qemu-ga-ref of
 * QEMU: guest-sync-delimited). Whatever answers is the guest's: what it says
 * is bounded, searched for one number, and has no other effect. */
class GuestAgent
{
  public:
    /** Takes the connected socket of the agent's port. */
    explicit GuestAgent(UniqueFd socket);

    /** Whether it has answered by now. Call it several times a second; asks
     * again every few seconds, because what was sent before the agent opened
     * its port may be lost. Never blocks. */
    bool answered();

  private:
    void ask();
    void receive();

    UniqueFd socket_;
    std::uint32_t number_;
    std::string heard_;
    Deadline nextQuestion_{Milliseconds::zero()};
    bool answered_ = false;
};

} // namespace airlock::vm
