#pragma once

#include "common/console.hpp"
#include "common/fd.hpp"
#include "common/process.hpp"
#include "common/qmp.hpp"
#include "devmodel/vm/guest_agent.hpp"
#include "devmodel/vm/guest_spec.hpp"
#include "devmodel/vm/qemu_argv.hpp"

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace airlock::vm
{

/** Called now and then while something takes long; may be empty. */
using Tick = std::function<void()>;

/** A running QEMU: its process, its QMP connection, the guest's consoles and
 * the file that holds the guest's memory.
 *
 * QEMU does not outlive the object. Its messages go to a log file, whose end
 * is quoted when it does not start. Not shared between threads.
 */
class Machine
{
  public:
    /** Makes the command line for the descriptors that it is given. */
    using Argv =
        std::function<std::vector<std::string>(const Channels& channels)>;

    struct Options
    {
        bool console = true;   ///< connect the virtio console
        bool agent = false;    ///< connect the guest agent's port
        bool serial = false;   ///< connect ttyS0
        std::vector<int> taps; ///< stay the caller's
        std::filesystem::path log;
    };

    /** Starts QEMU with fresh guest memory of this size (all zero). Throws
     * Error with the end of the log. */
    Machine(const Argv& argv, std::uint64_t memory, const Options& options);

    QmpClient& qmp() { return *qmp_; }
    Process& process() { return *process_; }
    /** Guest memory: a memfd; low part first, then what is above 4 GiB. */
    int memory() const { return memory_.get(); }
    /** For whoever needs the memory after the process is dead. */
    UniqueFd takeMemory() { return std::move(memory_); }

    /** The guest's consoles; throw Error if the machine has none. */
    Console& console();
    Console& serial();
    /** The guest agent's port; none if the machine has none. */
    GuestAgent* agent() { return agent_ ? &*agent_ : nullptr; }
    /** Takes what the guest has written, so that it does not block. Call it
     * while waiting for something else. */
    void drainConsoles();
    /** Waits for an expression on one console (Console::waitForRegex) and
     * drains the other one meanwhile. */
    void waitForRegex(Console& where, const std::string& expression,
                      const Deadline& deadline, const Tick& tick = {});

    bool running();
    void stop();
    void resume();
    /** Takes every NIC's link down, or up. */
    void setLinks(const GuestSpec& spec, bool up);
    /** Ends QEMU; on return the process is gone and touches nothing any
     * more. */
    void quit();

    /** The same error, with what QEMU said last. */
    Error withLog(const std::string& what) const;

  private:
    void connect(UniqueFd qmpSocket);

    std::filesystem::path log_;
    UniqueFd memory_;
    std::optional<Process> process_;
    std::optional<QmpClient> qmp_;
    std::optional<Console> console_;
    std::optional<Console> serial_;
    std::optional<GuestAgent> agent_;
};

} // namespace airlock::vm
