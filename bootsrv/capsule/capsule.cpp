#include "bootsrv/capsule/capsule.hpp"

#include "bootsrv/capsule/tap.hpp"
#include "bootsrv/isolate.hpp"
#include "bootsrv/machine/seal_store.hpp"
#include "common/file.hpp"
#include "common/socket.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
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
constexpr auto pollStep = std::chrono::milliseconds(20);
constexpr std::size_t maxTable = 2 * mebibyte;

/** Images of disks whose tables are put back, and where those are. */
constexpr std::array<std::pair<const char*, const char*>, 2> tables = {{
    {"data.img", "data.tables"},
    {"staging.img", "staging.tables"},
}};
constexpr const char* imageDiskName = "boot.img";
/** Of the site, for clean mode. */
constexpr const char* rotationFile = "rotate.json";
constexpr std::size_t maxRequest = 16U << 10;
constexpr const char* tpmDirectory = "tpm";
/** Empty; where QEMU works. */
constexpr const char* runDirectory = "run";
constexpr auto mayEnter = static_cast<fs::perms>(0755);
constexpr auto mayRead = static_cast<fs::perms>(0444);
/** Longer than what a TPM keeps. */
constexpr std::uint64_t tpmFile = 16 * mebibyte;

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

/** The first and the last MiB of a disk, where the tables are. */
void saveTables(const fs::path& image, const fs::path& to)
{
    UniqueFd disk = openFile(image, O_RDONLY);
    Bytes both = readAt(disk.get(), mebibyte, 0);
    const Bytes last =
        readAt(disk.get(), mebibyte, fileSize(disk.get()) - mebibyte);
    both.insert(both.end(), last.begin(), last.end());
    writeFileAtomic(to, both, 0600);
}

void putTablesBack(const fs::path& image, const fs::path& from)
{
    const Bytes both = readFile(from, maxTable);
    UniqueFd disk = openFile(image, O_WRONLY);
    const ByteView view(both);
    writeAllAt(disk.get(), view.first(mebibyte), 0);
    writeAllAt(disk.get(), view.subspan(mebibyte),
               fileSize(disk.get()) - mebibyte);
}

/** A TPM as it leaves its maker, with a certificate for its endorsement key of
 * an authority that this capsule has for itself. */
