#include "bootsrv/boot_run.hpp"

#include "bootsrv/isolate.hpp"
#include "bootsrv/job.hpp"
#include "common/error.hpp"
#include "common/file.hpp"
#include "devmodel/vm/boot_vm.hpp"

#include <CLI/CLI.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>

namespace airlock::boot
{

namespace fs = std::filesystem;

namespace
{

constexpr std::size_t requestMax = 2U << 20;
constexpr std::uint64_t logMax = 16U << 20;

struct Options
{
    fs::path qemu;
    fs::path data;
    std::string firmware;
    std::string user;
    fs::path hidden;
    fs::path run;
};

/** Tells the clean side. */
void say(const std::string& what)
{
    std::printf("%s\n", what.c_str());
    std::fflush(stdout);
}

JobRequest readRequest(const fs::path& run)
{
    return JobRequest::parse(readTextFile(run / runRequestName, requestMax));
}

Isolation isolationFor(const Options& options, const JobRequest& request)
{
    Isolation out;
    out.runDirectory = options.run;
    out.hidden = options.hidden;
    out.fileBytes = std::max(request.guest.memory, logMax);
    for (const DiskShape& disk : request.disks)
    {
        out.fileBytes = std::max(out.fileBytes, disk.bytes);
    }
    if (!options.user.empty())
    {
        out.user = findUser(options.user);
    }
    return out;
}

vm::GuestSpec specFor(const Options& options, const JobRequest& request)
{
    vm::GuestSpec spec = request.guest;
    for (std::size_t i = 0; i < request.disks.size(); i++)
    {
        spec.disks.push_back(
            {options.run / runDiskName(i), request.disks[i].readOnly});
    }
    return spec;
}

void writeResult(const Options& options, const vm::GuestSpec& spec,
                 const vm::BootedGuest& guest)
{
    UniqueFd state =
        openFile(options.run / runStateName, O_WRONLY | O_CREAT | O_EXCL, 0600);
    writeAll(state.get(), guest.state);
    UniqueFd memory =
        openFile(options.run / runMemoryName, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (::ftruncate(memory.get(), static_cast<off_t>(spec.memory)) != 0)
    {
        throwErrno("cannot write the guest's memory");
    }
    copySparse(guest.memory.get(), memory.get(), spec.memory);
}

void boot(const Options& options)
{
    JobRequest request = readRequest(options.run);
    for (const std::string& part : isolate(isolationFor(options, request)))
    {
        say("without " + part);
    }
    say("stage start");
    vm::Qemu qemu = vm::findQemu(options.qemu);
    qemu.data = options.data;
    vm::BootOptions bootOptions = request.options;
    if (!options.firmware.empty())
    {
        bootOptions.firmware = options.firmware;
    }
    vm::GuestSpec spec = specFor(options, request);
    vm::BootVm machine(qemu, spec, bootOptions, options.run / runLogName);
    say("stage boot");
    machine.waitBooted(vm::parseBootedPolicy(request.policy), request.timeout);
    say("stage save");
    machine.save();
    vm::BootedGuest guest = machine.end();
    say("stage memory");
    writeResult(options, spec, guest);
}

int report(const std::exception& error, int code)
{
    fmt::print(stderr, "{}\n", error.what());
    return code;
}

} // namespace

int bootRun(int argc, const char* const* argv)
{
    // airlock-bootd has some blocked; QEMU must not.
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    Options options;
    CLI::App app("Boots the guest of one job; started by airlock-bootd only.",
                 "airlock-bootrun");
    app.add_option("--qemu", options.qemu, "QEMU of the boot build")
        ->required();
    app.add_option("--data", options.data, "directory of its firmware");
    app.add_option("--firmware", options.firmware, "instead of SeaBIOS");
    app.add_option("--user", options.user, "become this user");
    app.add_option("--hide", options.hidden, "directory to make empty");
    app.add_option("RUNDIR", options.run, "what to work on")->required();
    try
    {
        app.parse(argc, argv);
    }
    catch (const CLI::ParseError& error)
    {
        return app.exit(error) == 0 ? bootDone : bootUsage;
    }
    try
    {
        boot(options);
        return bootDone;
    }
    catch (const TimedOut& error)
    {
        return report(error, bootTimedOut);
    }
    catch (const SystemError& error)
    {
        bool full = error.code() == ENOSPC || error.code() == EDQUOT;
        return report(error, full ? bootNoSpace : bootFailed);
    }
    catch (const std::exception& error)
    {
        return report(error, bootFailed);
    }
}

} // namespace airlock::boot
