#pragma once

#include "common/file.hpp"
#include "devmodel/vm/hand_over.hpp"
#include "tools/rigs/guest_case.hpp"

#include <memory>
#include <string>

namespace airlock::test
{

using rig::GuestCase;

/** A copy of our image and all that it takes to start a guest from it, from
 * what tools/build-qemu and tools/build-image made. The copy goes away with
 * the object. */
class GuestFiles
{
  public:
    explicit GuestFiles(const GuestCase& guest);

    const vm::GuestSpec& spec() const { return spec_; }
    const vm::BootSite& site() const { return site_; }
    const vm::Qemu& productionQemu() const { return productionQemu_; }

    /** Starts the production machine; Error unless its cold start is trapped.
     */
    std::unique_ptr<vm::ProductionVm> startProduction() const;
    /** Starts the boot machine. */
    std::unique_ptr<vm::BootVm> startBoot() const;

  private:
    TempDirectory directory_;
    vm::GuestSpec spec_;
    vm::BootSite site_;
    vm::Qemu productionQemu_;
};

} // namespace airlock::test
