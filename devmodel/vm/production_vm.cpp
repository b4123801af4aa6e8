#include "devmodel/vm/production_vm.hpp"

#include "common/file.hpp"
#include "common/json.hpp"

#include <fmt/format.h>

#include <utility>

namespace airlock::vm
{

namespace
{

constexpr std::size_t stateMax = 16U << 20;
constexpr Milliseconds pollStep{100};
/** From the trap event to a stopped VM: QEMU only has to leave its loop. */
constexpr Milliseconds stopTime = std::chrono::seconds(10);
/** Resetting, loading and saving again takes milliseconds; a loaded host may
 * need longer. */
constexpr Milliseconds stateTime = std::chrono::minutes(1);

Machine::Options machineOptions(const GuestSpec& spec,
                                const ProductionVm::Options& options)
{
    Machine::Options out;
    out.console = spec.console;
    out.taps = options.taps;
    out.log = options.log;
    return out;
}

Trap readTrap(const JsonField& info)
{
    Trap trap;
    trap.cause = info.at("cause").string();
    trap.count = info.at("count").u64();
    trap.vcpu = static_cast<unsigned>(info.at("vcpu").u64(maxVcpus));
    if (auto port = info.find("port"))
    {
        trap.port = static_cast<std::uint16_t>(port->u64(0xffff));
    }
    if (auto value = info.find("value"))
    {
        trap.value = static_cast<std::uint8_t>(value->u64(0xff));
    }
    return trap;
}

} // namespace

std::string describe(const Trap& trap)
{
    if (!trap.port)
    {
        return trap.cause;
    }
    return fmt::format("{} {:#x} <- {:#04x} by vCPU {}", trap.cause, *trap.port,
                       trap.value.value_or(0), trap.vcpu);
}

ProductionVm::ProductionVm(const Qemu& qemu, const GuestSpec& spec,
                           const Options& options)
    : spec_(spec), machine_(
                       [&](const Channels& channels) {
                           return productionArgv(qemu, spec, channels);
                       },
                       spec.memory, machineOptions(spec, options))
{}

std::optional<Trap> ProductionVm::trap()
{
    Json info = machine_.qmp().execute("__internal.airlock_query-trap");
    JsonField field(info, "query-trap");
    if (!field.at("trapped").boolean())
    {
        return std::nullopt;
    }
    return readTrap(field);
}

Trap ProductionVm::waitTrap(Milliseconds timeout)
{
    Deadline deadline(timeout);
    std::optional<Trap> trapped;
    while (!(trapped = trap()))
    {
        if (deadline.passed())
        {
            throw TimedOut(fmt::format("no reset of the guest within {} s",
                                       timeout.count() / 1000));
        }
        machine_.drainConsoles();
        try
        {
            machine_.qmp().waitEvent("__internal.airlock_TRAP", pollStep);
        }
        catch (const TimedOut&)
        {
            // Look again: events of an earlier life may have been dropped.
        }
    }
    Deadline stopped(stopTime);
    while (machine_.running())
    {
        if (stopped.passed())
        {
            throw machine_.withLog("the VM is trapped but does not stop");
        }
    }
    machine_.qmp().clearEvents();
    return *trapped;
}

void ProductionVm::setDisksActive(bool active)
{
    if (hasDisks_ != active && !spec_.disks.empty())
    {
        machine_.qmp().execute("blockdev-set-active", {{"active", active}});
    }
    hasDisks_ = active;
}

void ProductionVm::releaseDisks()
{
    setDisksActive(false);
}

void ProductionVm::acquireDisks()
{
    setDisksActive(true);
}

Bytes ProductionVm::saveState()
{
    UniqueFd file = createMemfd("reference-state", 0);
    machine_.qmp().executeWithFd("getfd", {{"fdname", "save"}}, file.get());
    machine_.qmp().execute("__internal.airlock_save", {{"fd", "save"}},
                           stateTime);
    return readFile(file.get(), stateMax, "reference state");
}

void ProductionVm::loadState(ByteView state)
{
    UniqueFd file = sealedMemfd("state", state);
    machine_.qmp().executeWithFd("getfd", {{"fdname", "load"}}, file.get());
    machine_.qmp().execute("__internal.airlock_load", {{"fd", "load"}},
                           stateTime);
}

void ProductionVm::resume()
{
    machine_.setLinks(spec_, true);
    machine_.resume();
}

} // namespace airlock::vm
