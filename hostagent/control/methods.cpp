#include "hostagent/control/server.hpp"

#include <fmt/format.h>

namespace airlock::host::control
{

namespace
{

/** Bytes of a reply with jobs; well below what a peer may leave unread. */
constexpr std::size_t maxHistory = 2U << 20;

/** By UUID or by name, which is unique in libvirt. */
VmRecord findVm(const Store& store, const JsonField& parameters)
{
    std::string wanted = parameters.at("vm").string(256);
    if (auto vm = store.vm(wanted))
    {
        return *vm;
    }
    for (const VmRecord& vm : store.vms())
    {
        if (vm.name == wanted)
        {
            return vm;
        }
    }
    throw CallError(errors::notFound,
                    "no VM " + printable(wanted) +
                        " is known to the host "
                        "agent; airlockctl list shows those that are");
}

Json list(const Store& store, const JsonField& parameters)
{
    parameters.onlyKeys({});
    Json vms = Json::array();
    for (const VmRecord& vm : store.vms())
    {
        vms.push_back(toJson(vm));
    }
    return {{"vms", vms}};
}

Json status(const Store& store, const JsonField& parameters)
{
    parameters.onlyKeys({"vm"});
    VmRecord vm = findVm(store, parameters);
    JobQuery query;
    query.uuid = vm.uuid;
    query.limit = 5;
    Json jobs = Json::array();
    for (const JobRecord& job : store.jobs(query))
    {
        jobs.push_back(toJson(job));
    }
    return {{"vm", toJson(vm)}, {"jobs", jobs}};
}

JobQuery queryFrom(const JsonField& parameters)
{
    parameters.onlyKeys(
        {"vm", "tenant", "server", "result", "open", "since", "limit"});
    auto text = [&](const char* name) -> std::optional<std::string> {
        auto field = parameters.find(name);
        return field ? std::optional(field->string(256)) : std::nullopt;
    };
    JobQuery query;
    query.name = text("vm");
    query.tenant = text("tenant");
    query.server = text("server");
    query.result = text("result");
    if (auto open = parameters.find("open"))
    {
        query.openOnly = open->boolean();
    }
    if (auto since = parameters.find("since"))
    {
        constexpr std::uint64_t latest = 1ULL << 40;
        query.startedSince = Timestamp(std::chrono::seconds(
            static_cast<std::int64_t>(since->u64(latest))));
    }
    if (auto limit = parameters.find("limit"))
    {
        query.limit = limit->u64(10000);
    }
    return query;
}

Json jobs(const Store& store, const JsonField& parameters)
{
    JobQuery query = queryFrom(parameters);
    if (query.name && store.vm(*query.name))
    {
        query.uuid = std::exchange(query.name, std::nullopt);
    }
    Json out = Json::array();
    std::size_t room = maxHistory;
    for (const JobRecord& job : store.jobs(query))
    {
        Json one = toJson(job);
        std::size_t size = dumpJson(one).size();
        if (size > room)
        {
            return {{"jobs", out}, {"truncated", true}};
        }
        room -= size;
        out.push_back(std::move(one));
    }
    return {{"jobs", out}, {"truncated", false}};
}

VmRecord findHeld(const Store& store, const JsonField& parameters)
{
    VmRecord vm = findVm(store, parameters);
    if (vm.state != State::held)
    {
        throw CallError(
            errors::wrongState,
            fmt::format("{} is {}, not held", vm.name, toString(vm.state)));
    }
    return vm;
}

Json now(const Store& store, const VmRecord& vm)
{
    return {{"vm", toJson(store.vm(vm.uuid).value_or(vm))}};
}

} // namespace

void addStoreMethods(Server& server, Store& store, Actions actions)
{
    server.handle("list", [&store](const JsonField& parameters, const Peer&) {
        return list(store, parameters);
    });
    server.handle("status", [&store](const JsonField& parameters, const Peer&) {
        return status(store, parameters);
    });
    server.handle("jobs", [&store](const JsonField& parameters, const Peer&) {
        return jobs(store, parameters);
    });
    if (actions.retry)
    {
        server.handle("retry", [&store, retry = std::move(actions.retry)](
                                   const JsonField& parameters, const Peer&) {
            parameters.onlyKeys({"vm"});
            VmRecord vm = findHeld(store, parameters);
            retry(vm);
            return now(store, vm);
        });
    }
    if (actions.release)
    {
        server.handle("release", [&store, release = std::move(actions.release)](
                                     const JsonField& parameters, const Peer&) {
            parameters.onlyKeys({"vm", "discard-delta"});
            auto discard = parameters.find("discard-delta");
            VmRecord vm = findHeld(store, parameters);
            release(vm, discard && discard->boolean());
            return now(store, vm);
        });
    }
    if (actions.info)
    {
        server.handle("info", [info = std::move(actions.info)](
                                  const JsonField& parameters, const Peer&) {
            parameters.onlyKeys({});
            return info();
        });
    }
}

} // namespace airlock::host::control