void makeTpm(const fs::path& directory)
{
    const fs::path ca = directory / "tpm-authority";
    fs::create_directory(ca);
    fs::create_directory(directory / tpmDirectory);
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
        "--tpmstate",       directory / tpmDirectory,
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

std::pair<UniqueFd, UniqueFd> makePipe()
{
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
    {
        throwErrno("cannot make a pipe");
    }
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

/** A command line of QEMU whose files are open already: it needs no path, and
 * gets nothing but them. */
class QemuCommand
{
  public:
    std::vector<std::string> argv;

    void add(std::vector<std::string> words)
    {
        argv.insert(argv.end(), std::make_move_iterator(words.begin()),
                    std::make_move_iterator(words.end()));
    }
    /** Its number, for an option that takes it. */
    int pass(UniqueFd fd)
    {
        const int out = fd.get();
        fds_.push_back(std::move(fd));
        return out;
    }
    /** What QEMU calls the file. It opens what it writes for reading first. */
    std::string file(const fs::path& path, bool writes)
    {
        const int set = pass(openFile(path, O_RDONLY));
        add({"-add-fd", fmt::format("set={0},fd={0}", set)});
        if (writes)
        {
            const int both = pass(openFile(path, O_RDWR));
            add({"-add-fd", fmt::format("set={},fd={}", set, both)});
        }
        return fmt::format("/dev/fdset/{}", set);
    }
    /** A disk of the machine. */
    void disk(const char* id, const fs::path& path, bool writes)
    {
        add({"-drive",
             fmt::format("if=none,id={},format=raw,readonly={},discard=unmap{},"
                         "file={}",
                         id, writes ? "off" : "on", toGuest,
                         file(path, writes)),
             "-device", fmt::format("virtio-blk-pci,drive={}", id)});
    }
    void flash(int unit, const fs::path& path, bool writes)
    {
        add({"-drive",
             fmt::format("if=pflash,unit={},format=raw,readonly={},file={}",
                         unit, writes ? "off" : "on", file(path, writes))});
    }

    std::vector<int> fds() const
    {
        std::vector<int> out;
        for (const UniqueFd& fd : fds_)
        {
            out.push_back(fd.get());
        }
        return out;
    }

  private:
    std::vector<UniqueFd> fds_;
};

void addMachine(QemuCommand& to, const CapsuleOptions& options)
{
    to.add({options.qemu,
            "-name",
            "airlock-capsule",
            "-machine",
            "q35,smm=on,accel=" + options.accelerator,
            "-cpu",
            options.cpu,
            "-m",
            std::to_string(options.memoryMiB),
            "-smp",
            std::to_string(options.cpus),
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny",
            "-global",
            "driver=cfi.pflash01,property=secure,value=on"});
    // The firmware needs no network; what it said to one of its own accord
    // would come from an address that the switch does not allow.
    for (const char* version : {"IPv4", "IPv6"})
    {
        to.add({"-fw_cfg",
                fmt::format("name=opt/org.tianocore/{}Support,string=no",
                            version)});
    }
}

} // namespace

RunningMode::RunningMode(fs::path directory, CapsuleOptions options,
                         ModeParts parts, UniqueFd lock)
    : directory_(std::move(directory)), options_(std::move(options)),
      parts_(parts), lock_(std::move(lock))
{
    UniqueFd ours;
    if (parts_.tpm)
    {
        auto [qemus, tpms] = socketPair();
        startTpm(std::move(tpms));
        ours = std::move(qemus);
    }
    try
    {
        startQemu(std::move(ours));
    }
    catch (...)
    {
        kill();
        throw;
    }
}

RunningMode::~RunningMode()
{
    kill();
}

ExitStatus RunningMode::end(Process& process) const
{
    if (!options_.fence)
    {
        return process.kill();
    }
    // It is the one that waits until all behind the fence have gone.
    process.signal(SIGTERM);
    std::optional<ExitStatus> out;
    while (!out)
    {
        out = process.wait(std::chrono::hours(1));
    }
    return *out;
}

void RunningMode::kill()
{
    if (qemu_)
    {
        end(*qemu_);
    }
    if (tpm_)
    {
        end(*tpm_);
    }
    if (reader_.joinable())
    {
        reader_.join();
    }
}

void RunningMode::addFence(SpawnOptions& to, const Fence::Room& room) const
{
    if (options_.fence)
    {
        options_.fence->putAround(to, room);
    }
    else
    {
        to.workingDirectory = room.directory;
    }
}

void RunningMode::startTpm(UniqueFd control)
{
    SpawnOptions options;
    options.argv = {"swtpm",
                    "socket",
                    "--tpm2",
                    "--tpmstate",
                    "dir=.",
                    "--ctrl",
                    fmt::format("type=unixio,clientfd={}", control.get()),
                    "--terminate"};
    options.inheritFds = {control.get()};
    options.stdoutFd = -1;
    // It says a line when QEMU goes, too.
    const UniqueFd said =
        openFile(directory_ / "tpm.log", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    options.stderrFd = said.get();
    addFence(options, {.directory = directory_ / tpmDirectory,
                       .mayWrite = true,
                       .fileBytes = tpmFile});
    tpm_.emplace(options);
}

void RunningMode::startQemu(UniqueFd tpm)
{
    QemuCommand command;
    addMachine(command, options_);
    command.flash(0, options_.firmware, false);
    command.flash(1, directory_ / "vars.run", true);
    command.disk("boot", directory_ / imageDiskName, parts_.writesImages);
    if (parts_.data)
    {
        command.disk("data", directory_ / "data.img", true);
    }
    command.disk("staging", directory_ / "staging.img", true);
    if (tpm)
    {
        command.add(
            {"-chardev",
             fmt::format("socket,id=tpm,fd={}", command.pass(std::move(tpm))),
             "-tpmdev", "emulator,id=tpm,chardev=tpm", "-device",
             "tpm-crb,tpmdev=tpm"});
    }
    command.add({"-chardev", "stdio,id=console,signal=off", "-serial",
                 "chardev:console"});
    fs::remove(qmpSocket());
    command.add({"-chardev",
                 fmt::format("socket,id=qmp,server=on,wait=off,fd={}",
                             command.pass(listenUnix(qmpSocket()))),
                 "-mon", "chardev=qmp,mode=control"});
    // Dirty mode: the switch has shut its port; without a card there is nothing
    // that could send. What clean mode is sealed to is measured in a start with
    // the card, and not changed by one without.
    if (!options_.tap.empty() && parts_.network)
    {
        command.add({"-netdev",
                     fmt::format("tap,id=net,fd={}",
                                 command.pass(openTap(options_.tap))),
                     "-device", "virtio-net-pci,netdev=net,romfile="});
    }
    auto [from, to] = makePipe();
    SpawnOptions options;
    options.argv = command.argv;
    options.inheritFds = command.fds();
    options.stdoutFd = to.get();
    addFence(options, {.directory = directory_ / runDirectory,
                       .fileBytes = fs::file_size(directory_ / "staging.img")});
    qemu_.emplace(options);
    to.reset();
    UniqueFd file =
        openFile(directory_ / "console", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    reader_ = std::jthread(
        [this, fd = std::move(from), to = std::move(file)]() mutable {
            readConsole(std::move(fd), std::move(to));
        });
}

void RunningMode::readConsole(UniqueFd from, UniqueFd file)
{
    std::array<char, 4096> buffer{};
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

fs::path RunningMode::qmpSocket() const
{
    return directory_ / "qmp.sock";
}

QmpClient RunningMode::qmp() const
{
    return QmpClient::connect(qmpSocket());
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
        std::this_thread::sleep_for(pollStep);
    }
}

ModeEnd RunningMode::finish(Milliseconds limit)
{
    ModeEnd out;
    const auto status = qemu_->wait(limit);
    out.timedOut = !status;
    out.status = status ? *status : end(*qemu_);
    // It ends by itself when QEMU has gone, after it wrote its state.
    if (tpm_)
    {
        tpm_->wait(std::chrono::seconds(10));
    }
    kill();
    out.console = console();
    // Dirty mode is not asked, and may have left no variables at all.
    out.dirtyNext =
        !parts_.dirty && !out.timedOut &&
        isNext(readFile(directory_ / "vars.run", VariableStore::maxFile),
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
    makeImageDisk(home / imageDiskName, parts.images);
    makeDataDisk(home / "data.img");
    makeStagingDisk(home / "staging.img", parts.stagingSize);
    for (const auto& [image, saved] : tables)
    {
        saveTables(home / image, home / saved);
    }
    const Bytes variables = makeVariables(
        readFile(parts.emptyVariables, VariableStore::maxFile), parts.keys);
    writeFileAtomic(home / pristineVariables, variables, 0600);
    writeFileAtomic(home / "vars.run", variables, 0600);
    makeTpm(home);
    return Capsule(home);
}

Capsule::Capsule(fs::path directory)
    : directory_(fs::absolute(directory)), layout_(dataLayout())
{
    UniqueFd disk = openFile(stagingDisk(), O_RDONLY);
    const DiskLayout staging = stagingLayout(fileSize(disk.get()));
    layout_.staging = staging.staging;
    layout_.stagingSize = staging.stagingSize;
}

UniqueFd Capsule::lock() const
{
    UniqueFd out = openFile(directory_ / "lock", O_RDWR | O_CREAT, 0600);
    if (::flock(out.get(), LOCK_EX | LOCK_NB) != 0)
    {
        throw Refused(directory_.string(), "is at work");
    }
    return out;
}

void Capsule::restoreTables() const
{
    for (const auto& [image, saved] : tables)
    {
        putTablesBack(directory_ / image, directory_ / saved);
    }
}

RunningMode Capsule::start(const CapsuleOptions& options, bool dirty)
{
    UniqueFd held = lock();
    if (!options.keepAll)
    {
        restoreTables();
        if (!dirty)
        {
            copyFile(directory_ / pristineVariables, variables());
        }
    }
    if (!dirty)
    {
        deliver();
    }
    fs::remove_all(directory_ / runDirectory);
    fs::create_directory(directory_ / runDirectory);
    fs::permissions(directory_ / runDirectory, mayEnter);
    const bool all = !dirty || options.dirtyHasAll || options.keepAll;
    return RunningMode(directory_, options,
                       {.dirty = dirty,
                        .network = !dirty || options.keepCard,
                        .tpm = all,
                        .data = all,
                        .writesImages = options.keepAll},
                       std::move(held));
}

void Capsule::leave(const machine::RotationRequest& request) const
{
    const fs::path file = directory_ / rotationFile;
    const fs::path next = file.string() + ".next";
    writeFileAtomic(next, dumpJson(request.toJson()), 0600);
    // Who keeps the capsule at work has to read it, and is not always us; as
    // soon as it has its name it is read.
    struct stat home = {};
    if (::stat(directory_.c_str(), &home) != 0 ||
        ::lchown(next.c_str(), home.st_uid, home.st_gid) != 0)
    {
        throwErrno("cannot give " + next.string() + " to the capsule's user");
    }
    fs::rename(next, file);
    syncDirectory(directory_);
}

/** The data disk is clean mode's while that runs. */
void Capsule::deliver() const
{
    const fs::path file = directory_ / rotationFile;
    if (!fs::exists(file))
    {
        return;
    }
    const Json json = parseJson(readTextFile(file, maxRequest), file.string());
    const machine::SealStore store(dataDisk(), layout_.seal);
    machine::SealRecord record = store.read();
    record.rotation =
        machine::RotationRequest::parse(JsonField(json, file.string()));
    store.write(record);
    fs::remove(file);
}

ModeEnd Capsule::run(const CapsuleOptions& options, bool dirty,
                     Milliseconds limit)
{
    RunningMode mode = start(options, dirty);
    return mode.finish(limit);
}

void Capsule::replaceImages(const BootImages& images,
                            const std::function<void()>& prepare)
{
    const UniqueFd held = lock();
    if (prepare)
    {
        prepare();
    }
    const fs::path next = directory_ / "boot.img.next";
    makeImageDisk(next, images);
    fs::permissions(next, fs::status(imageDisk()).permissions());
    fs::rename(next, imageDisk());
    syncDirectory(directory_);
}

void giveFile(const fs::path& file, const std::string& user)
{
    if (user.empty() || ::geteuid() != 0)
    {
        return;
    }
    const boot::Isolation::User who = boot::findUser(user);
    if (::lchown(file.c_str(), who.id, who.group) != 0)
    {
        throwErrno("cannot give " + file.string() + " to " + user);
    }
}

void giveCapsule(const fs::path& directory, const std::string& user)
{
    giveFile(directory, user);
    for (const auto& entry : fs::recursive_directory_iterator(directory))
    {
        giveFile(entry.path(), user);
    }
    for (const char* name : {imageDiskName, pristineVariables})
    {
        giveFile(directory / name, "root");
        fs::permissions(directory / name, mayRead);
    }
}

} // namespace airlock::capsule
