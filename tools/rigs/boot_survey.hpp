#pragma once

#include "common/deadline.hpp"
#include "devmodel/vm/boot_vm.hpp"
#include "devmodel/vm/survey.hpp"

#include <filesystem>
#include <functional>

namespace airlock::rig
{

/** What the boot machine shows a guest: set up by its firmware, with an empty
 * disk, so that nothing boots. The specification's disks do not count. Throws
 * TimedOut when the firmware does not get that far. */
vm::Survey surveyBootMachine(const vm::Qemu& qemu, vm::GuestSpec spec,
                             const vm::BootOptions& options,
                             const std::filesystem::path& directory,
                             const std::function<void()>& tick = {});

} // namespace airlock::rig
