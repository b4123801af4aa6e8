#include "bootsrv/dirty_side.hpp"

#include "bootsrv/boot_run.hpp"
#include "bootsrv/isolate.hpp"
#include "common/fd.hpp"
#include "common/json.hpp"
#include "common/process.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace airlock::boot
{

namespace fs = std::filesystem;

namespace
{

/** Of bootrun, which ends when all that it has started has gone. */
constexpr Milliseconds goneTime = std::chrono::seconds(30);
/** Beyond the time for the guest to come up: starting, saving, copying. */
constexpr Milliseconds extraTime = std::chrono::minutes(5);
constexpr Milliseconds waitStep{200};
constexpr std::size_t maxSaid = 4096;
constexpr std::size_t pipeBytes = 64U << 10;
/** What bootrun may say; anything else is not repeated to anybody. */
constexpr std::array<std::string_view, 4> stages = {"start", "boot", "save",
                                                    "memory"};

SpawnOptions bootrunArgv(const BootSettings& settings, const fs::path& run)
{
    SpawnOptions out;
    out.argv = {settings.bootrun.string(), "--qemu", settings.qemu.string()};
    auto add = [&out](const char* option, const std::string& value) {
        if (!value.empty())
        {
            out.argv.insert(out.argv.end(), {option, value});
        }
    };
    add("--data", settings.firmwareDirectory.string());
    add("--firmware", settings.firmware);
    add("--user", settings.user);
    add("--hide", settings.hide.string());
    out.argv.push_back(run.string());
    out.env = std::vector<std::string>{"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                                       "LANG=C.UTF-8"};
    out.workingDirectory = "/";
    return out;
}

/** A pipe that the child writes to and we read without waiting. */
struct Pipe
{
    UniqueFd ours;
    UniqueFd childs;
    std::string text;
    bool open = true; ///< somebody may still write to it

    Pipe()
    {
        int ends[2];
        if (::pipe2(ends, O_CLOEXEC) != 0)
        {
            throwErrno("cannot make a pipe");
        }
        ours.reset(ends[0]);
        childs.reset(ends[1]);
        ::fcntl(ours.get(), F_SETFL, O_NONBLOCK);
    }

    /** Keeps the last of it. Of one that never stops a pipe full at a time:
     * there is more to look after. */
    void drain()
    {
        std::array<char, 4096> piece;
        ssize_t got = 0;
        std::size_t left = pipeBytes;
        while (left > 0 &&
               (got = ::read(ours.get(), piece.data(), piece.size())) > 0)
        {
            left -= std::min(left, static_cast<std::size_t>(got));
            text.append(piece.data(), static_cast<std::size_t>(got));
            if (text.size() > maxSaid)
            {
                text.erase(0, text.size() - maxSaid);
            }
        }
        open = open && got != 0;
    }

    std::optional<std::string> line()
    {
        std::size_t end = text.find('\n');
        if (end == std::string::npos)
        {
            return std::nullopt;
        }
        std::string out = text.substr(0, end);
        text.erase(0, end + 1);
        return out;
    }
};

/** Returns when bootrun has said something or has ended, or after a while. */
void waitForNews(Pipe& out, const Process& process)
{
    std::array<pollfd, 2> fds = {{{process.pidFd(), POLLIN, 0},
                                  {out.open ? out.ours.get() : -1, POLLIN, 0}}};
    ::poll(fds.data(), fds.size(), static_cast<int>(waitStep.count()));
}

/** Takes what bootrun has said. Only its own words are repeated: by then a
 * guest may be speaking. */
void follow(Pipe& out, StageClock& clock)
{
    out.drain();
    while (auto line = out.line())
    {
        for (std::string_view stage : stages)
        {
            if (*line == fmt::format("stage {}", stage))
            {
                clock.enterNext(stage);
            }
        }
        for (std::string_view part : fenceParts)
        {
            if (*line == fmt::format("without {}", part))
            {
                clock.watcher().weakFence(std::string(part));
            }
        }
    }
}

/** The last line, without what nobody should have in a terminal. */
std::string lastWords(std::string text)
{
    while (!text.empty() && text.back() == '\n')
    {
        text.pop_back();
    }
    std::size_t start = text.rfind('\n');
    std::string last =
        start == std::string::npos ? text : text.substr(start + 1);
    return last.empty() ? "no reason given" : plainText(last, 1000);
}

void requireBooted(const ExitStatus& status, Pipe& err)
{
    if (status.ok())
    {
        return;
    }
    err.drain();
    std::string said = lastWords(err.text);
    if (status.code == bootTimedOut)
    {
        throw BootFailed("timeout", said);
    }
    if (status.code == bootNoSpace)
    {
        throw BootFailed("no-space", said);
    }
    throw BootFailed("boot-failed",
                     status.code == bootFailed
                         ? said
                         : "airlock-bootrun: " + status.describe());
}

} // namespace

void StageClock::enterNext(std::string_view stage)
{
    const auto* at = std::find(stages.begin() + entered_, stages.end(), stage);
    if (at != stages.end())
    {
        entered_ = at - stages.begin() + 1;
        enter(std::string(stage));
    }
}

void StageClock::enter(const std::string& stage)
{
    std::chrono::duration<double> time = Clock::now() - start_;
    start_ = Clock::now();
    seconds_[stage_] = time.count();
    stage_ = stage;
    watcher_.stage(stage, time.count());
}

std::map<std::string, double> StageClock::seconds() const
{
    auto out = seconds_;
    out.erase("");
    return out;
}

void giveRunDirectory(const BootSettings& settings, const fs::path& run)
{
    if (settings.user.empty())
    {
        return;
    }
    const passwd* user = ::getpwnam(settings.user.c_str());
    if (user == nullptr)
    {
        throw Error("there is no user " + settings.user);
    }
    auto give = [user](const fs::path& path) {
        if (::lchown(path.c_str(), user->pw_uid, user->pw_gid) != 0)
        {
            throwErrno("cannot give " + path.string() + " to " + user->pw_name);
        }
    };
    give(run);
    for (const auto& entry : fs::directory_iterator(run))
    {
        give(entry.path());
    }
}

void runDirtySide(const BootSettings& settings, const JobRequest& request,
                  const fs::path& run,
                  const std::vector<const std::atomic<bool>*>& ends,
                  StageClock& clock)
{
    Pipe out;
    Pipe err;
    SpawnOptions spawn = bootrunArgv(settings, run);
    spawn.stdoutFd = out.childs.get();
    spawn.stderrFd = err.childs.get();
    Process process(spawn);
    out.childs.reset();
    err.childs.reset();
    Deadline deadline(request.timeout + extraTime);
    for (;;)
    {
        waitForNews(out, process);
        std::optional<ExitStatus> status = process.wait(Milliseconds(0));
        follow(out, clock);
        err.drain();
        if (status)
        {
            requireBooted(*status, err);
            return;
        }
        if (std::any_of(
                ends.begin(), ends.end(),
                [](const std::atomic<bool>* end) { return end->load(); }))
        {
            process.terminate(goneTime);
            throw BootCancelled("the job was cancelled");
        }
        if (deadline.passed())
        {
            process.terminate(goneTime);
            throw BootFailed("timeout", "the boot did not end");
        }
    }
}

} // namespace airlock::boot
