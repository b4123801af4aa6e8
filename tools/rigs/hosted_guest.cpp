#include "tools/rigs/hosted_guest.hpp"

#include "common/error.hpp"
#include "common/json.hpp"

#include <fmt/format.h>

#include <thread>

namespace airlock::rig
{

namespace
{

constexpr Milliseconds waitStep{200};

} // namespace

HostedGuest::HostedGuest(const PrivateLibvirt& libvirt, DomainCase domain,
                         const std::filesystem::path& directory,
                         std::function<std::string()> logs)
    : libvirt_(libvirt), domain_(std::move(domain)), directory_(directory),
      logs_(std::move(logs))
{}

std::filesystem::path HostedGuest::image() const
{
    return directory_ / (name() + ".raw");
}

std::filesystem::path HostedGuest::consolePath() const
{
    return rig::consolePath(domain_, directory_);
}

void HostedGuest::start()
{
    console_.reset();
    libvirt_.virsh({"start", name()});
}

std::string HostedGuest::state() const
{
    std::string out = libvirt_.virsh({"domstate", name()});
    return out.substr(0, out.find('\n'));
}

void HostedGuest::waitState(const std::string& wanted,
                            Milliseconds timeout) const
{
    Deadline deadline(timeout);
    while (state() != wanted)
    {
        if (deadline.passed())
        {
            throw TimedOut(fmt::format("domain {} is {}, not {}; {}", name(),
                                       state(), wanted, logs_()));
        }
        std::this_thread::sleep_for(waitStep);
    }
}

void HostedGuest::waitPaused(Milliseconds timeout)
{
    waitState("paused", timeout);
    console_.reset();
}

void HostedGuest::waitOff(Milliseconds timeout)
{
    waitState("shut off", timeout);
    console_.reset();
}

void HostedGuest::waitAlive(Milliseconds timeout)
{
    Deadline deadline(timeout);
    waitState("running", timeout);
    if (!console_)
    {
        console_.emplace(Console::connect(consolePath()));
    }
    console_->sendLine("");
    console_->runCommand("true", deadline.left());
}

void HostedGuest::waitReborn(Milliseconds timeout)
{
    console_.reset();
    waitAlive(timeout);
}

std::string HostedGuest::waitOtherLife(const std::string& bootId,
                                       Milliseconds timeout,
                                       Milliseconds patience)
{
    Deadline deadline(timeout);
    for (;;)
    {
        console_.reset();
        waitState("running", deadline.left());
        try
        {
            waitAlive(patience);
            std::string now = this->bootId(patience);
            if (now != bootId)
            {
                return now;
            }
        }
        catch (const Error&)
        {
            // On its way down, or trapped before it could answer.
        }
        if (deadline.passed())
        {
            throw TimedOut(name() + " does not come back; " + logs_());
        }
        std::this_thread::sleep_for(waitStep);
    }
}

std::string HostedGuest::run(const std::string& command, Milliseconds timeout)
{
    Console::CommandResult result = console_->runCommand(command, timeout);
    if (result.status != 0)
    {
        throw Error(fmt::format("in the guest, {} ended with status {}: {}",
                                printable(command), result.status,
                                printable(result.output, 300)));
    }
    return result.output;
}

void HostedGuest::send(const std::string& line)
{
    console_->sendLine(line);
}

std::string HostedGuest::bootId(Milliseconds timeout)
{
    constexpr std::size_t size = 37; // with the line's end
    std::string id = run("cat /proc/sys/kernel/random/boot_id", timeout);
    if (id.size() != size ||
        id.find_first_not_of("0123456789abcdef-\n") != std::string::npos)
    {
        throw Error("somebody else speaks on the console: " +
                    printable(id, 100));
    }
    return id;
}

} // namespace airlock::rig
