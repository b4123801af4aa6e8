#include "devmodel/vm/production_vm.hpp"

#include "common/file.hpp"
#include "common/json.hpp"

#include <fmt/format.h>

#include <utility>

namespace airlock::vm
{

namespace
{

constexpr Milliseconds pollStep{100};
/** From the trap event to a stopped VM: QEMU only has to leave its loop. */
constexpr Milliseconds stopTime = std::chrono::seconds(10);

Machine::Options machineOptions(const GuestSpec& spec,
                                const ProductionVm::Options& options)
{
    Machine::Options out;
    out.console = spec.console;
    out.agent = spec.agent;
    out.taps = options.taps;
    out.log = options.log;
    return out;
}

} // namespace

ProductionVm::ProductionVm(const Qemu& qemu, const GuestSpec& spec,
                           const Options& options)
    : spec_(spec), machine_(
                       [&](const Channels& channels) {
                           auto argv = productionArgv(qemu, spec, channels);
                           argv.insert(argv.end(), options.arguments.begin(),
                                       options.arguments.end());
                           return argv;
                       },
                       spec.memory, machineOptions(spec, options))
{}

std::optional<Trap> ProductionVm::trap()
{
    return queryTrap(machine_.qmp()).trap;
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
    return saveDeviceState(machine_.qmp());
}

void ProductionVm::loadState(ByteView state)
{
    loadDeviceState(machine_.qmp(), state);
}

void ProductionVm::resume()
{
    machine_.setLinks(spec_, true);
    machine_.resume();
}

} // namespace airlock::vm
