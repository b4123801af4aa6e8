#pragma once

#include <string>
#include <string_view>

namespace airlock::host
{

/** The unified diff of two texts, three lines of context, as `diff -u` and
 * `patch` have it; empty when they are the same. At most 20000 lines each
 * (Refused beyond). */
std::string unifiedDiff(std::string_view before, std::string_view after,
                        std::string_view beforeName,
                        std::string_view afterName);

} // namespace airlock::host
