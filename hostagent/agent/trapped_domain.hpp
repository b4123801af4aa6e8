#pragma once

#include "common/fd.hpp"
#include "devmodel/vm/trapped_vm.hpp"
#include "hostagent/domain/domain_spec.hpp"
#include "hostagent/hypervisor/domain.hpp"

#include <filesystem>

namespace airlock::host
{

/** Opens the file that QEMU says it has the memory of this domain in, to read
 * and write. A guest may have taken QEMU over: it is to name no file of another
 * domain. libvirt gives each domain that runs a directory ID-NAME for such
 * files; Refused for a file in another one, and for what is no regular file,
 * SystemError for a path through a symbolic link. */
UniqueFd openDomainMemory(const std::filesystem::path& path, int domainId);

/** A domain of libvirt as the hand-over sees it. Both must outlive it. */
class TrappedDomain : public vm::TrappedVm
{
  public:
    TrappedDomain(Domain& domain, const DomainSpec& spec);

    const vm::GuestSpec& spec() const override { return spec_; }
    /** The file that the domain's <memoryBacking> made libvirt choose. */
    int memory() override;
    std::optional<vm::Trap> trap() override;
    /** The boot was done on copies: nothing to take back. */
    void acquireDisks() override {}
    /** Takes the links down first. A guest that was booted without a link
     * notices the one that it gets by resume(). */
    Bytes saveState() override;
    void loadState(ByteView state) override;
    /** Takes the links up but for those that are down in libvirt. */
    void resume() override;

    /** Lets the stub run into the trap once more, so that QEMU says again that
     * it has stopped. When libvirt restarts a guest that has powered itself off
     * for `virsh reboot --mode acpi`, it lets QEMU go on and does not listen
     * until that is done; it misses the trap, and thinks that the guest runs
     * (seen with 9.0 and 11.3). Suspending the domain does not help: QEMU says
     * nothing when it stops twice. */
    void tellAgain();

  private:
    bool isRunning();
    void setLink(const std::string& id, bool up);

    Domain& domain_;
    vm::GuestSpec spec_;
    std::vector<std::string> nicIds_;
    UniqueFd memory_;
};

} // namespace airlock::host
