#pragma once

#include "common/json.hpp"
#include "devmodel/handover/reduce.hpp"
#include "tools/airlock-bundle/compare.hpp"
#include "tools/airlock-bundle/state_file.hpp"

#include <string>

/** What the commands print: each result as JSON and as text for people. */
namespace airlock::bundletool
{

Json inspectJson(const StateFile& file);
std::string inspectText(const StateFile& file);

Json reduceJson(const handover::Reduced& reduced, std::size_t bytesWritten);
std::string reduceText(const handover::Reduced& reduced,
                       std::size_t bytesWritten);

Json diffJson(const Differences& differences);
/** At most a screenful of fields per section; the JSON has them all. */
std::string diffText(const Differences& differences);

} // namespace airlock::bundletool
