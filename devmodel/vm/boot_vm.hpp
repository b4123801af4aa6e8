#pragma once

#include "common/bytes.hpp"
#include "common/deadline.hpp"
#include "devmodel/vm/machine.hpp"

#include <chrono>
#include <string>
#include <variant>

namespace airlock::vm
{

/** The guest has a root shell on its virtio console, reads its disk past the
 * page cache, and writes and fsyncs a file. */
struct BootedShell
{};

/** The guest agent answers on its port. */
struct BootedAgent
{};

/** The guest has written a match of this POSIX extended regular expression
 * on its serial line. */
struct BootedSerial
{
    std::string expression;
};

/** So much time has passed: for guests that say nothing. */
struct BootedAfter
{
    std::chrono::seconds time;
};

/** The guest's vCPUs have been idle for so long without a break: QEMU has used
 * less than a tenth of a processor. For guests that say nothing, and better
 * than a fixed time. */
struct BootedIdle
{
    std::chrono::seconds time;
};

/** The guest agent answers, if there is one, or the guest is idle as long as
 * this: right for guests of which nothing is known. */
struct BootedAuto
{
    std::chrono::seconds idle{5};
};

/** When a guest counts as booted. */
using BootedPolicy = std::variant<BootedShell, BootedAgent, BootedSerial,
                                  BootedAfter, BootedIdle, BootedAuto>;

/** From the command line: "auto", "guest-agent", "shell", "serial:REGEX",
 * "idle:SECONDS", "after:SECONDS". Throws Error. */
BootedPolicy parseBootedPolicy(const std::string& text);

/** What a boot leaves behind when its QEMU is dead. Nothing of it is to be
 * trusted: the guest may have taken that QEMU over. */
struct BootedGuest
{
    Bytes state;     ///< stock migration stream, without guest memory
    UniqueFd memory; ///< file of GuestSpec::memory bytes
};

/** The full machine, for as long as one boot takes. */
class BootVm
{
  public:
    /** Starts the guest with its network links down. */
    BootVm(const Qemu& qemu, const GuestSpec& spec, const BootOptions& options,
           const std::filesystem::path& log);

    Machine& machine() { return machine_; }

    /** Throws TimedOut with what the guest showed last. Calls `tick` several
     * times a second while it waits. */
    void waitBooted(const BootedPolicy& policy, Milliseconds timeout,
                    const Tick& tick = {});

    /** Stops the guest and saves the state of its devices. */
    void save();

    /** Ends QEMU, after save(); only then is what it wrote handed out. */
    BootedGuest end();

  private:
    void requireRunning();

    GuestSpec spec_;
    Machine machine_;
    UniqueFd state_;
};

} // namespace airlock::vm
