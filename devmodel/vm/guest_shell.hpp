#pragma once

#include "common/console.hpp"
#include "common/deadline.hpp"
#include "common/json.hpp"
#include "devmodel/vm/machine.hpp"

#include <string>

namespace airlock::vm
{

/** The root shell that is logged in on a guest's console.
 *
 * A shell session is part of the guest: what was logged in while booting
 * still is after a hand-over, behind the console of the other machine.
 */
class ConsoleShell
{
  public:
    /** The console has to outlive it. */
    explicit ConsoleShell(Console& console) : console_(console) {}

    /** Output of a command; Error when its exit status is not 0. */
    std::string run(const std::string& command, Milliseconds timeout);

    /** Reads the root device past the cache, writes and fsyncs a file; Error
     * when one of them fails. Asks nothing of the guest but coreutils and
     * util-linux. */
    void checkDisk(Milliseconds timeout);

    /** The answer of airlock-probe (tools/image): "report", "alive",
     * "mark NAME"... Guests that do not have the script get a copy in their
     * /run first. */
    Json probe(const std::string& arguments, Milliseconds timeout);

    /** The report once the guest's services have been started; `system` is
     * then no longer "starting". */
    Json settled(Milliseconds timeout);

    /** Asks the guest to reboot and does not wait for it. */
    void reboot();

  private:
    void installProbe(const Deadline& deadline);

    Console& console_;
    std::string probe_; ///< how to call it; empty: not known yet
};

/** The shell on the virtio console of a machine that we drive ourselves. */
class GuestShell : public ConsoleShell
{
  public:
    explicit GuestShell(Machine& machine)
        : ConsoleShell(machine.console()), machine_(machine)
    {}

    /** Waits for the prompt of a shell. Drains the serial line meanwhile. */
    void waitPrompt(Milliseconds timeout, const Tick& tick = {});

  private:
    Machine& machine_;
};

} // namespace airlock::vm
