#pragma once

#include "common/bytes.hpp"
#include "common/deadline.hpp"
#include "devmodel/vm/machine.hpp"

#include <cstdint>
#include <optional>
#include <string>

namespace airlock::vm
{

/** What the reset trap says (qapi/airlock.json, AirlockTrapInfo). */
struct Trap
{
    std::string cause; ///< "port", "triple-fault", "system-reset", "cold-start"
    std::uint64_t count = 0;           ///< traps since QEMU was started
    std::optional<std::uint16_t> port; ///< the port that the guest wrote to
    std::optional<std::uint8_t> value; ///< and what
    unsigned vcpu = 0;
};

/** "port 0xcf9 <- 0x0f by vCPU 1" */
std::string describe(const Trap& trap);

/** The stripped machine that a guest lives on.
 *
 * It starts cold and is trapped at once: without a loaded state no guest code
 * ever runs. While it is trapped its disks may be released for the boot
 * machine, its memory file may be written, and a state may be loaded.
 */
class ProductionVm
{
  public:
    struct Options
    {
        std::filesystem::path log;
        /** Tap devices without virtio headers (no IFF_VNET_HDR), one per NIC;
         * stay the caller's. */
        std::vector<int> taps;
    };

    ProductionVm(const Qemu& qemu, const GuestSpec& spec,
                 const Options& options);

    const GuestSpec& spec() const { return spec_; }
    Machine& machine() { return machine_; }

    /** The trap that the VM is in, nothing while the guest runs. */
    std::optional<Trap> trap();

    /** Waits for the guest's next reset (or takes the one that has happened)
     * until the VM has stopped. Drains the guest's consoles. Throws TimedOut,
     * Error when QEMU has ended. */
    Trap waitTrap(Milliseconds timeout);

    /** Gives the disks up so that another QEMU may open them; takes them
     * back. Only while the VM is trapped. */
    void releaseDisks();
    void acquireDisks();
    bool hasDisks() const { return hasDisks_; }

    /** The device state of the stopped VM, as the production machine writes
     * it: while trapped, the reference that admission compares with. */
    Bytes saveState();

    /** Loads a state into the trapped VM: all of it or nothing. On Error the
     * VM is trapped and can take another one. */
    void loadState(ByteView state);

    /** Links up, and the guest runs. */
    void resume();

  private:
    void setDisksActive(bool active);

    GuestSpec spec_;
    Machine machine_;
    bool hasDisks_ = true;
};

} // namespace airlock::vm
