#include "bootsrv/machine/system.hpp"

#include "common/file.hpp"
#include "common/log.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/module.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <set>
#include <thread>
#include <vector>

namespace airlock::machine
{

namespace
{

namespace fs = std::filesystem;

constexpr std::size_t maxUevent = 16U << 10;
constexpr auto pollInterval = std::chrono::milliseconds(20);

/** Where PID 1 of an image speaks; serial or not is up to the command line. */
constexpr const char* consoleDevice = "/dev/console";

void mountOne(const char* type, const char* where, unsigned long flags,
              const char* options = nullptr)
{
    fs::create_directories(where);
    if (::mount(type, where, type, flags | MS_NOSUID, options) != 0)
    {
        throwErrno(fmt::format("cannot mount {} at {}", type, where));
    }
}

/** Some kernels have no such file; that is said, not fatal. */
void setKernel(const char* file, std::string_view value)
{
    try
    {
        UniqueFd fd = openFile(file, O_WRONLY);
        writeAll(fd.get(), asBytes(value));
    }
    catch (const SystemError& error)
    {
        log::warning("A setting of the kernel cannot be made",
                     {{"REASON", error.what()}});
    }
}

/** The value of NAME=value in a file of sysfs. */
std::string ueventValue(const fs::path& file, std::string_view name)
{
    std::string text;
    try
    {
        // A file of sysfs has no size that could be asked for.
        UniqueFd fd = openFile(file, O_RDONLY);
        Bytes data = readToEnd(fd.get(), maxUevent, file.string());
        text.assign(data.begin(), data.end());
    }
    catch (const Error&)
    {
        return {}; // gone in between
    }
    const std::string key = std::string(name) + "=";
    for (std::size_t at = 0; at < text.size();)
    {
        std::size_t end = std::min(text.find('\n', at), text.size());
        std::string_view line(text.data() + at, end - at);
        if (line.starts_with(key))
        {
            return std::string(line.substr(key.size()));
        }
        at = end + 1;
    }
    return {};
}

std::vector<fs::path> partitionsNamed(const std::string& label)
{
    std::vector<fs::path> out;
    for (const auto& entry : fs::directory_iterator("/sys/class/block"))
    {
        const fs::path file = entry.path() / "uevent";
        if (ueventValue(file, "PARTNAME") == label)
        {
            out.push_back(fs::path("/dev") / ueventValue(file, "DEVNAME"));
        }
    }
    return out;
}

int rebootCommand(PowerCycle how)
{
    return how == PowerCycle::powerOff ? RB_POWER_OFF : RB_AUTOBOOT;
}

int atTheLimit = RB_POWER_OFF;

void onLimit(int)
{
    ::reboot(atTheLimit); // a system call and nothing else
}

} // namespace

void mountKernelFiles()
{
    mountOne("proc", "/proc", MS_NODEV | MS_NOEXEC);
    mountOne("sysfs", "/sys", MS_NODEV | MS_NOEXEC);
    mountOne("devtmpfs", "/dev", MS_NOEXEC, "mode=0755");
    mountOne("tmpfs", "/run", MS_NODEV | MS_NOEXEC, "mode=0755");
    mountOne("securityfs", "/sys/kernel/security", MS_NODEV | MS_NOEXEC);
    UniqueFd console = openFile(consoleDevice, O_RDWR | O_NOCTTY);
    for (int fd = 0; fd <= 2; fd++)
    {
        if (::dup2(console.get(), fd) < 0)
        {
            throwErrno("cannot use the console");
        }
    }
    if (console.get() <= 2)
    {
        console.release();
    }
}

void loadModules(const fs::path& directory)
{
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(directory))
    {
        files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files)
    {
        UniqueFd fd = openFile(file, O_RDONLY);
        if (::syscall(SYS_finit_module, fd.get(), "", 0) != 0)
        {
            // Modules for a processor that this machine does not have.
            log::info("A kernel module is not of use here",
                      {{"FILE", file.filename().string()},
                       {"REASON", std::generic_category().message(errno)}});
        }
    }
    mountOne("efivarfs", "/sys/firmware/efi/efivars", MS_NODEV | MS_NOEXEC);
}

void lockDown()
{
    setKernel("/proc/sys/kernel/core_pattern", "|/none");
    setKernel("/proc/sys/kernel/sysrq", "0");
    setKernel("/proc/sys/kernel/kexec_load_disabled", "1");
    setKernel("/proc/sys/kernel/unprivileged_bpf_disabled", "2");
    setKernel("/proc/sys/kernel/dmesg_restrict", "1");
    setKernel("/proc/sys/kernel/modules_disabled", "1");
    if (::mount(nullptr, "/", nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY,
                nullptr) != 0)
    {
        throwErrno("cannot make the root file system read-only");
    }
}

fs::path findPartition(const std::string& label, Milliseconds timeout)
{
    const Deadline deadline(timeout);
    for (;;)
    {
        std::vector<fs::path> found = partitionsNamed(label);
        if (found.size() > 1)
        {
            throw Error("several partitions are labelled " + label);
        }
        if (!found.empty() && fs::exists(found[0]))
        {
            return found[0];
        }
        if (deadline.passed())
        {
            throw Error("no disk has a partition that is labelled " + label);
        }
        std::this_thread::sleep_for(pollInterval);
    }
}

std::string findNic()
{
    std::string out;
    for (const auto& entry : fs::directory_iterator("/sys/class/net"))
    {
        if (!fs::exists(entry.path() / "device"))
        {
            continue;
        }
        if (!out.empty())
        {
            throw Error("this machine has several network cards: " + out +
                        ", " + entry.path().filename().string());
        }
        out = entry.path().filename().string();
    }
    return out;
}

void endMachine(PowerCycle how)
{
    ::sync();
    ::reboot(rebootCommand(how));
    // Only when this is not PID 1 of a machine.
    ::_exit(1);
}

void endMachineAfter(std::chrono::seconds limit, PowerCycle how)
{
    atTheLimit = rebootCommand(how);
    struct sigaction action = {};
    action.sa_handler = onLimit;
    if (::sigaction(SIGALRM, &action, nullptr) != 0)
    {
        throwErrno("cannot set a time limit");
    }
    ::alarm(static_cast<unsigned>(limit.count()));
}

} // namespace airlock::machine
