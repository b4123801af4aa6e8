#include "devmodel/vm/boot_vm.hpp"

#include "common/error.hpp"
#include "common/file.hpp"
#include "common/json.hpp"
#include "devmodel/vm/guest_shell.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <ctime>
#include <optional>
#include <thread>
#include <utility>

namespace airlock::vm
{

namespace
{

constexpr std::size_t stateMax = 64U << 20;
constexpr Milliseconds waitStep{250};
constexpr Milliseconds saveTime = std::chrono::minutes(1);
constexpr int stateFdset = 1;

/** The same open file behind a descriptor that can only write: QEMU takes an
 * fdset's descriptor only for the very access mode that it asks for. */
UniqueFd reopenWriteOnly(int fd)
{
    return openFile("/proc/self/fd/" + std::to_string(fd), O_WRONLY);
}

void waitTime(Machine& machine, Milliseconds time, const Deadline& deadline,
              const Tick& tick)
{
    Deadline end(time);
    while (!end.passed())
    {
        if (deadline.passed())
        {
            throw TimedOut("the guest did not come up in time");
        }
        machine.drainConsoles();
        if (tick)
        {
            tick();
        }
        std::this_thread::sleep_for(std::min(waitStep, end.left()));
    }
}

/** Processor time that a process has used so far. */
Milliseconds processorTime(pid_t pid)
{
    clockid_t clock = 0;
    timespec time = {};
    if (::clock_getcpuclockid(pid, &clock) != 0 ||
        ::clock_gettime(clock, &time) != 0)
    {
        throw Error("cannot see how much processor time the boot machine uses");
    }
    return std::chrono::duration_cast<Milliseconds>(
        std::chrono::seconds(time.tv_sec) +
        std::chrono::nanoseconds(time.tv_nsec));
}

/** How long QEMU has been idle: in each second of the last ones. */
class IdleTime
{
  public:
    explicit IdleTime(Machine& machine)
        : pid_(machine.process().pid()), used_(processorTime(pid_))
    {}

    std::chrono::seconds sofar()
    {
        if (nextLook_.passed())
        {
            constexpr Milliseconds busy{100};
            Milliseconds now = processorTime(pid_);
            idle_ = now - used_ < busy ? idle_ + std::chrono::seconds(1)
                                       : std::chrono::seconds(0);
            used_ = now;
            nextLook_ = Deadline(std::chrono::seconds(1));
        }
        return idle_;
    }

