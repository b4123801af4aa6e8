#include "libvirt_rig.hpp"

#include "common/error.hpp"
#include "common/pki.hpp"
#include "common/tls.hpp"
#include "devmodel/vm/qemu_argv.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <cstdlib>
#include <thread>

namespace airlock::test
{

namespace
{

constexpr Milliseconds startTime = std::chrono::seconds(30);
constexpr Milliseconds waitStep{200};
constexpr const char* uuid = "3b9b1f0e-4f3e-4b51-9a4a-3b7a4a0c9d11";

/** Bind mounts over what libvirt has compiled in, seen by this libvirtd only.
 * libvirt wants its user to exist even if it is not used. */
constexpr const char* startScript = R"(set -e
cd "$1"
mkdir -p etc run lib cache log ram
cp -rn /etc/libvirt/. etc/ 2>/dev/null || true
cp qemu.conf etc/qemu.conf
(grep -v '^libvirt-qemu:' /etc/passwd
 echo 'libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin') >passwd
(grep -v '^libvirt-qemu:' /etc/group; echo 'libvirt-qemu:x:64055:') >group
mkdir -p /etc/libvirt /run/libvirt /var/lib/libvirt /var/cache/libvirt \
    /var/log/libvirt
mount --bind passwd /etc/passwd
mount --bind group /etc/group
mount --bind etc /etc/libvirt
mount --bind run /run/libvirt
mount --bind lib /var/lib/libvirt
mount --bind cache /var/cache/libvirt
mount --bind log /var/log/libvirt
mkdir -p lib/qemu log/qemu
daemon=libvirtd
if [ -n "$2" ]; then
    for part in "$2"/usr/lib/*-linux-gnu/libvirt "$2"/usr/lib/libvirt \
        "$2"/usr/share/libvirt; do
        [ ! -d "$part" ] || mount --bind "$part" "${part#"$2"}"
    done
    libraries=$(echo "$2"/usr/lib/*-linux-gnu)
    export LD_LIBRARY_PATH="$libraries"
    daemon=$2/usr/sbin/libvirtd
fi
exec "$daemon" --config "$1/libvirtd.conf" --pid-file "$1/libvirtd.pid"
)";

constexpr const char* qemuConf = R"(user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
memory_backing_dir = "{}/ram"
)";

constexpr const char* libvirtdConf = R"(unix_sock_dir = "{0}/run"
auth_unix_rw = "none"
auth_unix_ro = "none"
log_outputs = "2:file:{0}/libvirtd.log"
)";

std::string endOf(const std::filesystem::path& file)
{
    if (!std::filesystem::exists(file))
    {
        return {};
    }
    Bytes bytes = readFile(file, 64U << 20);
    std::size_t size = std::min<std::size_t>(bytes.size(), 3000);
    return {bytes.end() - static_cast<std::ptrdiff_t>(size), bytes.end()};
}

Process spawnLogged(std::vector<std::string> argv,
                    const std::filesystem::path& log)
{
    UniqueFd file = openFile(log, O_WRONLY | O_CREAT | O_APPEND);
    SpawnOptions options;
    options.argv = std::move(argv);
    options.stdoutFd = file.get();
    options.stderrFd = file.get();
    return Process(options);
}

/** Where tools/fetch-libvirt has put another version of libvirt, if it is to
 * be tested. */
std::string otherLibvirt()
{
    const char* root = std::getenv("AIRLOCK_LIBVIRT_ROOT");
    return root == nullptr ? "" : root;
}

std::string programOf(const std::string& relative)
{
    return (vm::defaultBuildDirectory() / "cpp" / relative).string();
}

} // namespace

PrivateLibvirt::PrivateLibvirt(const std::filesystem::path& directory)
    : directory_(directory)
{
    std::filesystem::create_directories(directory_);
    writeFileAtomic(directory_ / "qemu.conf",
                    fmt::format(fmt::runtime(qemuConf), directory_.string()));
    writeFileAtomic(
        directory_ / "libvirtd.conf",
        fmt::format(fmt::runtime(libvirtdConf), directory_.string()));
    start();
}

void PrivateLibvirt::start()
{
    process_.emplace(spawnLogged({"unshare", "--mount", "--propagation",
                                  "private", "sh", "-c", startScript, "sh",
                                  directory_.string(), otherLibvirt()},
                                 directory_ / "start.log"));
    Deadline deadline(startTime);
    for (;;)
    {
        try
        {
            virsh({"version"});
            return;
        }
        catch (const Error& error)
        {
            if (deadline.passed() || !process_->running())
            {
                throw Error(std::string("libvirtd does not start: ") +
                            error.what() + endOf(directory_ / "start.log") +
                            endOf(directory_ / "libvirtd.log"));
            }
        }
        std::this_thread::sleep_for(waitStep);
    }
}

void PrivateLibvirt::kill()
{
    process_->kill();
}

PrivateLibvirt::~PrivateLibvirt()
{
    try
    {
        if (!process_->running())
        {
            start();
        }
        std::string names = virsh({"list", "--name"});
        for (std::size_t at = 0; at < names.size();)
        {
            std::size_t end = std::min(names.find('\n', at), names.size());
            if (end > at)
            {
                virsh({"destroy", names.substr(at, end - at)});
            }
            at = end + 1;
        }
    }
    catch (const std::exception& error)
    {
        fmt::print(stderr, "a guest may be left over: {}\n", error.what());
    }
}

std::string PrivateLibvirt::uri() const
{
    return "qemu:///system?socket=" + directory_.string() + "/run/libvirt-sock";
}

std::string PrivateLibvirt::virsh(const std::vector<std::string>& arguments,
                                  Milliseconds timeout) const
{
    SpawnOptions options;
    options.argv = {"virsh", "--quiet", "--connect", uri()};
    options.argv.insert(options.argv.end(), arguments.begin(), arguments.end());
    ProcessOutput output = runProgram(options, timeout);
    if (!output.status.ok())
    {
        throw Error("virsh " + arguments.front() + ": " + output.err);
    }
    return output.out;
}

HostRig::HostRig(const GuestCase& guest, const HostCase& host)
    : host_(host), directory_("airlock-host"),
      libvirt_(directory_.path() / "libvirt"), bootd_(host.servers.size())
{
    std::filesystem::path image = vm::defaultBuildDirectory() / "images" /
                                  ("debian12-" + guest.kernel + ".raw");
    SpawnOptions copy;
    copy.argv = {"cp", "--reflink=auto", "--sparse=always", image.string(),
                 (path() / "disk.raw").string()};
    if (!runProgram(copy, std::chrono::minutes(10)).status.ok())
    {
        throw Error("cannot copy the guest's image (tools/build-image makes "
                    "it)");
    }
    writeCertificates();
    writeHostConfiguration();
    writeFileAtomic(path() / "demo.xml", domainXml(guest));
    libvirt_.virsh({"define", (path() / "demo.xml").string()});
    for (std::size_t server = 0; server < host_.servers.size(); server++)
    {
        writeBootConfiguration(server);
        startBootd(server);
    }
    startHostd();
}

HostRig::~HostRig() = default;

void HostRig::writeCertificates()
{
    pki::Credential authority = pki::makeAuthority("airlock-test");
    writeFileAtomic(path() / "ca.crt", authority.certificate);
    for (const char* role : {tls::hostRole, tls::bootRole})
    {
        pki::Credential made =
            pki::issue(authority, {role, role, {"127.0.0.1", "localhost"}});
        writeFileAtomic(path() / (std::string(role) + ".crt"),
                        made.certificate);
        writeFileAtomic(path() / (std::string(role) + ".key"), made.key, 0600);
    }
}

void HostRig::writeHostConfiguration()
{
    std::string text = fmt::format(R"(libvirt = "{0}"
state = "{1}/hostd"
socket = "{1}/hostd.sock"

[tls]
certificate = "{1}/airlock-hostd.crt"
key = "{1}/airlock-hostd.key"
authorities = "{1}/ca.crt"

[reboot]
{2}
{3}
)",
                                   libvirt_.uri(), path().string(),
                                   host_.reboot, host_.tables);
    for (std::size_t i = 0; i < host_.servers.size(); i++)
    {
        text += fmt::format(R"(
[[server]]
name = "{}"
host = "127.0.0.1"
port = {}
weight = {}
)",
                            host_.servers[i].name, host_.firstPort + i,
                            host_.servers[i].weight);
    }
    writeFileAtomic(path() / "hostd.toml", text);
}

