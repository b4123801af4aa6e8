#pragma once

#include "common/bytes.hpp"
#include "common/qmp.hpp"
#include "devmodel/vm/guest_spec.hpp"

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

/** All that QEMU says of the trap. */
struct TrapState
{
    std::optional<Trap> trap; ///< the one that the VM is in
    bool loaded = false;      ///< a state was, and the guest has not run since
    /** Reset, and without a state since. When it is not trapped either, the
     * CPU has not come to the trap yet, or the VM is paused before it. */
    bool atStub = false;
    bool ran = false;       ///< the guest, since a state was loaded last
    std::uint64_t life = 0; ///< tells one QEMU process from all others
};

/** "port 0xcf9 <- 0x0f by vCPU 1" */
std::string describe(const Trap& trap);

/** A VM on the production machine as the hand-over sees it, whoever started
 * its QEMU. */
class TrappedVm
{
  public:
    virtual ~TrappedVm() = default;

    virtual const GuestSpec& spec() const = 0;

    /** The file that is the guest's memory: low part first, then what is
     * above 4 GiB. May be written while the VM is trapped. */
    virtual int memory() = 0;

    /** The trap that the VM is in, nothing while the guest runs. */
    virtual std::optional<Trap> trap() = 0;

    /** Called before a state is loaded: whoever had the disks meanwhile has
     * them no more. */
    virtual void acquireDisks() = 0;

    /** The device state of the stopped VM, as the production machine writes
     * it: while trapped, the reference that admission compares with. */
    virtual Bytes saveState() = 0;

    /** Loads a state into the trapped VM: all of it or nothing. On Error the
     * VM is trapped and can take another one. */
    virtual void loadState(ByteView state) = 0;

    /** Links up, and the guest runs. */
    virtual void resume() = 0;
};

/** Our commands in the production QEMU (qapi/airlock.json). */
TrapState queryTrap(QmpCommands& qmp);
Bytes saveDeviceState(QmpCommands& qmp);
void loadDeviceState(QmpCommands& qmp, ByteView state);

/** Writes a delta, an image stream in a file that nobody else writes, to a
 * disk of the stopped VM; on return it is on stable storage. It may be applied
 * again. `device` is the qdev id or QOM path of the disk. */
void applyDelta(QmpCommands& qmp, const std::string& device, int stream);

} // namespace airlock::vm
