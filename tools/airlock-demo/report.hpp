#pragma once

#include "story.hpp"

#include <string>

namespace airlock::demo
{

/** The tables at the end of the demo. */
std::string render(const Outcome& outcome);

} // namespace airlock::demo