/** "bootd.log" of the first one, "bootd-1.log" of the next. */
std::string HostRig::bootName(std::size_t server, const char* end) const
{
    return fmt::format("{}/bootd{}{}", path().string(),
                       server == 0 ? "" : fmt::format("-{}", server), end);
}

void HostRig::writeBootConfiguration(std::size_t server)
{
    std::filesystem::path builds =
        std::filesystem::absolute(vm::defaultBuildDirectory());
    std::string qemu = host_.servers[server].qemu;
    if (qemu.empty())
    {
        qemu = builds / "qemu/boot/qemu-system-x86_64";
    }
    writeFileAtomic(bootName(server, ".toml"),
                    fmt::format(R"(listen = "127.0.0.1"
port = {2}
state-directory = "{3}"

[tls]
certificate = "{1}/airlock-bootd.crt"
key = "{1}/airlock-bootd.key"
authorities = "{1}/ca.crt"

[boot]
qemu = "{4}"
bootrun = "{0}/cpp/bootsrv/airlock-bootrun"
)",
                                builds.string(), path().string(),
                                host_.firstPort + server, bootName(server, ""),
                                qemu));
}

std::string HostRig::domainXml(const GuestCase& guest) const
{
    std::filesystem::path qemu = std::filesystem::absolute(
        vm::defaultBuildDirectory() / "qemu/production/qemu-system-x86_64");
    return fmt::format(
        R"(<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>{memory}</memory>
  <memoryBacking>
    <source type='file'/>
    <access mode='shared'/>
  </memoryBacking>
  <vcpu>{vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='airlock-1.0'>hvm</type>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact' check='none'>
    <model fallback='forbid'>Nehalem</model>
    <topology sockets='1' dies='1' cores='{vcpus}' threads='1'/>
  </cpu>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>preserve</on_crash>
  <devices>
    <emulator>{qemu}</emulator>
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='usb' model='none'/>
    <controller type='virtio-serial' index='0' ports='2'>
      <address type='pci' domain='0' bus='0' slot='2' function='0'/>
    </controller>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' discard='unmap'/>
      <source file='{path}/disk.raw'/>
      <target dev='vda' bus='virtio'/>
      <address type='pci' domain='0' bus='0' slot='8' function='0'/>
    </disk>
    <console type='unix'>
      <source mode='bind' path='{path}/console'/>
      <target type='virtio' port='0'/>
    </console>
    <channel type='unix'>
      <source mode='bind' path='{path}/agent'/>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
      <address type='virtio-serial' controller='0' bus='0' port='1'/>
    </channel>
    <rng model='virtio'>
      <backend model='random'>/dev/urandom</backend>
      <address type='pci' domain='0' bus='0' slot='3' function='0'/>
    </rng>
    <memballoon model='none'/>
  </devices>
</domain>
)",
        fmt::arg("name", name_), fmt::arg("uuid", uuid),
        fmt::arg("memory", guest.memory >> 20), fmt::arg("vcpus", guest.vcpus),
        fmt::arg("qemu", qemu.string()), fmt::arg("path", path().string()));
}

