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
    /** Before clean mode is started again after it ended without a reason. */
    std::chrono::seconds pause = std::chrono::seconds(10);
};

/** Keeps a capsule at work, mode after mode, each in a process of its own:
 * clean; dirty when clean asked for it, and never longer than the limit; then
 * clean again. Returns when one of the signals came, which have to be blocked;
 * the power of the capsule is pulled then, as it may be at any time. */
void supervise(Capsule& capsule, const SupervisorOptions& options,
               const sigset_t& signals);

} // namespace airlock::capsule
