#include "tools/airlock-rig/state.hpp"

#include "common/deadline.hpp"
#include "common/error.hpp"
#include "common/file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>
#include <sstream>
#include <thread>

namespace airlock::rig
{

namespace
{

namespace fs = std::filesystem;

constexpr std::size_t maxFile = 64U << 10;
constexpr Milliseconds gentle = std::chrono::seconds(20);
constexpr Milliseconds hard = std::chrono::seconds(20);

/** False when it still lives after the time. */
bool waitGone(const KnownProcess& process, Milliseconds time)
{
    for (Deadline deadline(time); process.alive();)
    {
        if (deadline.passed())
        {
            return false;
        }
        std::this_thread::sleep_for(Milliseconds(20));
    }
    return true;
}

void end(const std::optional<KnownProcess>& process)
{
    if (!process || !process->alive())
    {
        return;
    }
    process->signal(SIGTERM);
    if (waitGone(*process, gentle))
    {
        return;
    }
    process->signal(SIGKILL);
    if (!waitGone(*process, hard))
    {
        throw TimedOut(
            fmt::format("process {} of the rig does not end", process->pid));
    }
}

Json read(const fs::path& file)
{
    return fs::exists(file)
               ? parseJson(readTextFile(file, maxFile), file.string())
               : Json::object();
}

} // namespace

std::optional<KnownProcess> KnownProcess::of(pid_t pid, int proc)
{
    constexpr int startField = 22;
    constexpr int afterName = 3;
    const std::string name = fmt::format("{}/stat", pid);
    const UniqueFd fd(::openat(proc, name.c_str(), O_RDONLY | O_CLOEXEC));
    std::string text(maxFile, '\0');
    const ssize_t got = fd ? ::read(fd.get(), text.data(), text.size()) : -1;
    if (got <= 0)
    {
        return std::nullopt;
    }
    text.resize(static_cast<std::size_t>(got));
    // The name is in parentheses and may have some itself.
    std::istringstream fields(text.substr(text.rfind(')') + 1));
    std::string field;
    for (int i = afterName; i <= startField; i++)
    {
        fields >> field;
        if (field == "Z")
        {
            return std::nullopt; // has ended, and nobody has asked how
        }
    }
    return KnownProcess{pid, std::stoull(field)};
}

bool KnownProcess::alive() const
{
    const UniqueFd proc = openFile("/proc", O_RDONLY | O_DIRECTORY);
    const auto now = of(pid, proc.get());
    return now && now->start == start;
}

void KnownProcess::signal(int number) const
{
    // First a handle, then the look: so it is the one that is looked at.
    const UniqueFd handle(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (handle && alive())
    {
        ::syscall(SYS_pidfd_send_signal, handle.get(), number, nullptr, 0);
    }
}

RigState::RigState(const fs::path& build)
    : directory_(fs::absolute(build) / "rig")
{
    // Sockets below it have paths of up to so many bytes more, of 107.
    constexpr std::size_t most = 60;
    if (directory_.string().size() > most)
    {
        throw Error(directory_.string() +
                    " is too long a path for Unix sockets: set AIRLOCK_BUILD "
                    "to a shorter one");
    }
}

fs::path RigState::programs(const std::string& host) const
{
    return directory_ / "hosts" / host;
}

bool RigState::exists() const
{
    return fs::exists(directory_);
}

void RigState::noteKeeper(const KnownProcess& keeper, const KnownProcess& init)
{
    auto json = [](const KnownProcess& process) {
        return Json{{"pid", process.pid}, {"start", process.start}};
    };
    writeFileAtomic(directory_ / "processes",
                    dumpJson({{"keeper", json(keeper)}, {"init", json(init)}}));
}

std::optional<KnownProcess> RigState::process(const std::string& which) const
{
    const Json all = read(directory_ / "processes");
    if (!all.contains(which))
    {
        return std::nullopt;
    }
    return KnownProcess{all.at(which).at("pid").get<pid_t>(),
                        all.at(which).at("start").get<std::uint64_t>()};
}

void RigState::note(const std::string& state, const std::string& step)
{
    writeFileAtomic(directory_ / "status",
                    dumpJson({{"state", state}, {"step", step}}));
}

Json RigState::status() const
{
    return read(directory_ / "status");
}

bool RigState::takeDown()
{
    if (!exists())
    {
        return false;
    }
    // With the init go all processes of the rig, with the last of them its
    // namespaces, and with these its interfaces and mounts.
    const auto inside = init();
    end(keeper());
    end(inside);
    fs::remove_all(directory_);
    return true;
}

} // namespace airlock::rig
