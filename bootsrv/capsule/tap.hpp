#pragma once

#include "common/fd.hpp"

#include <string>

namespace airlock::capsule
{

/** A tap device that is there already, as QEMU wants it passed. Who owns the
 * device needs no privilege for it. Error when there is none of that name: one
 * that was made here would be no port of anything. */
UniqueFd openTap(const std::string& name);

} // namespace airlock::capsule
