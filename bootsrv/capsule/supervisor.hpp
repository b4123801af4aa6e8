#pragma once

#include "bootsrv/capsule/capsule.hpp"

#include <csignal>

namespace airlock::capsule
{

struct SupervisorOptions
{
    CapsuleOptions machine;
    /** After it dirty mode is ended, whatever it does. */
    std::chrono::seconds dirtyLimit = std::chrono::minutes(30);
    /** After it clean mode is ended and started anew, be it that it hangs: its
     * kernel cannot tell. Long, for it may be at work on a job. */
    std::chrono::seconds cleanLimit = std::chrono::hours(24);
    /** Before clean mode is started again after it ended without a reason. */
    std::chrono::seconds pause = std::chrono::seconds(10);
};

/** Keeps a capsule at work, mode after mode, each in a process of its own:
 * clean; dirty when clean asked for it; then clean again; each never longer
 * than its limit. Returns when one of the signals came, which have to be
 * blocked; the power of the capsule is pulled then, as it may be at any time.
 */
void supervise(Capsule& capsule, const SupervisorOptions& options,
               const sigset_t& signals);

} // namespace airlock::capsule
