#include "devmodel/vm/qemu_argv.hpp"

#include "common/error.hpp"
#include "common/json.hpp"
#include "common/process.hpp"

#include <fmt/format.h>

#include <cstdlib>

namespace airlock::vm
{

namespace
{

constexpr std::uint64_t mib = 1U << 20;

using Argv = std::vector<std::string>;

void add(Argv& argv, std::string option, std::string value)
{
    argv.push_back(std::move(option));
    argv.push_back(std::move(value));
}

/** In a QEMU option value a comma is written twice. */
std::string escapeCommas(const std::string& text)
{
    std::string out;
    for (char c : text)
    {
        out += c;
        if (c == ',')
        {
            out += c;
        }
    }
    return out;
}

void addMachine(Argv& argv, const GuestSpec& spec, const std::string& machine)
{
    bool kvm = spec.accelerator == Accelerator::kvm;
    add(argv, "-name", "guest=" + spec.name + ",debug-threads=on");
    add(argv, "-machine",
        machine + ",memory-backend=ram,dump-guest-core=off" +
            (kvm ? ",kernel-irqchip=split" : ""));
    add(argv, "-accel", kvm ? "kvm" : "tcg,thread=multi");
    add(argv, "-cpu", spec.cpuModel + ",enforce");
    add(argv, "-smp",
        fmt::format("cpus={0},sockets=1,cores={0},threads=1", spec.vcpus));
    add(argv, "-m", fmt::format("{}M", spec.memory / mib));
    if (!spec.uuid.empty())
    {
        add(argv, "-uuid", spec.uuid);
    }
    add(argv, "-rtc", "base=utc");
    argv.insert(argv.end(),
                {"-nodefaults", "-no-user-config", "-display", "none"});
}

void addSandbox(Argv& argv, const Qemu& qemu)
{
    if (qemu.seccomp)
    {
        add(argv, "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,"
            "resourcecontrol=deny");
    }
}

void addChannels(Argv& argv, const GuestSpec& spec, const Channels& channels)
{
    add(argv, "-object",
        fmt::format("memory-backend-file,id=ram,size={},"
                    "mem-path=/proc/self/fd/{},share=on",
                    spec.memory, channels.memory));
    add(argv, "-chardev", fmt::format("socket,id=qmp,fd={}", channels.qmp));
    add(argv, "-mon", "chardev=qmp,mode=control");
}

/** The modern virtio interface only, no option ROM: nothing in a device that
 * the production machine would not have. */
std::string virtioDevice(const GuestSpec& spec, const std::string& driver,
                         const std::string& id, std::size_t slot)
{
    return fmt::format("{},id={},bus=pcie.0,addr={:#x},disable-legacy=on,"
                       "romfile={}",
                       driver, id, slot, spec.msix ? "" : ",vectors=0");
}

void addConsole(Argv& argv, const GuestSpec& spec, const Channels& channels)
{
    if (!spec.console)
    {
        return;
    }
    add(argv, "-chardev",
        fmt::format("socket,id=console0,fd={}", channels.console));
    add(argv, "-device",
        virtioDevice(spec, "virtio-serial-pci", "consolebus", consoleSlot) +
            (spec.agent ? ",max_ports=2" : ",max_ports=1"));
    add(argv, "-device",
        "virtconsole,id=hvc0,bus=consolebus.0,nr=0,chardev=console0");
    if (spec.agent)
    {
        add(argv, "-chardev",
            fmt::format("socket,id=agent0,fd={}", channels.agent));
        add(argv, "-device",
            fmt::format("virtserialport,id=ga0,bus=consolebus.0,nr=1,"
                        "name={},chardev=agent0",
                        agentPortName));
    }
}

void addRng(Argv& argv, const GuestSpec& spec)
{
    if (spec.rng)
    {
        add(argv, "-object", "rng-builtin,id=entropy");
        add(argv, "-device",
            virtioDevice(spec, "virtio-rng-pci", "rng0", rngSlot) +
                ",rng=entropy");
    }
}

void addNics(Argv& argv, const GuestSpec& spec, const Channels& channels)
{
    for (std::size_t i = 0; i < spec.nics.size(); i++)
    {
        std::string device =
            virtioDevice(spec, "virtio-net-pci", nicId(i), firstNicSlot + i) +
            ",mac=" + spec.nics[i].mac;
        if (i < channels.taps.size() && channels.taps[i] >= 0)
        {
            add(argv, "-netdev",
                fmt::format("tap,id=host{},fd={},vhost=off", i,
                            channels.taps[i]));
            device += fmt::format(",netdev=host{}", i);
        }
        add(argv, "-device", device);
    }
}

void addDisks(Argv& argv, const GuestSpec& spec, bool firmware)
{
    for (std::size_t i = 0; i < spec.disks.size(); i++)
    {
        const Disk& disk = spec.disks[i];
        Json node = {
            {"driver", "raw"},
            {"node-name", diskNode(i)},
            {"read-only", disk.readOnly},
            {"discard", "unmap"},
            {"file",
             {{"driver", "file"},
              {"node-name", diskNode(i) + "-file"},
              {"filename", disk.image.string()},
              {"locking", "on"}}},
        };
        add(argv, "-blockdev", dumpJson(node));
        std::string device =
            virtioDevice(spec, "virtio-blk-pci", "virtio-" + diskNode(i),
                         firstDiskSlot + i) +
            ",drive=" + diskNode(i);
        if (firmware)
        {
            device += fmt::format(",bootindex={}", i + 1);
        }
        add(argv, "-device", device);
    }
}

bool supportsSeccomp(const std::filesystem::path& binary)
{
    SpawnOptions options;
    options.argv = {binary.string(), "-sandbox", "off", "-version"};
    return runProgram(options).status.ok();
}

} // namespace

std::vector<int> Channels::all() const
{
    std::vector<int> out;
    for (int fd : {qmp, memory, console, agent, serial})
    {
        if (fd >= 0)
        {
            out.push_back(fd);
        }
    }
    for (int fd : taps)
    {
        if (fd >= 0)
        {
            out.push_back(fd);
        }
    }
    return out;
}

Qemu findQemu(const std::filesystem::path& binary)
{
    if (!std::filesystem::exists(binary))
    {
        throw Error("there is no QEMU at " + binary.string() +
                    ": run tools/build-qemu");
    }
    Qemu qemu;
    qemu.binary = std::filesystem::absolute(binary);
    qemu.seccomp = supportsSeccomp(qemu.binary);
    return qemu;
}

QemuBuilds findQemuBuilds(const std::filesystem::path& buildDirectory)
{
    std::filesystem::path builds = buildDirectory / "qemu";
    return {findQemu(builds / "production" / "qemu-system-x86_64"),
            findQemu(builds / "boot" / "qemu-system-x86_64")};
}

std::filesystem::path defaultBuildDirectory()
{
    const char* directory = std::getenv("AIRLOCK_BUILD");
    return directory != nullptr && *directory != '\0' ? directory : "build";
}

Argv productionArgv(const Qemu& qemu, const GuestSpec& spec,
                    const Channels& channels)
{
    validate(spec);
    Argv argv = {qemu.binary.string()};
    addMachine(argv, spec, productionMachine);
    addSandbox(argv, qemu);
    addChannels(argv, spec, channels);
    addConsole(argv, spec, channels);
    addRng(argv, spec);
    addNics(argv, spec, channels);
    addDisks(argv, spec, false);
    return argv;
}

Argv bootArgv(const Qemu& qemu, const GuestSpec& spec,
              const BootOptions& options, const Channels& channels)
{
    validate(spec);
    Argv argv = {qemu.binary.string()};
    std::string machine = bootMachine;
    for (const auto& [id, on] : options.devices)
    {
        machine += "," + escapeCommas(id) + (on ? "=on" : "=off");
    }
    addMachine(argv, spec, machine);
    argv.push_back("-S");
    if (!qemu.data.empty())
    {
        add(argv, "-L", qemu.data.string());
    }
    if (options.firmware)
    {
        add(argv, "-bios", *options.firmware);
    }
    addSandbox(argv, qemu);
    addChannels(argv, spec, channels);
    if (channels.serial >= 0)
    {
        add(argv, "-chardev",
            fmt::format("socket,id=serial0,fd={}", channels.serial));
        add(argv, "-serial", "chardev:serial0");
    }
    addConsole(argv, spec, channels);
    addRng(argv, spec);
    addNics(argv, spec, Channels{});
    addDisks(argv, spec, true);
    return argv;
}

} // namespace airlock::vm
