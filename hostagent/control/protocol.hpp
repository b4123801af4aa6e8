#pragma once

#include "common/control.hpp"
#include "hostagent/store/store.hpp"

#include <string_view>

/** The host agent's control socket: /run/airlock/hostd/control.sock, with the
 * messages of common/control.hpp. Methods: list, status, jobs, events, retry,
 * release, info; what they take and give is in airlockctl(1), section PROTOCOL.
 */
namespace airlock::host::control
{

using namespace airlock::control;

inline constexpr std::string_view defaultSocket =
    "/run/airlock/hostd/control.sock";

Json toJson(const VmRecord& vm);
Json toJson(const JobRecord& job);

} // namespace airlock::host::control
