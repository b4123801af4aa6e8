#include "devmodel/vm/hand_over.hpp"

#include "common/error.hpp"
#include "common/file.hpp"
#include "common/sha256.hpp"
#include "devmodel/admission/admission.hpp"
#include "devmodel/handover/stream.hpp"

#include <optional>
#include <utility>

namespace airlock::vm
{

namespace
{

double sum(const std::vector<StepTime>& steps)
{
    double seconds = 0;
    for (const StepTime& step : steps)
    {
        seconds += step.seconds;
    }
    return seconds;
}

admission::Machine machineOf(const GuestSpec& spec)
{
    admission::Machine out;
    out.memory = spec.memory;
    out.vcpus = spec.vcpus;
    out.cpuModel = spec.cpuModel;
    out.accelerator = spec.accelerator == Accelerator::kvm
                          ? handover::Accelerator::Kvm
                          : handover::Accelerator::Tcg;
    return out;
}

Json stepsToJson(const std::vector<StepTime>& steps)
{
    Json out = Json::array();
    for (const StepTime& step : steps)
    {
        out.push_back({{"step", step.name}, {"seconds", step.seconds}});
    }
    return out;
}

Trap requireTrapped(TrappedVm& production)
{
    std::optional<Trap> trap = production.trap();
    if (!trap)
    {
        throw Error("a guest can only be handed over to a trapped VM");
    }
    return *trap;
}

} // namespace

handover::GuestShape shapeOf(const GuestSpec& spec)
{
    handover::GuestShape shape;
    shape.bootMachine = bootMachine;
    shape.productionMachine = productionMachine;
    shape.accelerator = spec.accelerator == Accelerator::kvm ? "kvm" : "tcg";
    shape.cpuModel = spec.cpuModel;
    shape.vcpus = spec.vcpus;
    shape.memoryBytes = spec.memory;
    shape.lowMemoryBytes = handover::Environment::forMemory(spec.memory).ramLow;
    shape.devices = deviceList(spec);
    return shape;
}

void requireAnswer(const handover::Manifest& manifest,
                   const handover::JobTicket& job, const GuestSpec& spec)
{
    manifest.requireJob(job);
    if (manifest.guest != shapeOf(spec))
    {
        throw Refused("manifest: guest",
                      "the guest was booted on another machine than this one");
    }
}

double HandOverReport::seconds() const
{
    return sum(steps);
}

Json HandOverReport::toJson() const
{
    Json out;
    out["seconds"] = seconds();
    out["steps"] = stepsToJson(steps);
    out["kept"] = Json::array();
    for (const handover::SectionId& id : kept)
    {
        out["kept"].push_back(handover::label(id));
    }
    out["dropped"] = Json::array();
    for (const handover::DroppedSection& section : dropped)
    {
        out["dropped"].push_back({{"section", handover::label(section.id)},
                                  {"why", section.why},
                                  {"device", section.device},
                                  {"bytes", section.bytes}});
    }
    out["memory"] = {{"bytes", memory.bytes()}, {"digest", toHex(memoryRoot)}};
    out["received_bytes"] = receivedBytes;
    out["loaded_bytes"] = loadedBytes;
    return out;
}

handover::Bundle makeBundle(BootedGuest guest, const GuestSpec& spec,
                            const handover::JobTicket& job)
{
    handover::Manifest manifest;
    manifest.job = job;
    manifest.guest = shapeOf(spec);
    handover::MemoryResult memory =
        handover::describeMemory(guest.memory.get(), spec.memory);
    return {std::move(manifest), std::move(guest.state),
            std::move(memory.digest), std::move(guest.memory)};
}

HandOverReport loadBundle(TrappedVm& production, const handover::Bundle& bundle,
                          const handover::JobTicket& job)
{
    requireAnswer(bundle.manifest(), job, production.spec());
    requireTrapped(production);
    HandOverReport report;
    StepClock step(report.steps);

    report.memory = step(
        "memory", [&] { return bundle.copyMemoryTo(production.memory()); });
    admission::Admitted admitted = step("admit", [&] {
        return admission::admit(machineOf(production.spec()),
                                bundle.deviceState(), production.saveState(),
                                production.memory());
    });
    step("load", [&] {
        production.acquireDisks();
        production.loadState(admitted.state);
    });

    report.kept = std::move(admitted.kept);
    report.dropped = std::move(admitted.dropped);
    report.memoryRoot = bundle.manifest().memoryRoot;
    report.receivedBytes = bundle.deviceState().size();
    report.loadedBytes = admitted.state.size();
    return report;
}

HandOverReport handOver(TrappedVm& production, const handover::Bundle& bundle,
                        const handover::JobTicket& job)
{
    HandOverReport report = loadBundle(production, bundle, job);
    StepClock step(report.steps);
    step("resume", [&] { production.resume(); });
    return report;
}

double CycleReport::seconds() const
{
    return sum(boot) + handOver.seconds();
}

Json CycleReport::toJson() const
{
    return {{"seconds", seconds()},
            {"boot", stepsToJson(boot)},
            {"hand_over", handOver.toJson()}};
}

CycleReport bootAndHandOver(ProductionVm& production, const BootSite& site,
                            const BootedHook& booted)
{
    Trap trap = requireTrapped(production);
    handover::JobTicket job =
        handover::JobTicket::issue(production.spec().uuid, trap.count);
    CycleReport report;
    StepClock step(report.boot);
    std::optional<BootVm> boot;
    step("start", [&] {
        production.releaseDisks();
        boot.emplace(site.qemu, production.spec(), site.options, site.log);
    });
    auto progress = [&site](const char* what) {
        if (site.progress)
        {
            site.progress(what);
        }
    };
    step("boot", [&] {
        boot->waitBooted(site.policy, site.timeout,
                         [&] { progress("the guest boots"); });
    });
    if (booted)
    {
        progress("the guest has booted");
        booted(*boot);
    }
    progress("its state moves over");
    step("save", [&] { boot->save(); });
    BootedGuest guest = step("end", [&] { return boot->end(); });
    boot.reset();
    handover::Bundle bundle = step("bundle", [&] {
        return makeBundle(std::move(guest), production.spec(), job);
    });
    report.handOver = handOver(production, bundle, job);
    return report;
}

} // namespace airlock::vm
