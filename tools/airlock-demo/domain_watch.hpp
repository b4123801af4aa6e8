#pragma once

#include "devmodel/vm/trapped_vm.hpp"
#include "hostagent/hypervisor/libvirt.hpp"
#include "tools/rigs/host_rig.hpp"

#include <functional>
#include <memory>

namespace airlock::demo
{

/** Looks at the one domain of a rig as the host agent does. */
class DomainWatch
{
  public:
    explicit DomainWatch(rig::HostRig& host);

    /** Waits until it is trapped; TimedOut with the daemons' last words. */
    vm::Trap waitTrap(const std::function<void()>& tick);
    /** As it was seen trapped last. */
    host::Domain& domain() { return *domain_; }

  private:
    rig::HostRig& host_;
    host::LibvirtEventLoop events_;
    host::Connection connection_;
    std::shared_ptr<host::Domain> domain_;
};

} // namespace airlock::demo
