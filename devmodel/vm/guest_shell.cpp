#include "devmodel/vm/guest_shell.hpp"

#include "airlock_probe.hpp"
#include "common/error.hpp"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <string_view>
#include <thread>
#include <vector>

namespace airlock::vm
{

namespace
{

constexpr Milliseconds waitStep{250};
constexpr const char* prompt = "[#$] $";
/** As base64 well below the longest line that a terminal takes. */
constexpr std::size_t probeChunk = 1500;

std::string base64(std::string_view text)
{
    std::vector<unsigned char> out((text.size() + 2) / 3 * 4 + 1);
    int size = ::EVP_EncodeBlock(
        out.data(), reinterpret_cast<const unsigned char*>(text.data()),
        static_cast<int>(text.size()));
    return {out.begin(), out.begin() + size};
}

} // namespace

void GuestShell::waitPrompt(Milliseconds timeout, const Tick& tick)
{
    machine_.waitForRegex(machine_.console(), prompt, Deadline(timeout), tick);
}

std::string ConsoleShell::run(const std::string& command, Milliseconds timeout)
{
    Console::CommandResult result = console_.runCommand(command, timeout);
    if (result.status != 0)
    {
        throw Error(fmt::format("in the guest, {} ended with status {}: {}",
                                printable(command), result.status,
                                printable(result.output, 300)));
    }
    return result.output;
}

void ConsoleShell::checkDisk(Milliseconds timeout)
{
    run("d=$(findmnt -n -o SOURCE /) && "
        "dd if=\"$d\" of=/dev/null bs=4096 count=16 iflag=direct && "
        "f=$(mktemp -p /var/tmp) && echo airlock >\"$f\" && sync \"$f\" && "
        "rm \"$f\"",
        timeout);
}

void ConsoleShell::installProbe(const Deadline& deadline)
{
    constexpr const char* installed = "/usr/local/sbin/airlock-probe";
    constexpr const char* copy = "/run/airlock-probe";
    if (console_
            .runCommand("test -x " + std::string(installed), deadline.left())
            .status == 0)
    {
        probe_ = installed;
        return;
    }
    run(std::string(": >") + copy, deadline.left());
    std::string_view script = probeScript;
    while (!script.empty())
    {
        std::string_view part = script.substr(0, probeChunk);
        script.remove_prefix(part.size());
        run(fmt::format("echo {} | base64 -d >>{}", base64(part), copy),
            deadline.left());
    }
    probe_ = std::string("sh ") + copy;
}

Json ConsoleShell::probe(const std::string& arguments, Milliseconds timeout)
{
    Deadline deadline(timeout);
    if (probe_.empty())
    {
        installProbe(deadline);
    }
    std::string answer = run(probe_ + " " + arguments, deadline.left());
    return parseJson(answer, "airlock-probe");
}

Json ConsoleShell::settled(Milliseconds timeout)
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

void ConsoleShell::reboot()
{
    console_.sendLine("reboot");
}

} // namespace airlock::vm
