#include "devmodel/vm/guest_shell.hpp"

#include "common/error.hpp"

#include <fmt/format.h>

#include <thread>

namespace airlock::vm
{

namespace
{

constexpr Milliseconds waitStep{250};
constexpr const char* prompt = "[#$] $";

} // namespace

void GuestShell::waitPrompt(Milliseconds timeout)
{
    Deadline deadline(timeout);
    for (;;)
    {
        try
        {
            machine_.console().waitForRegex(
                prompt, std::min(waitStep, deadline.left()));
            return;
        }
        catch (const TimedOut&)
        {
            if (deadline.passed())
            {
                throw;
            }
        }
        machine_.drainSerial();
    }
}

std::string GuestShell::run(const std::string& command, Milliseconds timeout)
{
    Console::CommandResult result =
        machine_.console().runCommand(command, timeout);
    if (result.status != 0)
    {
        throw Error(fmt::format("in the guest, {} ended with status {}: {}",
                                printable(command), result.status,
                                printable(result.output, 300)));
    }
    return result.output;
}

void GuestShell::checkDisk(Milliseconds timeout)
{
    run("d=$(findmnt -n -o SOURCE /) && "
        "dd if=\"$d\" of=/dev/null bs=4096 count=16 iflag=direct && "
        "f=$(mktemp -p /var/tmp) && echo airlock >\"$f\" && sync \"$f\" && "
        "rm \"$f\"",
        timeout);
}

Json GuestShell::probe(const std::string& arguments, Milliseconds timeout)
{
    std::string answer = run("airlock-probe " + arguments, timeout);
    return parseJson(answer, "airlock-probe");
}

Json GuestShell::settled(Milliseconds timeout)
{
    Deadline deadline(timeout);
    for (;;)
    {
        Json report = probe("report", deadline.left());
        std::string system =
            JsonField(report, "airlock-probe").at("system").string();
        if (system != "starting" && system != "initializing")
        {
            return report;
        }
        if (deadline.passed())
        {
            throw TimedOut("the guest's services are still being started");
        }
        std::this_thread::sleep_for(waitStep);
    }
}

void GuestShell::reboot()
{
    machine_.console().sendLine("reboot");
}

} // namespace airlock::vm
