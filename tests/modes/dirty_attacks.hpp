#pragma once

#include "tests/modes/probe.hpp"

#include <map>
#include <string>

namespace airlock::probe
{

inline constexpr const char* tpmDevice = "device:/dev/tpmrm0";

/** What root of a machine that was taken over tries, by the name that a test
 * orders it by. */
const std::map<std::string, void (*)()>& dirtyAttacks();

/** Does it, and says what came of it: "attack NAME". */
template <typename Attack>
void tryAttack(const std::string& name, Attack&& attack)
{
    say("attack " + name, errorOf(attack));
}

} // namespace airlock::probe
