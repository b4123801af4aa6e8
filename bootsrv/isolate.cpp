#include "bootsrv/isolate.hpp"

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <ifaddrs.h>
#include <linux/capability.h>
#include <net/if.h>
#include <poll.h>
#include <pwd.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <memory>

namespace airlock::boot
{

namespace
{

/** Of all programs: what is left there outlives who leaves it, and services
 * have their sockets there, which no namespace of networks hides. */
constexpr std::array<const char*, 4> meetingPlaces = {"/tmp", "/var/tmp",
                                                      "/dev/shm", "/run"};

constexpr int others = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;

void writeMap(const char* file, const std::string& text)
{
    UniqueFd fd = openFile(file, O_WRONLY);
    writeAll(fd.get(), asBytes(text));
}

/** Namespaces of users, so that somebody who is not root may have the others;
 * ids stay as they are. */
void enterUsers()
{
    uid_t uid = ::geteuid();
    gid_t gid = ::getegid();
    if (::unshare(CLONE_NEWUSER) != 0)
    {
        throwErrno("cannot take the network away from a boot: the kernel does "
                   "not let this user make user namespaces");
    }
    writeMap("/proc/self/setgroups", "deny");
    writeMap("/proc/self/uid_map", fmt::format("{0} {0} 1", uid));
    writeMap("/proc/self/gid_map", fmt::format("{0} {0} 1", gid));
}

/** Looks at the result, not at what was asked for. */
void requireNoNetwork()
{
    ifaddrs* list = nullptr;
    if (::getifaddrs(&list) != 0)
    {
        throwErrno("cannot list network interfaces");
    }
    std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> guard(list, ::freeifaddrs);
    for (const ifaddrs* at = list; at != nullptr; at = at->ifa_next)
    {
        if ((at->ifa_flags & IFF_UP) != 0)
        {
            throw Error(std::string("the network interface ") + at->ifa_name +
                        " is still up");
        }
    }
}

/** True when the process got what it asked for. */
bool enterNamespaces()
{
    if (::geteuid() != 0)
    {
        enterUsers();
    }
    bool all = ::unshare(CLONE_NEWNET | others) == 0;
    if (!all && ::unshare(CLONE_NEWNET) != 0)
    {
        throwErrno("cannot take the network away from a boot");
    }
    requireNoNetwork();
    return all;
}

/** The outer process: nothing but to wait for the child, blocked `news`, and to
 * end it when it is asked to end itself. */
[[noreturn]] void waitAndExit(pid_t child, const sigset_t& news)
{
    int status = 0;
    while (::waitpid(child, &status, WNOHANG) == 0)
    {
        int number = 0;
        ::sigwait(&news, &number);
        if (number != SIGCHLD)
        {
            ::kill(child, SIGKILL);
        }
    }
    ::_exit(exitCodeOf(status));
}

/** Goes on in a child. What it returns can be read once this process has gone.
 */
UniqueFd forkInside()
{
    sigset_t news;
    sigset_t before;
    ::sigemptyset(&news);
    for (int number : {SIGCHLD, SIGTERM, SIGINT, SIGHUP})
    {
        ::sigaddset(&news, number);
    }
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0)
    {
        throwErrno("cannot make a pipe");
    }
    UniqueFd alive(ends[0]);
    UniqueFd parent(ends[1]);
    ::sigprocmask(SIG_BLOCK, &news, &before);
    pid_t child = ::fork();
    if (child < 0)
    {
        throwErrno("cannot start a process");
    }
    if (child > 0)
    {
        waitAndExit(child, news);
    }
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    return alive;
}

void dieWithParent(const UniqueFd& alive)
{
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    pollfd poll = {alive.get(), 0, 0};
    if (::poll(&poll, 1, 0) > 0)
    {
        ::_exit(1); // died before the signal was asked for
    }
}

bool mountOver(const char* type, const char* where, unsigned long flags,
               const char* options)
{
    return ::mount(type, where, type, flags, options) == 0;
}

bool makeEmpty(const std::filesystem::path& directory)
{
    return mountOver("tmpfs", directory.c_str(),
                     MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755,size=64k");
}

bool makeReadOnly(int directory, const char* path, unsigned flags)
{
    mount_attr attributes = {};
    attributes.attr_set = MOUNT_ATTR_RDONLY;
    return ::mount_setattr(directory, path, flags, &attributes,
                           sizeof(attributes)) == 0;
}

/** What is not of its business. */
bool empty(const Isolation& isolation)
{
    // First: it may lie below one of the others.
    bool out = isolation.hidden.empty() || makeEmpty(isolation.hidden);
    for (const char* place : meetingPlaces)
    {
        if (isolation.alone && std::filesystem::exists(place))
        {
            out = makeEmpty(place) && out;
        }
    }
    return out;
}

/** Leaves the run directory of what is hidden, and puts what may not be written
 * out of reach; false when that is not possible here. */
bool hide(const Isolation& isolation)
{
    if (isolation.hidden.empty() && !isolation.alone && !isolation.runReadOnly)
    {
        return true;
    }
    const UniqueFd run(::open_tree(AT_FDCWD, isolation.runDirectory.c_str(),
                                   OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
    if (!run || !empty(isolation))
    {
        return false;
    }
    std::filesystem::create_directories(isolation.runDirectory);
    return (!isolation.alone || makeReadOnly(AT_FDCWD, "/", AT_RECURSIVE)) &&
           (!isolation.runReadOnly ||
            makeReadOnly(run.get(), "", AT_EMPTY_PATH)) &&
           ::move_mount(run.get(), "", AT_FDCWD, isolation.runDirectory.c_str(),
                        MOVE_MOUNT_F_EMPTY_PATH) == 0;
}

/** Which of fenceParts could not be had. */
std::vector<std::string> arrangeMounts(const Isolation& isolation)
{
    std::vector<std::string> missing;
    if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    {
        return {fenceParts[0]};
    }
    if (!mountOver("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr))
    {
        missing.emplace_back(fenceParts[1]);
    }
    if (!hide(isolation))
    {
        missing.emplace_back(fenceParts[2]);
    }
    return missing;
}

void limit(decltype(RLIMIT_CORE) what, rlim_t value)
{
    rlimit both = {value, value};
    if (::setrlimit(what, &both) != 0)
    {
        throwErrno("cannot set a resource limit");
    }
}

void dropPrivileges(const Isolation& isolation)
{
    // A new namespace of users begins with all of them, whoever made it.
    for (int capability = 0; ::prctl(PR_CAPBSET_READ, capability) >= 0;
         capability++)
    {
        ::prctl(PR_CAPBSET_DROP, capability);
    }
    if (::geteuid() == 0)
    {
        const auto& user = isolation.user;
        if (user &&
            (::setgroups(user->groups.size(), user->groups.data()) != 0 ||
             ::setgid(user->group) != 0 || ::setuid(user->id) != 0))
        {
            throwErrno("cannot change to the user for boots");
        }
    }
    __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct none[2] = {};
    if (::syscall(SYS_capset, &header, none) != 0 ||
        ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    {
        throwErrno("cannot give up privileges");
    }
}

} // namespace

std::vector<std::string> isolate(const Isolation& isolation)
{
    bool all = enterNamespaces();
    const UniqueFd parent = forkInside();
    std::vector<std::string> missing =
        all ? arrangeMounts(isolation)
            : std::vector<std::string>{fenceParts[0]};
    constexpr rlim_t descriptors = 1024;
    limit(RLIMIT_CORE, 0);
    limit(RLIMIT_NOFILE, descriptors);
    limit(RLIMIT_FSIZE, isolation.fileBytes);
    dropPrivileges(isolation);
    // Not earlier: changing ids clears it.
    dieWithParent(parent);
    return missing;
}

int exitCodeOf(int status)
{
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

Isolation::User findUser(const std::string& name)
{
    const passwd* found = ::getpwnam(name.c_str());
    if (found == nullptr)
    {
        throw Error("there is no user " + name);
    }
    constexpr int maxGroups = 64;
    Isolation::User out;
    out.id = found->pw_uid;
    out.group = found->pw_gid;
    int count = maxGroups;
    out.groups.resize(maxGroups);
    ::getgrouplist(name.c_str(), out.group, out.groups.data(), &count);
    out.groups.resize(
        static_cast<std::size_t>(std::clamp(count, 0, maxGroups)));
    return out;
}

} // namespace airlock::boot
