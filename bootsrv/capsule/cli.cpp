#include "bootsrv/capsule/cli.hpp"

#include "bootsrv/capsule/enrol.hpp"
#include "bootsrv/capsule/pool.hpp"
#include "bootsrv/qemu_facts.hpp"
#include "common/control_client.hpp"
#include "common/file.hpp"
#include "common/log.hpp"
#include "common/stop_signals.hpp"
#include "common/table.hpp"

#include <CLI/CLI.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <array>
#include <functional>
#include <string_view>

namespace airlock::capsule
{

namespace
{

namespace fs = std::filesystem;

constexpr int exitError = 1;
constexpr int exitUsage = 2;
constexpr std::size_t maxText = 1U << 20;

struct Options
{
    fs::path directory;
    fs::path disk;
    BootImages images;
    fs::path before;
    fs::path site;
    fs::path policyKey;
    fs::path addressRoot;
    fs::path config;
    std::string name = "boot-host";
    std::uint64_t generation = 1;
    std::uint64_t stagingMiB = 8192;
    unsigned bootSeconds = 300;
    unsigned cleanSeconds = 86400;
    unsigned dirtySeconds = 1800;
    bool retire = false;
    bool force = false;
    bool json = false;
    CapsuleOptions machine;
};

trust::Key policyKeyOf(const Options& options)
{
    return trust::privateKeyFromPem(readTextFile(options.policyKey, maxText),
                                    options.policyKey.string());
}

machine::EnrolmentRequest requestOf(const Options& options)
{
    return requestFrom(options.name, options.addressRoot, options.config);
}

void create(const Options& options)
{
    CapsuleParts parts;
    parts.images = options.images;
    parts.keys = keysIn(options.site);
    parts.stagingSize = options.stagingMiB * mebibyte;
    Capsule::create(options.directory, parts);
    fmt::print("{}: made; enrol it next\n", options.directory.string());
}

void enroll(const Options& options)
{
    Capsule capsule(options.directory);
    const trust::Key key = policyKeyOf(options);
    enrollCapsule(capsule, options.machine,
                  {key, options.images.clean, options.generation},
                  requestOf(options),
                  std::chrono::seconds(options.bootSeconds));
    fmt::print("{}: enrolled as {}\n", options.directory.string(),
               options.name);
}

/** Has the capsule open its secrets with its new images. */
void approveImages(const Options& options, const Capsule& capsule)
{
    const machine::SealStore store = sealStoreOf(capsule);
    machine::SealRecord record = store.read();
    record.policies.push_back(
        approveUpdate(policyKeyOf(options), record.log, options.before,
                      options.images.clean, options.name, options.generation));
    record.retireOld = options.retire;
    store.write(record);
}

void update(const Options& options)
{
    Capsule capsule(options.directory);
    capsule.replaceImages(options.images,
                          [&] { approveImages(options, capsule); });
    fmt::print("{}: generation {} is next\n", options.directory.string(),
               options.generation);
}

void run(const Options& options)
{
    const StopSignals signals;
    Capsule capsule(options.directory);
    SupervisorLimits limits;
    limits.clean = std::chrono::seconds(options.cleanSeconds);
    limits.dirty = std::chrono::seconds(options.dirtySeconds);
    Supervisor(options.directory.filename().string(),
               starter(capsule, options.machine), limits)
        .run(signals.token());
}

void serve(const Options& options)
{
    servePool(readPoolConfig(options.config));
}

void make(const Options& options)
{
    const trust::Key key = policyKeyOf(options);
    if (!makePool(readPoolConfig(options.config),
                  {key, options.generation,
                   std::chrono::seconds(options.bootSeconds)}))
    {
        throw Error("not all capsules were made");
    }
}

std::string textAt(const JsonField& object, std::string_view name)
{
    return object.at(name).string(maxText);
}

std::string numberAt(const JsonField& object, std::string_view name)
{
    return std::to_string(object.at(name).u64());
}

std::string tableOf(const JsonField& capsules)
{
    Table table({{"capsule"},
                 {"tap"},
                 {"mode"},
                 {"since (UTC)"},
                 {"starts", Table::Align::right},
                 {"jobs", Table::Align::right},
                 {"failures", Table::Align::right},
                 {"how the last mode ended"}});
    for (std::size_t i = 0; i < capsules.arraySize(); i++)
    {
        const JsonField it = capsules.element(i);
        table.row({textAt(it, "name"), textAt(it, "tap"),
                   it.find("stuck") ? "stuck" : textAt(it, "state"),
                   textAt(it, "since"), numberAt(it, "starts"),
                   numberAt(it, "runs"), numberAt(it, "failures"),
                   textAt(it, "reason")});
    }
    return table.render();
}

void list(const Options& options)
{
    control::Client client(
        readPoolConfig(options.config).socket,
        {"the pool of capsules", "airlock-bootd capsule serve"});
    const Json status = client.call("status");
    if (options.json)
    {
        fmt::print("{}\n", dumpJson(status));
        return;
    }
    fmt::print("{}", tableOf(JsonField(status, "status").at("capsules")));
}

std::uint64_t sizeOf(const fs::path& disk)
{
    UniqueFd fd = openFile(disk, O_RDONLY);
    struct stat info = {};
    if (::fstat(fd.get(), &info) != 0)
    {
        throwErrno("cannot look at " + disk.string());
    }
    std::uint64_t size = static_cast<std::uint64_t>(info.st_size);
    if (S_ISBLK(info.st_mode) && ::ioctl(fd.get(), BLKGETSIZE64, &size) != 0)
    {
        throwErrno("cannot tell the size of " + disk.string());
    }
    return size;
}

void install(const Options& options)
{
    if (!options.force)
    {
        throw Refused(options.disk.string(),
                      "all that is on it would be lost: say --erase if that "
                      "is what you want");
    }
    const DiskLayout layout = layoutOf(sizeOf(options.disk));
    writeTable(options.disk, layout);
    writeImages(options.disk, layout, options.images);
    fmt::print("{}: installed, {} MiB for jobs; start it once to have it "
               "measured\n",
               options.disk.string(), layout.stagingSize / mebibyte);
}

/** For the image of clean mode, which has no QEMU that it could ask. KVM is
 * left out: whether the machine has it is not known here. */
void qemuFacts(const Options& options)
{
    boot::QemuFacts facts = boot::askQemu(fs::absolute(options.disk));
    facts.accelerators.erase("kvm");
    fmt::print("{}\n", dumpJson(facts.toJson()));
}

/** The site's part of an enrolment, for a disk whose machine is off. */
void approve(const Options& options)
{
    const DiskLayout layout = layoutOf(sizeOf(options.disk));
    const machine::SealStore store(options.disk, layout.seal);
    machine::SealRecord record = store.read();
    const trust::Key key = policyKeyOf(options);
    approveEnrolment(record, {key, options.images.clean, options.generation},
                     requestOf(options));
    store.write(record);
    fmt::print("{}: approved; the next start enrols the machine\n",
               options.disk.string());
}

/** Of a machine whose disk this is, which is off, or of a capsule. */
void rotate(const Options& options)
{
    const trust::Key key = policyKeyOf(options);
    if (fs::is_directory(options.disk))
    {
        const Capsule capsule(options.disk);
        capsule.leave(askForRotation(sealStoreOf(capsule).read(), key));
    }
    else
    {
        const machine::SealStore store(options.disk,
                                       layoutOf(sizeOf(options.disk)).seal);
        machine::SealRecord record = store.read();
        record.rotation = askForRotation(record, key);
        store.write(record);
    }
    fmt::print("{}: the next start of clean mode has a new address root, and "
               "tells the switch of it\n",
               options.disk.string());
}

using Command = std::function<void(const Options&)>;

void addImages(CLI::App& app, Options& options)
{
    app.add_option("--clean", options.images.clean, "Image of clean mode")
        ->required();
    app.add_option("--dirty", options.images.dirty, "Image of dirty mode")
        ->required();
}

void addKey(CLI::App& app, Options& options)
{
    app.add_option("--policy-key", options.policyKey,
                   "Private key that approves boot states (PEM)")
        ->required();
}

void addPolicyKey(CLI::App& app, Options& options)
{
    addKey(app, options);
    app.add_option("--generation", options.generation,
                   "Generation of the image")
        ->capture_default_str();
}

void addApproval(CLI::App& app, Options& options)
{
    addPolicyKey(app, options);
    app.add_option("--name", options.name, "Name of the boot host")
        ->capture_default_str();
}

void addBootTime(CLI::App& app, Options& options)
{
    app.add_option("--boot-time", options.bootSeconds,
                   "Seconds that a boot may take")
        ->capture_default_str();
}

void addRequest(CLI::App& app, Options& options)
{
    addApproval(app, options);
    app.add_option("--address-root", options.addressRoot,
                   "Secret shared with the switch: 64 hexadecimal digits; "
                   "made when it is missing")
        ->required();
    app.add_option("--config", options.config,
                   "What clean mode has to know (JSON)")
        ->required();
    app.add_option("--clean", options.images.clean,
                   "Image of clean mode that the machine has to have measured")
        ->required();
}

void addMachine(CLI::App& app, Options& options)
{
    CapsuleOptions& machine = options.machine;
    app.add_option("--qemu", machine.qemu, "QEMU of this host")
        ->capture_default_str();
    app.add_option("--firmware", machine.firmware, "OVMF with Secure Boot")
        ->capture_default_str();
    app.add_option("--accel", machine.accelerator, "Accelerator")
        ->capture_default_str();
    app.add_option("--cpu", machine.cpu, "CPU model")->capture_default_str();
    app.add_option("--memory", machine.memoryMiB, "Memory in MiB")
        ->capture_default_str()
        ->check(CLI::Range(512U, 1U << 20));
    app.add_option("--cpus", machine.cpus, "Processors")
        ->capture_default_str()
        ->check(CLI::Range(1U, 64U));
    app.add_option("--tap", machine.tap,
                   "Tap device that is a port of the switch");
}

CLI::App& add(CLI::App& app, const char* name, const char* help, Command action,
              Command& chosen)
{
    CLI::App* out = app.add_subcommand(name, help);
    out->callback([&chosen, action = std::move(action)] { chosen = action; });
    return *out;
}

/** Those of several capsules at once. */
void addPoolCommands(CLI::App& capsule, Options& options, Command& chosen)
{
    const auto config = [&options](CLI::App& to) {
        options.config = defaultPoolConfig;
        to.add_option("--config", options.config, "Configuration (TOML)")
            ->capture_default_str();
    };
    CLI::App& made =
        add(capsule, "make", "Make and enrol those that are not there", make,
            chosen);
    config(made);
    addPolicyKey(made, options);
    addBootTime(made, options);
    config(add(capsule, "serve", "Keep them at work", serve, chosen));
    CLI::App& listed =
        add(capsule, "list", "Show what those at work do", list, chosen);
    config(listed);
    listed.add_flag("--json", options.json, "As JSON");
}

void addCapsuleCommands(CLI::App& app, Options& options, Command& chosen)
{
    CLI::App* capsule =
        app.add_subcommand("capsule", "Boot hosts that are virtual machines");
    capsule->require_subcommand(1);
    const auto directory = [&options](CLI::App& to) {
        to.add_option("DIR", options.directory, "Directory of the capsule")
            ->required();
    };
    CLI::App& made = add(*capsule, "create", "Make one", create, chosen);
    directory(made);
    addImages(made, options);
    made.add_option("--site", options.site,
                    "Directory with platform.crt, exchange.crt, images.crt")
        ->required();
    made.add_option("--staging", options.stagingMiB, "MiB for a job's data")
        ->capture_default_str();

    CLI::App& enrolled =
        add(*capsule, "enroll", "Boot it twice: measure, then seal its secrets",
            enroll, chosen);
    directory(enrolled);
    addRequest(enrolled, options);
    addMachine(enrolled, options);
    addBootTime(enrolled, options);

    CLI::App& updated =
        add(*capsule, "update", "Give it new images", update, chosen);
    directory(updated);
    addImages(updated, options);
    addApproval(updated, options);
    updated
        .add_option("--from", options.before, "The image of clean mode so far")
        ->required();
    updated.add_flag("--retire", options.retire,
                     "Lock out older images once the new one has run");

    CLI::App& running = add(*capsule, "run", "Keep it at work", run, chosen);
    directory(running);
    addMachine(running, options);
    running
        .add_option("--clean-limit", options.cleanSeconds,
                    "Seconds after which clean mode is started anew")
        ->capture_default_str()
        ->check(CLI::Range(60U, 1U << 30));
    running
        .add_option("--dirty-limit", options.dirtySeconds,
                    "Seconds that dirty mode may take")
        ->capture_default_str();
    addPoolCommands(*capsule, options, chosen);
}

void addInstallCommands(CLI::App& app, Options& options, Command& chosen)
{
    CLI::App& installed =
        add(app, "install", "Make a machine's disk that of a boot host",
            install, chosen);
    installed.add_option("DISK", options.disk, "Disk or image file")
        ->required();
    addImages(installed, options);
    installed.add_flag("--erase", options.force,
                       "All that is on the disk is lost");

    CLI::App& asked = add(app, "qemu-facts",
                          "Print what a QEMU can do, as boot images have it",
                          qemuFacts, chosen);
    asked.add_option("PROGRAM", options.disk, "QEMU")->required();

    CLI::App& approved = add(app, "approve",
                             "Approve what a new machine has measured and ask "
                             "it to enrol itself",
                             approve, chosen);
    approved.add_option("DISK", options.disk, "Its disk, or an image of it")
        ->required();
    addRequest(approved, options);

    CLI::App& rotated = add(app, "rotate",
                            "Have an enrolled boot host change the root of its "
                            "addresses, with its switch",
                            rotate, chosen);
    rotated
        .add_option("TARGET", options.disk,
                    "A capsule's directory, or the disk of a machine")
        ->required();
    addKey(rotated, options);
}

} // namespace

bool isToolCommand(int argc, const char* const* argv)
{
    static constexpr std::array<std::string_view, 5> names = {
        "install", "approve", "rotate", "capsule", "qemu-facts"};
    return argc > 1 &&
           std::find(names.begin(), names.end(), argv[1]) != names.end();
}

int runTool(int argc, const char* const* argv)
{
    CLI::App app("Disks of boot hosts, and boot hosts that are virtual "
                 "machines.",
                 "airlock-bootd");
    app.require_subcommand(1);
    Options options;
    Command chosen;
    addInstallCommands(app, options, chosen);
    addCapsuleCommands(app, options, chosen);
    try
    {
        app.parse(argc, argv);
    }
    catch (const CLI::ParseError& error)
    {
        return app.exit(error) == 0 ? 0 : exitUsage;
    }
    try
    {
        chosen(options);
        return 0;
    }
    catch (const std::exception& error)
    {
        log::error("The command failed", {{"REASON", error.what()}});
        return exitError;
    }
}

} // namespace airlock::capsule
