#pragma once

#include "devmodel/vm/guest_spec.hpp"
#include "devmodel/vm/qemu_argv.hpp"

#include <filesystem>
#include <string>

namespace airlock::vm
{

struct KvmProbe
{
    bool usable = false;
    std::string why; ///< for people; why not, if it is not
};

/** Whether this host's KVM runs a guest like this one.
 *
 * That /dev/kvm opens proves little: on some nested hosts it runs firmware but
 * no kernel. So the guest's own image is booted with KVM, read-only, until its
 * user space speaks on the serial line; without KVM that takes a minute at
 * most. The answer is kept in `cache` for as long as the host is up.
 */
KvmProbe probeKvm(const Qemu& boot, GuestSpec spec,
                  const std::filesystem::path& cache);

} // namespace airlock::vm