void HostRig::startHostd()
{
    hostd_.emplace(spawnLogged({programOf("hostagent/daemon/airlock-hostd"),
                                "--config", (path() / "hostd.toml").string()},
                               path() / "hostd.log"));
}

void HostRig::startBootd(std::size_t server)
{
    bootd_.at(server).emplace(
        spawnLogged({programOf("bootsrv/airlock-bootd"), "--config",
                     bootName(server, ".toml")},
                    bootName(server, ".log")));
}

std::string HostRig::domainState() const
{
    std::string out = libvirt_.virsh({"domstate", name_});
    return out.substr(0, out.find('\n'));
}

std::string HostRig::logs() const
{
    return "hostd: " + endOf(path() / "hostd.log") +
           "\nbootd: " + endOf(path() / "bootd.log") +
           "\nqemu: " + endOf(path() / "libvirt/log/qemu/demo.log");
}

void HostRig::waitPaused(Milliseconds timeout)
{
    Deadline deadline(timeout);
    while (domainState() != "paused")
    {
        if (deadline.passed())
        {
            throw TimedOut("the domain is " + domainState() + ", not trapped");
        }
        std::this_thread::sleep_for(waitStep);
    }
    console_.reset();
}

void HostRig::waitAlive(Milliseconds timeout)
{
    Deadline deadline(timeout);
    while (domainState() != "running")
    {
        if (deadline.passed())
        {
            throw TimedOut("the domain is " + domainState() +
                           ", not running; " + logs());
        }
        std::this_thread::sleep_for(waitStep);
    }
    if (!console_)
    {
        console_.emplace(Console::connect(path() / "console"));
    }
    console_->sendLine("");
    console_->runCommand("true", deadline.left());
}

void HostRig::waitReborn(Milliseconds timeout)
{
    console_.reset();
    waitAlive(timeout);
}

std::string HostRig::run(const std::string& command, Milliseconds timeout)
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

void HostRig::send(const std::string& line)
{
    console_->sendLine(line);
}

} // namespace airlock::test
