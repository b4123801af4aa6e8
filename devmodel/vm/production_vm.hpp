#pragma once

#include "common/bytes.hpp"
#include "common/deadline.hpp"
#include "devmodel/vm/machine.hpp"
#include "devmodel/vm/trapped_vm.hpp"

#include <optional>
#include <string>
#include <vector>

namespace airlock::vm
{

/** The stripped machine that a guest lives on.
 *
 * It starts cold and is trapped at once: without a loaded state no guest code
 * ever runs. While it is trapped its disks may be released for the boot
 * machine, its memory file may be written, and a state may be loaded.
 */
class ProductionVm : public TrappedVm
{
  public:
    struct Options
    {
        std::filesystem::path log;
        /** Tap devices without virtio headers (no IFF_VNET_HDR), one per NIC;
         * stay the caller's. */
        std::vector<int> taps;
        /** Appended to QEMU's command line: what no GuestSpec can say. */
        std::vector<std::string> arguments;
    };

    ProductionVm(const Qemu& qemu, const GuestSpec& spec,
                 const Options& options);

    const GuestSpec& spec() const override { return spec_; }
    int memory() override { return machine_.memory(); }
    Machine& machine() { return machine_; }

    std::optional<Trap> trap() override;

    /** Waits for the guest's next reset (or takes the one that has happened)
     * until the VM has stopped. Drains the guest's consoles. Throws TimedOut,
     * Error when QEMU has ended. */
    Trap waitTrap(Milliseconds timeout);

    /** Gives the disks up so that another QEMU may open them; takes them
     * back. Only while the VM is trapped. */
    void releaseDisks();
    void acquireDisks() override;
    bool hasDisks() const { return hasDisks_; }

    Bytes saveState() override;
    void loadState(ByteView state) override;
    void resume() override;

  private:
    void setDisksActive(bool active);

    GuestSpec spec_;
    Machine machine_;
    bool hasDisks_ = true;
};

} // namespace airlock::vm
