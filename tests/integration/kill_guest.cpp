#include "kill_guest.hpp"

#include "common/error.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <thread>

namespace airlock::test
{

namespace
{

constexpr Milliseconds writeTime = std::chrono::minutes(1);
constexpr Milliseconds offTime = std::chrono::seconds(30);
constexpr Milliseconds waitStep{100};
constexpr Milliseconds watchStep{5};
/** Acknowledged before the reboot is asked for. */
constexpr unsigned firstRecords = 5;
constexpr std::size_t logMax = 64U << 20;
/** Where the root file system of tools/build-tiny-image begins. */
constexpr std::uint64_t rootOffset = 4096 * 512;

/** The record of a number: the number and one that follows from it. */
constexpr const char* writer =
    "w() {{ n=0; while :; do n=$((n+1)); echo $n $((n*7919%65521)) "
    ">>/root/life-{0} && sync /root/life-{0} && echo ack-$n-; done; }}; w &";

constexpr const char* reader =
    "awk -v most={1} '$1!=NR || $2!=NR*7919%65521 {{ if (NR<=most) bad++ }} "
    "END {{ print (NR<most ? most-NR : 0)+bad }}' /root/life-{0}";

std::uint64_t lastAcknowledged(const std::string& text)
{
    std::size_t at = text.rfind("ack-");
    std::size_t end = std::string::npos;
    // The last one may be cut off.
    while (at != std::string::npos &&
           (end = text.find('-', at + 4)) == std::string::npos)
    {
        at = at == 0 ? std::string::npos : text.rfind("ack-", at - 1);
    }
    std::uint64_t out = 0;
    if (at != std::string::npos)
    {
        std::from_chars(text.data() + at + 4, text.data() + end, out);
    }
    return out;
}

std::string logFrom(const HostRig& rig, std::size_t from)
{
    UniqueFd fd = openFile(rig.path() / "hostd.log", O_RDONLY);
    std::uint64_t size = fileSize(fd.get());
    Bytes bytes(size - std::min<std::uint64_t>(from, size));
    readExactAt(fd.get(), bytes, from);
    return {bytes.begin(), bytes.end()};
}

std::string commandLine(const std::filesystem::path& process)
{
    try
    {
        UniqueFd fd = openFile(process / "cmdline", O_RDONLY);
        return std::string(asText(readToEnd(fd.get(), 1U << 20, "cmdline")));
    }
    catch (const Error&)
    {
        return {}; // it has ended meanwhile
    }
}

} // namespace

void KillGuest::start(Milliseconds timeout)
{
    rig_.guest().start();
    bootId_ = rig_.guest().waitOtherLife("", timeout);
    boots_.push_back(bootId_);
}

void KillGuest::startWriting()
{
    life_++;
    records_[life_] = firstRecords;
    rig_.send(fmt::format(fmt::runtime(writer), life_));
    rig_.guest().console().waitFor(fmt::format("ack-{}-", firstRecords),
                                   writeTime);
    logStart_ = std::filesystem::file_size(rig_.path() / "hostd.log");
}

void KillGuest::reboot(bool harsh)
{
    rig_.send(harsh ? "reboot -nf" : "reboot");
}

void KillGuest::reset()
{
    rig_.libvirt().virsh({"reset", rig_.domain()});
    takeAcknowledgements();
    waitLogged(rig_, "STATE=trapped", logStart_, writeTime);
}

void KillGuest::takeAcknowledgements()
{
    Console& console = rig_.guest().console();
    try
    {
        console.drain();
    }
    catch (const Error&)
    {
        // Its QEMU was killed.
    }
    records_[life_] =
        std::max(records_[life_], lastAcknowledged(console.unread()));
}

void KillGuest::waitBack(Milliseconds timeout)
{
    takeAcknowledgements();
    if (rig_.domainState() == "shut off")
    {
        rig_.guest().start();
    }
    bootId_ = rig_.guest().waitOtherLife(bootId_, timeout);
    boots_.push_back(bootId_);
}

std::string KillGuest::lostOf(unsigned life, std::uint64_t records)
{
    std::string lost =
        rig_.run(fmt::format(fmt::runtime(reader), life, records));
    return lost == "0\n"
               ? ""
               : fmt::format("of the {} records of life {} are lost: {}",
                             records, life, lost);
}

std::string KillGuest::complaints()
{
    std::string out = lostOf(life_, records_.at(life_));
    std::string twice = rig_.run("sort /root/boots | uniq -d");
    if (!twice.empty())
    {
        out += "boots that are on the disk twice: " + twice;
    }
    if (rig_.run("tail -n 1 /root/boots") != bootId_)
    {
        out += "the last boot on the disk is not the one that lives; ";
    }
    // A log that is not there, or that grep cannot read, is no good sign.
    std::string trouble =
        rig_.run("log=$(dmesg) && [ -n \"$log\" ] && { echo \"$log\" | "
                 "grep -iE 'ext4-fs (error|warning)|i/o error|corrupt|"
                 "jbd2.*fail'; [ $? -le 1 ]; }");
    return out + trouble;
}

std::string KillGuest::lostOfAll()
{
    std::string out;
    for (const auto& [life, records] : records_)
    {
        out += lostOf(life, records);
    }
    for (const std::string& boot : boots_)
    {
        std::string id = boot.substr(0, boot.find('\n'));
        if (rig_.run("grep -c " + id + " /root/boots || true") != "1\n")
        {
            out += "the boot " + id + " is not on the disk once; ";
        }
    }
    return out;
}

void waitLogged(const HostRig& rig, const std::string& text, std::size_t from,
                Milliseconds timeout)
{
    Deadline deadline(timeout);
    while (logFrom(rig, from).find(text) == std::string::npos)
    {
        if (deadline.passed())
        {
            throw TimedOut("the host agent never said " + text + "; " +
                           rig.logs());
        }
        std::this_thread::sleep_for(watchStep);
    }
}

bool killBootQemu(const HostRig& rig)
{
    std::string jobs = (rig.path() / "bootd").string();
    for (const auto& entry : std::filesystem::directory_iterator("/proc"))
    {
        std::string name = entry.path().filename();
        pid_t pid = 0;
        auto parsed =
            std::from_chars(name.data(), name.data() + name.size(), pid);
        if (parsed.ec != std::errc() || pid <= 1)
        {
            continue;
        }
        std::string line = commandLine(entry.path());
        if (line.find("boot/qemu-system-x86_64") != std::string::npos &&
            line.find(jobs) != std::string::npos &&
            line.find("airlock-boot-1.0") != std::string::npos)
        {
            return ::kill(pid, SIGKILL) == 0;
        }
    }
    return false;
}

void killProductionQemu(HostRig& rig)
{
    if (rig.domainState() == "shut off")
    {
        return;
    }
    ::kill(rig.libvirt().qemu(rig.domain()), SIGKILL);
    rig.guest().waitOff(offTime);
}

std::string fileSystemTrouble(const std::filesystem::path& image)
{
    std::filesystem::path copy = image;
    copy += ".fsck";
    auto run = [](std::vector<std::string> argv) {
        SpawnOptions options;
        options.argv = std::move(argv);
        ProcessOutput output = runProgram(options, std::chrono::minutes(5));
        return output.status.ok()
                   ? std::string()
                   : options.argv.front() + ": " + output.status.describe() +
                         ": " + output.out + output.err;
    };
    std::string partition =
        fmt::format("{}?offset={}", copy.string(), rootOffset);
    std::string out = run({"cp", "--reflink=auto", "--sparse=always",
                           image.string(), copy.string()});
    if (out.empty())
    {
        out = run({"e2fsck", "-E", "journal_only", "-p", partition});
    }
    if (out.empty())
    {
        out = run({"e2fsck", "-f", "-n", partition});
    }
    std::filesystem::remove(copy);
    return out;
}

} // namespace airlock::test
