#include "tools/airlock-rig/keeper.hpp"

#include "common/error.hpp"
#include "common/file.hpp"
#include "tools/rigs/contained.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <iterator>

namespace airlock::rig
{

namespace
{

namespace fs = std::filesystem;

constexpr Milliseconds cleanTime = std::chrono::minutes(8);
constexpr std::uint64_t guestMemory = 160ULL << 20;
constexpr int fromSignal = 128;
constexpr int cannotRun = 126;

std::vector<char*> pointersOf(std::vector<std::string>& argv)
{
    std::vector<char*> out;
    for (std::string& word : argv)
    {
        out.push_back(word.data());
    }
    out.push_back(nullptr);
    return out;
}

/** Names for "ip netns", in the mounts that runInHost() enters: those of our
 * init. We have others, where libvirt's are. */
void nameNamespaces(IsolatedRig& rig)
{
    const fs::path names = "/run/netns";
    const UniqueFd mounts = openFile("/proc/1/ns/mnt", O_RDONLY);
    if (::unshare(CLONE_FS) != 0 || ::setns(mounts.get(), CLONE_NEWNS) != 0 ||
        ::mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755") !=
            0)
    {
        throwErrno("cannot mount /run");
    }
    fs::create_directory(names);
    auto name = [&](const char* host, const NetNamespace& net) {
        const fs::path file = names / host;
        openFile(file, O_WRONLY | O_CREAT | O_EXCL);
        if (::mount(net.path().c_str(), file.c_str(), nullptr, MS_BIND,
                    nullptr) != 0)
        {
            throwErrno(std::string("cannot name the namespace ") + host);
        }
    };
    name("production", rig.net().production());
    name("switch", rig.net().theSwitch());
    name("boot", rig.net().boot());
    name("administrator", rig.administrator());
}

/** Programs that know where the rig has its sockets. */
void writePrograms(const RigState& state, IsolatedRig& rig)
{
    auto write = [&](const char* host, const char* name,
                     const std::string& command) {
        fs::create_directories(state.programs(host));
        writeFileAtomic(state.programs(host) / name,
                        "#!/bin/sh\nexec " + command + "\n", 0755);
    };
    auto control = [](const fs::path& socket) {
        return fmt::format("'{}' --socket '{}' \"$@\"",
                           builtProgram("tools/airlockctl/airlockctl"),
                           socket.string());
    };
    HostRig& production = rig.production();
    write("production", "airlockctl", control(production.socket()));
    write("production", "virsh",
          fmt::format("/usr/bin/virsh -c '{}' \"$@\"",
                      production.libvirt().uri()));
    write("administrator", "airlockctl", control(rig.net().socket()));
    write("switch", "airlockctl", control(rig.net().socket()));
    write("boot", "console",
          fmt::format("tail -n 200 \"$@\" '{}'", rig.console().string()));
    write("boot", "log",
          fmt::format("tail -n 200 \"$@\" '{}'", rig.bootLog().string()));
}

void bringUp(RigState& state, const KeeperOptions& options, IsolatedRig& rig)
{
    // In a thread: what it changes of its mounts is its own.
    rig.net().production().run([&] { nameNamespaces(rig); });
    state.note("starting", "the boot host is made, measured and enrolled");
    rig.enrol();
    rig.startBootHost();
    state.note("starting", "libvirt and the host agent");
    DomainCase domain;
    domain.guest = {options.guest, 1, guestMemory, true};
    rig.startProduction(domain);
    writePrograms(state, rig);
    state.note("starting", "the boot host shows the switch that it is clean");
    rig.waitClean(cleanTime);
    state.note("up", "");
}

int holdRig(RigState state, const KeeperOptions& options)
{
    try
    {
        fs::create_directory(state.site());
        state.note("starting", "networks and the switch");
        IsolatedRig rig(state.site(), options.boot);
        bringUp(state, options, rig);
        for (;;)
        {
            ::pause();
        }
    }
    catch (const std::exception& error)
    {
        state.note("failed", error.what());
        return EXIT_FAILURE;
    }
}

/** In the child: its output to the log, its terminal left. */
[[noreturn]] void becomeKeeper(const RigState& state,
                               std::vector<std::string> argv)
{
    // Until its files name it, nobody could end it.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::setsid();
    const int none = ::open("/dev/null", O_RDONLY);
    const int log =
        ::open(state.log().c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (none < 0 || log < 0 || ::dup2(none, 0) < 0 || ::dup2(log, 1) < 0 ||
        ::dup2(log, 2) < 0)
    {
        ::_exit(cannotRun);
    }
    ::execv("/proc/self/exe", pointersOf(argv).data());
    ::_exit(cannotRun);
}

void require(bool done, const char* what)
{
    if (!done)
    {
        throwErrno(what);
    }
}

/** In the child of runInHost(): never returns. */
[[noreturn]] void becomeCommand(std::vector<std::string> argv)
{
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::execvp(argv.front().c_str(), pointersOf(argv).data());
    std::fprintf(stderr, "airlock-rig: cannot run %s\n", argv.front().c_str());
    ::_exit(cannotRun);
}

pid_t commandRunning = -1;

void passOn(int number)
{
    ::kill(commandRunning, number);
}

} // namespace

void startKeeper(const RigState& state, const KeeperOptions& options)
{
    std::vector<std::string> argv = {
        "airlock-rig", "keep",
        "--build",     state.directory().parent_path(),
        "--images",    options.boot.images,
        "--guest",     options.guest,
        "--cpus",      std::to_string(options.boot.cpus),
        "--memory",    std::to_string(options.boot.memoryMiB),
    };
    fs::create_directory(state.directory());
    const pid_t child = ::fork();
    require(child >= 0, "cannot fork");
    if (child == 0)
    {
        becomeKeeper(state, std::move(argv));
    }
    while (!state.init())
    {
        if (::waitpid(child, nullptr, WNOHANG) != 0)
        {
            throw Error("the rig does not start: see " + state.log().string());
        }
        ::usleep(20'000);
    }
}

int keep(RigState state, const KeeperOptions& options)
{
    const UniqueFd proc = openFile("/proc", O_RDONLY | O_DIRECTORY);
    return runContainedIn(
        state.directory(), [&] { return holdRig(state, options); },
        [&](pid_t init) {
            state.noteKeeper(KnownProcess::of(::getpid(), proc.get()).value(),
                             KnownProcess::of(init, proc.get()).value());
            ::prctl(PR_SET_PDEATHSIG, 0);
        });
}

int runInHost(const RigState& state, const std::string& host,
              const std::vector<std::string>& command)
{
    const auto init = state.init();
    if (!init || !init->alive())
    {
        throw Error("there is no rig: tools/rig up");
    }
    if (std::find(std::begin(hostNames), std::end(hostNames), host) ==
        std::end(hostNames))
    {
        throw Error(printable(host, 40) + " is no host of the rig; there are "
                                          "production, switch, boot and "
                                          "administrator");
    }
    const fs::path here = fs::current_path();
    const std::string process = fmt::format("/proc/{}/ns/", init->pid);
    const UniqueFd pids = openFile(process + "pid", O_RDONLY);
    const UniqueFd mounts = openFile(process + "mnt", O_RDONLY);
    require(::setns(pids.get(), CLONE_NEWPID) == 0 &&
                ::setns(mounts.get(), CLONE_NEWNS) == 0,
            "cannot enter the rig");
    const std::string path =
        ::getenv("PATH") == nullptr ? "" : ::getenv("PATH");
    std::vector<std::string> argv = {
        "ip",
        "netns",
        "exec",
        host,
        "env",
        "--chdir=" + here.string(),
        "PATH=" + state.programs(host).string() + ":" + path,
        "PS1=" + host + "\\$ ",
        "TMPDIR=" + state.directory().string(),
    };
    if (command.empty())
    {
        argv.insert(argv.end(), {"bash", "--norc", "--noprofile", "-i"});
    }
    argv.insert(argv.end(), command.begin(), command.end());
    for (int number : {SIGINT, SIGQUIT})
    {
        // From a terminal they come to the command as well.
        ::signal(number, SIG_IGN);
    }
    commandRunning = ::fork();
    require(commandRunning >= 0, "cannot fork");
    if (commandRunning == 0)
    {
        ::signal(SIGINT, SIG_DFL);
        ::signal(SIGQUIT, SIG_DFL);
        becomeCommand(std::move(argv));
    }
    for (int number : {SIGTERM, SIGHUP})
    {
        ::signal(number, passOn);
    }
    int status = 0;
    while (::waitpid(commandRunning, &status, 0) < 0 && errno == EINTR)
    {}
    return WIFEXITED(status) ? WEXITSTATUS(status)
                             : fromSignal + WTERMSIG(status);
}

} // namespace airlock::rig
