#include "bootsrv/capsule/capsule.hpp"

#include "common/file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

namespace airlock::capsule
{

namespace
{

namespace fs = std::filesystem;

constexpr std::size_t keptConsole = 256U << 10;
/** The file for people: what comes first counts there. */
constexpr std::size_t maxConsoleFile = 1U << 20;
constexpr auto tpmTime = std::chrono::minutes(1);
constexpr auto poll = std::chrono::milliseconds(20);
constexpr std::size_t maxTable = 2 * mebibyte;

constexpr const char* tables = "data.tables";

/** What goes wrong with a disk is told to the guest, which fails and ends:
 * QEMU's own way with a host that has no room left is to stop the guest and
 * wait for somebody, and here nobody comes. */
constexpr const char* toGuest = ",werror=report,rerror=report";

Bytes readAt(int fd, std::uint64_t size, std::uint64_t offset)
{
    Bytes out(size);
    readExactAt(fd, out, offset);
    return out;
}

/** The first and the last MiB of the data disk, where the tables are. */
void saveTables(const fs::path& directory)
{
    UniqueFd disk = openFile(directory / "data.img", O_RDONLY);
    Bytes both = readAt(disk.get(), mebibyte, 0);
    const Bytes last =
        readAt(disk.get(), mebibyte, fileSize(disk.get()) - mebibyte);
    both.insert(both.end(), last.begin(), last.end());
    writeFileAtomic(directory / tables, both, 0600);
}

/** A TPM as it leaves its maker, with a certificate for its endorsement key of
 * an authority that this capsule has for itself. */
void makeTpm(const fs::path& directory)
{
    const fs::path ca = directory / "tpm-authority";
    fs::create_directory(ca);
    fs::create_directory(directory / "tpm");
    writeFileAtomic(ca / "localca.conf",
                    fmt::format("statedir = {0}\nsigningkey = {0}/key.pem\n"
                                "issuercert = {0}/authority.pem\n"
                                "certserial = {0}/serial\n",
                                ca.string()));
    writeFileAtomic(ca / "localca.options", std::string_view());
    writeFileAtomic(ca / "setup.conf",
                    fmt::format("create_certs_tool = swtpm_localca\n"
                                "create_certs_tool_config = {0}/localca.conf\n"
                                "create_certs_tool_options = "
                                "{0}/localca.options\n",
                                ca.string()));
    SpawnOptions options;
    options.argv = {
        "swtpm_setup",      "--tpm2",
        "--tpmstate",       directory / "tpm",
        "--config",         ca / "setup.conf",
        "--create-ek-cert", "--lock-nvram",
        "--pcr-banks",      "sha256",
        "--vmid",           "airlock:" + directory.filename().string()};
    const ProcessOutput output = runProgram(options, tpmTime);
    if (!output.status.ok())
    {
        throw Error("swtpm_setup: " + output.status.describe() + ": " +
                    output.out + output.err);
    }
}

void copyFile(const fs::path& from, const fs::path& to)
{
    writeFileAtomic(to, readFile(from, VariableStore::maxFile), 0600);
}

std::string tail(const std::string& text, std::size_t size)
{
    return text.size() <= size ? text : text.substr(text.size() - size);
}

} // namespace

RunningMode::RunningMode(fs::path directory, CapsuleOptions options)
    : directory_(std::move(directory)), options_(std::move(options))
{
    startTpm();
    startQemu();
}

RunningMode::~RunningMode()
{
    kill();
}

void RunningMode::kill()
{
    if (qemu_)
    {
        qemu_->kill();
    }
    if (tpm_)
    {
        tpm_->kill();
    }
    if (reader_.joinable())
    {
        reader_.join();
    }
}

void RunningMode::startTpm()
{
    const fs::path control = directory_ / "tpm.sock";
    fs::remove(control);
    SpawnOptions options;
    options.argv = {"swtpm",
                    "socket",
                    "--tpm2",
                    "--tpmstate",
                    "dir=" + (directory_ / "tpm").string(),
                    "--ctrl",
                    "type=unixio,path=" + control.string(),
                    "--terminate"};
    options.stdoutFd = -1;
    // It says a line when QEMU goes, too.
    const UniqueFd said =
        openFile(directory_ / "tpm.log", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    options.stderrFd = said.get();
    tpm_.emplace(options);
    const Deadline deadline(tpmTime);
    while (!fs::exists(control))
    {
        if (deadline.passed() || !tpm_->running())
        {
            throw Error("the software TPM (swtpm) does not start: see " +
                        (directory_ / "tpm.log").string());
        }
        std::this_thread::sleep_for(poll);
    }
}

void RunningMode::startQemu()
{
    const auto file = [this](const char* name) {
        return (directory_ / name).string();
    };
    const fs::path qmpSocket = directory_ / "qmp.sock";
    fs::remove(qmpSocket);
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
    {
        throwErrno("cannot make a pipe");
    }
    UniqueFd from(ends[0]);
    UniqueFd to(ends[1]);
    SpawnOptions options;
    options.argv = {
        options_.qemu,
        "-name",
        "airlock-capsule",
        "-machine",
        "q35,smm=on,accel=" + options_.accelerator,
        "-cpu",
        options_.cpu,
        "-m",
        std::to_string(options_.memoryMiB),
        "-smp",
        std::to_string(options_.cpus),
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny",
        "-global",
        "driver=cfi.pflash01,property=secure,value=on",
        "-drive",
        "if=pflash,unit=0,format=raw,readonly=on,file=" +
            options_.firmware.string(),
        "-drive",
        "if=pflash,unit=1,format=raw,file=" + file("vars.run"),
        "-drive",
        fmt::format("if=none,id=boot,format=raw,readonly={}{},file={}",
                    options_.keepAll ? "off" : "on", toGuest, file("boot.img")),
        "-device",
        "virtio-blk-pci,drive=boot",
        "-drive",
        fmt::format("if=none,id=data,format=raw,discard=unmap{},file={}",
                    toGuest, file("data.img")),
        "-device",
        "virtio-blk-pci,drive=data",
        "-chardev",
        "socket,id=tpm,path=" + file("tpm.sock"),
        "-tpmdev",
        "emulator,id=tpm,chardev=tpm",
        "-device",
        "tpm-crb,tpmdev=tpm",
        "-chardev",
        "stdio,id=console,signal=off",
        "-serial",
        "chardev:console",
        "-qmp",
        "unix:" + qmpSocket.string() + ",server=on,wait=off",
    };
    if (!options_.tap.empty())
    {
        options.argv.insert(
            options.argv.end(),
            {"-netdev",
             "tap,id=net,script=no,downscript=no,ifname=" + options_.tap,
             "-device", "virtio-net-pci,netdev=net,romfile="});
    }
    options.stdoutFd = to.get();
    qemu_.emplace(options);
    to.reset();
    reader_ = std::jthread(
        [this, fd = std::move(from)]() mutable { readConsole(std::move(fd)); });
}

void RunningMode::readConsole(UniqueFd from)
{
    std::array<char, 4096> buffer{};
    const UniqueFd file =
        openFile(directory_ / "console", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    std::size_t filed = 0;
    for (;;)
    {
        const ssize_t got = ::read(from.get(), buffer.data(), buffer.size());
        if (got < 0 && errno == EINTR)
        {
            continue;
        }
        if (got <= 0)
        {
            return;
        }
        const auto size = static_cast<std::size_t>(got);
        if (filed + size <= maxConsoleFile)
        {
            const ssize_t done = ::write(file.get(), buffer.data(), size);
            filed += done > 0 ? static_cast<std::size_t>(done) : 0;
        }
        const std::lock_guard lock(mutex_);
        console_.append(buffer.data(), size);
        if (console_.size() > 2 * keptConsole)
        {
            console_.erase(0, console_.size() - keptConsole);
        }
    }
}

std::string RunningMode::console() const
{
    const std::lock_guard lock(mutex_);
    return tail(console_, keptConsole);
}

QmpClient RunningMode::qmp() const
{
    return QmpClient::connect(directory_ / "qmp.sock");
}

void RunningMode::waitForConsole(const std::string& text, Milliseconds limit)
{
    const Deadline deadline(limit);
    for (;;)
    {
        const bool alive = qemu_->running();
        const std::string said = console();
        if (said.find(text) != std::string::npos)
        {
            return;
        }
        if (!alive || deadline.passed())
        {
            throw TimedOut("the capsule did not say '" + text +
                           "'; its last words: " + tail(said, 2000));
        }
        std::this_thread::sleep_for(poll);
    }
}

ModeEnd RunningMode::finish(Milliseconds limit)
{
    ModeEnd out;
    const auto status = qemu_->wait(limit);
    out.timedOut = !status;
    out.status = status ? *status : qemu_->kill();
    // It ends by itself when QEMU has gone, after it wrote its state.
    if (!tpm_->wait(std::chrono::seconds(10)))
    {
        tpm_->terminate();
    }
    reader_.join();
    out.console = console();
    out.dirtyNext = !out.timedOut && isNext(readFile(directory_ / "vars.run",
                                                     VariableStore::maxFile),
                                            machine::Mode::dirty);
    return out;
}

Capsule Capsule::create(const fs::path& directory, const CapsuleParts& parts)
{
    if (!fs::create_directory(directory))
    {
        throw Refused(directory.string(), "is there already");
    }
    fs::permissions(directory, fs::perms::owner_all);
    const fs::path home = fs::absolute(directory);
    makeImageDisk(home / "boot.img", parts.images);
    makeDataDisk(home / "data.img", parts.stagingSize);
    saveTables(home);
    const Bytes variables = makeVariables(
        readFile(parts.emptyVariables, VariableStore::maxFile), parts.keys);
    writeFileAtomic(home / pristineVariables, variables, 0600);
    writeFileAtomic(home / "vars.run", variables, 0600);
    makeTpm(home);
    return Capsule(home);
}

Capsule::Capsule(fs::path directory) : directory_(fs::absolute(directory))
{
    UniqueFd disk = openFile(dataDisk(), O_RDONLY);
    layout_ = layoutOf(fileSize(disk.get()), false);
}

void Capsule::restoreTables() const
{
    const Bytes both = readFile(directory_ / tables, maxTable);
    UniqueFd disk = openFile(dataDisk(), O_WRONLY);
    const ByteView view(both);
    writeAllAt(disk.get(), view.first(mebibyte), 0);
    writeAllAt(disk.get(), view.subspan(mebibyte),
               fileSize(disk.get()) - mebibyte);
}

RunningMode Capsule::start(const CapsuleOptions& options, bool dirty)
{
    if (!options.keepAll)
    {
        restoreTables();
        if (!dirty)
        {
            copyFile(directory_ / pristineVariables, variables());
        }
    }
    CapsuleOptions machine = options;
    if (dirty && !options.keepCard)
    {
        // The switch has shut its port; without a card there is nothing that
        // could send. What clean mode is sealed to is measured in a start with
        // the card, and not changed by one without.
        machine.tap.clear();
    }
    return RunningMode(directory_, std::move(machine));
}

ModeEnd Capsule::run(const CapsuleOptions& options, bool dirty,
                     Milliseconds limit)
{
    RunningMode mode = start(options, dirty);
    return mode.finish(limit);
}

void Capsule::replaceImages(const BootImages& images)
{
    const fs::path next = directory_ / "boot.img.next";
    makeImageDisk(next, images);
    fs::rename(next, imageDisk());
}

} // namespace airlock::capsule
