#pragma once

namespace airlock::test
{

/** Exit codes of a life that ended with a change of mode. */
inline constexpr int lifeToDirty = 10;
inline constexpr int lifeToClean = 11;

} // namespace airlock::test
