#pragma once

#include "bootsrv/machine/dirty_mode.hpp"

namespace airlock::machine
{

/** Maps the area with dm-crypt, makes an ext4 file system in it and mounts it.
 * Returns where. Needs root, the modules and the program mkfs.ext4. */
std::filesystem::path mountScratch(const ScratchArea& area);

} // namespace airlock::machine
