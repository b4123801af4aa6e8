#include "tools/rigs/private_libvirt.hpp"

#include "common/error.hpp"
#include "common/file.hpp"
#include "tools/rigs/logged.hpp"

#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

namespace airlock::rig
{

namespace
{

constexpr Milliseconds startTime = std::chrono::seconds(30);
constexpr Milliseconds waitStep{200};

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

/** Where tools/fetch-libvirt has put another version of libvirt, if it is to
 * be tested. */
std::string otherLibvirt()
{
    const char* root = std::getenv("AIRLOCK_LIBVIRT_ROOT");
    return root == nullptr ? "" : root;
}

} // namespace

void enterPrivateNamespaces()
{
    static bool entered = false;
    if (entered)
    {
        return;
    }
    if (::unshare(CLONE_NEWNS | CLONE_NEWNET) != 0 ||
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    {
        throwErrno("cannot have mounts and a network of our own");
    }
    SpawnOptions options;
    options.argv = {"ip", "link", "set", "lo", "up"};
    if (!runProgram(options).status.ok())
    {
        throw Error("cannot set the loopback interface up");
    }
    entered = true;
}

PrivateLibvirt::PrivateLibvirt(const std::filesystem::path& directory)
    : directory_(directory)
{
    enterPrivateNamespaces();
    std::filesystem::create_directories(directory_ / "ram");
    if (::mount("tmpfs", (directory_ / "ram").c_str(), "tmpfs", 0, nullptr) !=
        0)
    {
        throwErrno("cannot mount a tmpfs for the guests' memory");
    }
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
            // Not "version", which asks the machine's own QEMU.
            virsh({"list"});
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
    process_.reset();
    ::umount2((directory_ / "ram").c_str(), MNT_DETACH);
}

pid_t PrivateLibvirt::qemu(const std::string& domain) const
{
    return static_cast<pid_t>(std::stol(
        readTextFile(directory_ / "run/qemu" / (domain + ".pid"), 32)));
}

std::string PrivateLibvirt::version() const
{
    constexpr std::string_view mark = "libvirt version: ";
    std::string text = readTextFile(directory_ / "libvirtd.log", 64U << 20);
    std::size_t at = text.rfind(mark);
    if (at == std::string::npos)
    {
        throw Error("libvirtd does not say which version it is");
    }
    at += mark.size();
    return text.substr(at, text.find_first_of(",\n", at) - at);
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

} // namespace airlock::rig