  private:
    pid_t pid_;
    Milliseconds used_;
    std::chrono::seconds idle_{0};
    Deadline nextLook_{std::chrono::seconds(1)};
};

void waitIdle(Machine& machine, std::chrono::seconds time,
              const Deadline& deadline, const Tick& tick)
{
    IdleTime idle(machine);
    while (idle.sofar() < time)
    {
        waitTime(machine, waitStep, deadline, tick);
    }
}

void waitAgent(Machine& machine, const Deadline& deadline, const Tick& tick)
{
    GuestAgent* agent = machine.agent();
    if (agent == nullptr)
    {
        throw Error("the policy is guest-agent, but the guest has no port for "
                    "its agent");
    }
    while (!agent->answered())
    {
        waitTime(machine, waitStep, deadline, tick);
    }
}

void waitAuto(Machine& machine, std::chrono::seconds time,
              const Deadline& deadline, const Tick& tick)
{
    GuestAgent* agent = machine.agent();
    IdleTime idle(machine);
    while (idle.sofar() < time && (agent == nullptr || !agent->answered()))
    {
        waitTime(machine, waitStep, deadline, tick);
    }
}

/** The last word of a migration; Error unless it was "completed". */
void waitMigrated(QmpClient& qmp)
{
    auto over = [](const QmpEvent& event) {
        if (event.name != "MIGRATION")
        {
            return false;
        }
        std::string status =
            JsonField(event.data, "MIGRATION").at("status").string();
        return status == "completed" || status == "failed" ||
               status == "cancelled";
    };
    QmpEvent last = qmp.waitEvent(over, saveTime);
    if (last.data.at("status") == "completed")
    {
        return;
    }
    Json state = qmp.execute("query-migrate");
    auto reason = JsonField(state, "query-migrate").find("error-desc");
    throw Error(
        "the boot machine cannot save the guest's devices: " +
        (reason ? printable(reason->string(), 300) : "no reason given"));
}

std::optional<std::chrono::seconds> parseSeconds(std::string_view text)
{
    constexpr unsigned day = 86400;
    unsigned seconds = 0;
    const char* end = text.data() + text.size();
    auto parsed = std::from_chars(text.data(), end, seconds);
    if (parsed.ec != std::errc() || parsed.ptr != end || seconds > day)
    {
        return std::nullopt;
    }
    return std::chrono::seconds(seconds);
}

Machine::Options machineOptions(const GuestSpec& spec,
                                const std::filesystem::path& log)
{
    Machine::Options out;
    out.console = spec.console;
    out.agent = spec.agent;
    out.serial = true;
    out.log = log;
    return out;
}

} // namespace

BootedPolicy parseBootedPolicy(const std::string& text)
{
    std::string_view rest = text;
    auto takePrefix = [&rest](std::string_view prefix) {
        bool match = rest.substr(0, prefix.size()) == prefix;
        rest.remove_prefix(match ? prefix.size() : 0);
        return match;
    };
    if (text == "auto")
    {
        return BootedAuto{};
    }
    if (text == "guest-agent")
    {
        return BootedAgent{};
    }
    if (text == "shell")
    {
        return BootedShell{};
    }
    if (takePrefix("serial:") && !rest.empty())
    {
        return BootedSerial{std::string(rest)};
    }
    if (takePrefix("after:"))
    {
        if (auto time = parseSeconds(rest))
        {
            return BootedAfter{*time};
        }
    }
    else if (takePrefix("idle:"))
    {
        if (auto time = parseSeconds(rest))
        {
            return BootedIdle{*time};
        }
    }
    throw Error("unknown policy " + printable(text) +
                ": use auto, guest-agent, shell, serial:REGEX, idle:SECONDS "
                "or after:SECONDS");
}

BootVm::BootVm(const Qemu& qemu, const GuestSpec& spec,
               const BootOptions& options, const std::filesystem::path& log)
    : spec_(spec), machine_(
                       [&](const Channels& channels) {
                           return bootArgv(qemu, spec, options, channels);
                       },
                       spec.memory, machineOptions(spec, log))
{
    machine_.setLinks(spec_, false);
    machine_.resume();
}

void BootVm::waitBooted(const BootedPolicy& policy, Milliseconds timeout,
                        const Tick& userTick)
{
    Deadline deadline(timeout);
    const Tick tick = [this, &userTick] {
        requireRunning();
        if (userTick)
        {
            userTick();
        }
    };
    if (const auto* serial = std::get_if<BootedSerial>(&policy))
    {
        machine_.waitForRegex(machine_.serial(), serial->expression, deadline,
                              tick);
    }
    else if (const auto* after = std::get_if<BootedAfter>(&policy))
    {
        waitTime(machine_, after->time, deadline, tick);
    }
    else if (const auto* idle = std::get_if<BootedIdle>(&policy))
    {
        waitIdle(machine_, idle->time, deadline, tick);
    }
    else if (const auto* any = std::get_if<BootedAuto>(&policy))
    {
        waitAuto(machine_, any->idle, deadline, tick);
    }
    else if (std::holds_alternative<BootedAgent>(policy))
    {
        waitAgent(machine_, deadline, tick);
    }
    else
    {
        GuestShell shell(machine_);
        shell.waitPrompt(deadline.left(), tick);
        shell.checkDisk(deadline.left());
    }
}

/** QEMU stops a guest by itself when a disk is full; idle vCPUs would then be
 * taken for a guest that is up. */
void BootVm::requireRunning()
{
    Json answer = machine_.qmp().execute("query-status");
    JsonField status(answer, "query-status");
    if (!status.at("running").boolean())
    {
        throw machine_.withLog("the boot machine has stopped the guest (" +
                               printable(status.at("status").string()) + ")");
    }
}

void BootVm::save()
{
    QmpClient& qmp = machine_.qmp();
    machine_.stop();
    machine_.drainConsoles();

    state_ = createMemfd("boot-state", 0);
    qmp.executeWithFd("add-fd", {{"fdset-id", stateFdset}},
                      reopenWriteOnly(state_.get()).get());
    Json capabilities = Json::array();
    for (const char* name : {"x-ignore-shared", "events"})
    {
        capabilities.push_back({{"capability", name}, {"state", true}});
    }
    qmp.execute("migrate-set-capabilities", {{"capabilities", capabilities}});
    qmp.execute("migrate",
                {{"uri", fmt::format("file:/dev/fdset/{}", stateFdset)}});
    waitMigrated(qmp);
}

BootedGuest BootVm::end()
{
    if (!state_)
    {
        throw Error("the guest's devices have not been saved");
    }
    machine_.quit();
    BootedGuest guest;
    guest.state = readFile(state_.get(), stateMax, "boot state");
    guest.memory = machine_.takeMemory();
    return guest;
}

} // namespace airlock::vm
