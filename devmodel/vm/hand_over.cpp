#include "devmodel/vm/hand_over.hpp"

#include "common/error.hpp"
#include "common/file.hpp"
#include "common/sha256.hpp"
#include "devmodel/handover/schema.hpp"
#include "devmodel/handover/stream.hpp"

#include <chrono>
#include <optional>
#include <utility>

namespace airlock::vm
{

namespace
{

constexpr std::uint64_t highRamBase = 1ULL << 32;

double sum(const std::vector<StepTime>& steps)
{
    double seconds = 0;
    for (const StepTime& step : steps)
    {
        seconds += step.seconds;
    }
    return seconds;
}

/** Runs a step and notes how long it took. */
class StepClock
{
  public:
    explicit StepClock(std::vector<StepTime>& steps) : steps_(steps) {}

    template <typename Function>
    auto operator()(const std::string& name, const Function& function)
    {
        using Clock = std::chrono::steady_clock;
        Clock::time_point start = Clock::now();
        auto note = [&] {
            std::chrono::duration<double> time = Clock::now() - start;
            steps_.push_back({name, time.count()});
        };
        if constexpr (std::is_void_v<decltype(function())>)
        {
            function();
            note();
        }
        else
        {
            auto result = function();
            note();
            return result;
        }
    }

  private:
    std::vector<StepTime>& steps_;
};

/** Reads guest memory by guest-physical address from its file. */
class GuestMemory
{
  public:
    GuestMemory(int fd, const handover::Environment& layout)
        : fd_(fd), low_(layout.ramLow), high_(layout.ramHigh)
    {}

    bool read(std::uint64_t address, std::span<std::uint8_t> out) const
    {
        std::optional<std::uint64_t> offset = offsetOf(address, out.size());
        if (offset)
        {
            readExactAt(fd_, out, *offset);
        }
        return offset.has_value();
    }

  private:
    std::optional<std::uint64_t> offsetOf(std::uint64_t address,
                                          std::uint64_t size) const
    {
        if (handover::AddressRange{0, low_}.contains(address, size))
        {
            return address;
        }
        handover::AddressRange high{highRamBase, highRamBase + high_};
        if (high.contains(address, size))
        {
            return low_ + (address - highRamBase);
        }
        return std::nullopt;
    }

    int fd_;
    std::uint64_t low_;
    std::uint64_t high_;
};

handover::Environment environmentFor(const GuestSpec& spec, int memory)
{
    auto environment = handover::Environment::forMemory(spec.memory);
    environment.vcpus = spec.vcpus;
    environment.accelerator = spec.accelerator == Accelerator::kvm
                                  ? handover::Accelerator::Kvm
                                  : handover::Accelerator::Tcg;
    environment.cpu =
        handover::CpuContract::forModel(spec.cpuModel, environment.accelerator);
    GuestMemory guest(memory, environment);
    environment.read = [guest](std::uint64_t address,
                               std::span<std::uint8_t> out) {
        return guest.read(address, out);
    };
    return environment;
}

handover::ProductionStream reference(TrappedVm& production)
{
    return handover::parseProductionStream(production.saveState(),
                                           handover::sectionSize);
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

/** What is left to do when the device state has been taken apart: the state
 * is checked against the memory that the guest will have. */
Bytes admitted(TrappedVm& production,
               std::span<const handover::Section> candidate)
{
    handover::ProductionStream local = reference(production);
    std::vector<handover::Section> sections =
        handover::admit(candidate, local.sections,
                        environmentFor(production.spec(), production.memory()));
    return handover::writeProductionStream(local.machine, sections);
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

void requireShape(const handover::GuestShape& shape, const GuestSpec& spec)
{
    if (shape != shapeOf(spec))
    {
        throw Refused("manifest: guest",
                      "the guest was booted on another machine than this one");
    }
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
    bundle.requireJob(job);
    requireShape(bundle.manifest().guest, production.spec());
    requireTrapped(production);
    HandOverReport report;
    StepClock step(report.steps);

    report.memory = step(
        "memory", [&] { return bundle.copyMemoryTo(production.memory()); });
    handover::BootStream stream = step("parse", [&] {
        return handover::parseBootStream(bundle.deviceState());
    });
    handover::Reduced reduced = step(
        "reduce", [&] { return handover::reduce(std::move(stream.sections)); });
    Bytes state =
        step("admit", [&] { return admitted(production, reduced.kept); });
    step("load", [&] {
        production.acquireDisks();
        production.loadState(state);
    });

    for (const handover::Section& section : reduced.kept)
    {
        report.kept.push_back(section.id);
    }
    report.dropped = std::move(reduced.dropped);
    report.memoryRoot = bundle.manifest().memoryRoot;
    report.receivedBytes = bundle.deviceState().size();
    report.loadedBytes = state.size();
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
