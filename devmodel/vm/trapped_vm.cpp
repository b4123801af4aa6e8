#include "devmodel/vm/trapped_vm.hpp"

#include "common/file.hpp"
#include "common/json.hpp"

#include <fmt/format.h>

namespace airlock::vm
{

namespace
{

constexpr std::size_t stateMax = 16U << 20;
/** Resetting, loading and saving again takes milliseconds; a loaded host may
 * need longer. */
constexpr Milliseconds stateTime = std::chrono::minutes(1);
/** Gigabytes to a slow disk. */
constexpr Milliseconds applyTime = std::chrono::minutes(30);

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

TrapState queryTrap(QmpCommands& qmp)
{
    Json info = qmp.execute("__internal.airlock_query-trap");
    JsonField field(info, "query-trap");
    TrapState out;
    if (field.at("trapped").boolean())
    {
        out.trap = readTrap(field);
    }
    out.loaded = field.at("loaded").boolean();
    out.atStub = field.at("at-stub").boolean();
    out.ran = field.at("ran").boolean();
    out.life = field.at("life").u64();
    return out;
}

Bytes saveDeviceState(QmpCommands& qmp)
{
    UniqueFd file = createMemfd("reference-state", 0);
    qmp.executeWithFd("getfd", {{"fdname", "save"}}, file.get());
    qmp.execute("__internal.airlock_save", {{"fd", "save"}}, stateTime);
    return readFile(file.get(), stateMax, "reference state");
}

void loadDeviceState(QmpCommands& qmp, ByteView state)
{
    UniqueFd file = sealedMemfd("state", state);
    qmp.executeWithFd("getfd", {{"fdname", "load"}}, file.get());
    qmp.execute("__internal.airlock_load", {{"fd", "load"}}, stateTime);
}

void applyDelta(QmpCommands& qmp, const std::string& device, int stream)
{
    qmp.executeWithFd("getfd", {{"fdname", "delta"}}, stream);
    qmp.execute("__internal.airlock_apply",
                {{"device", device}, {"fd", "delta"}}, applyTime);
}

} // namespace airlock::vm
