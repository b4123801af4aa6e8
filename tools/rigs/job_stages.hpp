#pragma once

#include "common/json.hpp"

#include <array>
#include <optional>
#include <string>

namespace airlock::rig
{

/** A stage in the history of a job (airlockctl(1)). */
struct JobStage
{
    const char* name;
    unsigned depth = 0; ///< 1: part of the stage above
};

/** In the order in which they come. */
inline constexpr std::array jobStages = {
    JobStage{"trapped"},   JobStage{"exporting"}, JobStage{"booting"},
    JobStage{"queue", 1},  JobStage{"copy", 1},   JobStage{"start", 1},
    JobStage{"boot", 1},   JobStage{"save", 1},   JobStage{"memory", 1},
    JobStage{"digest", 1}, JobStage{"returning"}, JobStage{"admitting"},
    JobStage{"applying"},
};

/** Of a job as the host agent's history has it; missing when it was not
 * noted. */
inline std::optional<double> secondsOf(const Json& job, const JobStage& stage)
{
    const Json& seconds = job.at("seconds");
    auto found = seconds.find(stage.name);
    return found == seconds.end() ? std::nullopt
                                  : std::optional(found->get<double>());
}

} // namespace airlock::rig
