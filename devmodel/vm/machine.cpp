#include "devmodel/vm/machine.hpp"

#include "common/file.hpp"
#include "common/json.hpp"
#include "common/socket.hpp"

#include <fcntl.h>

#include <algorithm>
#include <utility>

namespace airlock::vm
{

namespace
{

constexpr Milliseconds waitStep{250};
constexpr std::size_t logQuote = 1000;
constexpr std::size_t logMax = 16U << 20;

/** One socket pair whose far end is for the child. */
struct Line
{
    UniqueFd ours;
    UniqueFd childs;

    static Line open()
    {
        auto [ours, childs] = socketPair();
        return {std::move(ours), std::move(childs)};
    }
};

std::string endOf(const std::filesystem::path& log)
{
    if (log.empty() || !std::filesystem::exists(log))
    {
        return {};
    }
    Bytes bytes = readFile(log, logMax);
    std::size_t size = std::min(bytes.size(), logQuote);
    return {bytes.end() - static_cast<std::ptrdiff_t>(size), bytes.end()};
}

} // namespace

Machine::Machine(const Argv& argv, std::uint64_t memory, const Options& options)
    : log_(options.log), memory_(createMemfd("guest-memory", memory))
{
    Line qmp = Line::open();
    Line console = options.console ? Line::open() : Line{};
    Line agent = options.agent ? Line::open() : Line{};
    Line serial = options.serial ? Line::open() : Line{};
    Channels channels;
    channels.qmp = qmp.childs.get();
    channels.memory = memory_.get();
    channels.console = console.childs.get();
    channels.agent = agent.childs.get();
    channels.serial = serial.childs.get();
    channels.taps = options.taps;

    UniqueFd log;
    if (!log_.empty())
    {
        log = openFile(log_, O_WRONLY | O_CREAT | O_TRUNC);
    }
    SpawnOptions spawn;
    spawn.argv = argv(channels);
    spawn.inheritFds = channels.all();
    spawn.stdoutFd = log.get();
    spawn.stderrFd = log.get();
    process_.emplace(spawn);

    if (console.ours)
    {
        console_.emplace(std::move(console.ours));
    }
    if (agent.ours)
    {
        agent_.emplace(std::move(agent.ours));
    }
    if (serial.ours)
    {
        serial_.emplace(std::move(serial.ours));
    }
    // Or a dead QEMU would leave its end of the line open in this process.
    qmp.childs.reset();
    connect(std::move(qmp.ours));
}

void Machine::connect(UniqueFd qmpSocket)
{
    try
    {
        qmp_.emplace(std::move(qmpSocket));
    }
    catch (const Error& error)
    {
        process_->kill();
        throw withLog(std::string("QEMU does not start: ") + error.what());
    }
}

Error Machine::withLog(const std::string& what) const
{
    std::string last = endOf(log_);
    return last.empty()
               ? Error(what)
               : Error(what + "; it said: " + printable(last, logQuote));
}

Console& Machine::console()
{
    if (!console_)
    {
        throw Error("this machine has no virtio console");
    }
    return *console_;
}

Console& Machine::serial()
{
    if (!serial_)
    {
        throw Error("this machine has no serial line");
    }
    return *serial_;
}

void Machine::drainConsoles()
{
    if (console_)
    {
        console_->drain();
    }
    if (serial_)
    {
        serial_->drain();
    }
}

void Machine::waitForRegex(Console& where, const std::string& expression,
                           const Deadline& deadline, const Tick& tick)
{
    for (;;)
    {
        try
        {
            where.waitForRegex(expression, std::min(waitStep, deadline.left()));
            return;
        }
        catch (const TimedOut&)
        {
            if (deadline.passed())
            {
                throw;
            }
        }
        for (std::optional<Console>* other : {&console_, &serial_})
        {
            if (*other && &**other != &where)
            {
                (*other)->drain();
            }
        }
        if (tick)
        {
            tick();
        }
    }
}

bool Machine::running()
{
    Json status = qmp_->execute("query-status");
    return JsonField(status, "query-status").at("running").boolean();
}

void Machine::stop()
{
    qmp_->execute("stop");
}

void Machine::resume()
{
    qmp_->execute("cont");
}

void Machine::setLinks(const GuestSpec& spec, bool up)
{
    for (std::size_t i = 0; i < spec.nics.size(); i++)
    {
        qmp_->execute("set_link", {{"name", nicId(i)}, {"up", up}});
    }
}

void Machine::quit()
{
    try
    {
        qmp_->execute("quit");
    }
    catch (const Error&)
    {
        // It is gone already, or does not listen: the signal below decides.
    }
    process_->terminate();
}

} // namespace airlock::vm
