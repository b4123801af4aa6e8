#include "hostagent/control/protocol.hpp"

namespace airlock::host::control
{

Json toJson(const VmRecord& vm)
{
    Json marks = Json::object();
    for (const auto& [step, at] : vm.marks)
    {
        marks[step] = timeText(at);
    }
    return {
        {"uuid", vm.uuid},
        {"name", vm.name},
        {"state", std::string(toString(vm.state))},
        {"since", timeText(vm.since)},
        {"generation", vm.generation},
        {"attempts", vm.attempts},
        {"boot_server", vm.bootServer},
        {"job", vm.jobId},
        {"reason", vm.reason},
        {"marks", marks},
    };
}

Json toJson(const JobRecord& job)
{
    return {
        {"id", job.id},
        {"uuid", job.uuid},
        {"name", job.name},
        {"tenant", job.tenant},
        {"generation", job.generation},
        {"server", job.server},
        {"started", timeText(job.started)},
        {"ended", job.ended ? Json(timeText(*job.ended)) : Json()},
        {"result", job.result},
        {"seconds", job.seconds},
        {"figures", job.figures},
    };
}

} // namespace airlock::host::control
