#pragma once

#include "devmodel/admission/admission.hpp"

#include <string>
#include <string_view>

namespace airlock
{
class Refused;
}

/** What airlock-admit writes to its standard output. */
namespace airlock::admission
{

std::string writeReport(const Admitted& admitted);
std::string writeReport(const Refused& refused);

/** The admitted state is not in it. Throws Refused when that is what the
 * report says, or when it is no report. */
Admitted readReport(std::string_view text);

} // namespace airlock::admission
