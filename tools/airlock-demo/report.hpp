#pragma once

#include "story.hpp"

#include <string>
#include <vector>

namespace airlock::demo
{

/** One row for each stage of a job, one column for each job of the host agent's
 * history. */
std::string jobTable(const std::vector<Json>& jobs);
std::string checkTable(const Checks& checks);

/** The tables at the end of the demo. */
std::string render(const Outcome& outcome);

} // namespace airlock::demo
