#include "bootsrv/boot_runner.hpp"

#include "bootsrv/boot_run.hpp"
#include "bootsrv/isolate.hpp"
#include "common/file.hpp"
#include "common/process.hpp"
#include "common/sha256.hpp"
#include "devmodel/vm/hand_over.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <poll.h>
#include <pwd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <future>

namespace airlock::boot
{

namespace fs = std::filesystem;

namespace
{

using Clock = std::chrono::steady_clock;

/** Beyond the time for the guest to come up: starting, saving, copying. */
constexpr Milliseconds extraTime = std::chrono::minutes(5);
constexpr Milliseconds waitStep{200};
constexpr std::size_t maxSaid = 4096;
constexpr std::size_t pipeBytes = 64U << 10;
/** What bootrun may say; anything else is not repeated to anybody. */
constexpr std::array<std::string_view, 4> stages = {"start", "boot", "save",
                                                    "memory"};

/** Notes when stages begin and how long they took. */
class StageClock
{
  public:
    explicit StageClock(const BootWatcher& watcher) : watcher_(watcher) {}

    /** Each stage once and in their order: who says so may be a guest. */
    void enterNext(std::string_view stage)
    {
        auto* at = std::find(stages.begin() + entered_, stages.end(), stage);
        if (at != stages.end())
        {
            entered_ = at - stages.begin() + 1;
            enter(std::string(stage));
        }
    }

    void enter(const std::string& stage)
    {
        std::chrono::duration<double> time = Clock::now() - start_;
        start_ = Clock::now();
        seconds_[stage_] = time.count();
        stage_ = stage;
        watcher_.stage(stage, time.count());
    }

    /** Of the stages that are over. */
    std::map<std::string, double> seconds() const
    {
        auto out = seconds_;
        out.erase("");
        return out;
    }

  private:
    const BootWatcher& watcher_;
    Clock::time_point start_ = Clock::now();
    std::string stage_;
    std::map<std::string, double> seconds_;
    std::ptrdiff_t entered_ = 0; ///< of `stages`
};

void copyDisk(const fs::path& from, const fs::path& to, std::uint64_t size,
              const std::atomic<bool>& cancelled)
{
    UniqueFd source = openFile(from, O_RDONLY);
    UniqueFd copy = openFile(to, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (::ioctl(copy.get(), FICLONE, source.get()) == 0)
    {
        return;
    }
    if (::ftruncate(copy.get(), static_cast<off_t>(size)) != 0)
    {
        throwErrno("cannot create " + to.string());
    }
    copySparse(source.get(), copy.get(), size, [&cancelled] {
        if (cancelled)
        {
            throw BootCancelled("the job was cancelled");
        }
    });
}

/** The directory that is the dirty side's, with what it works on. */
void prepareRun(const BootSettings& settings, const Work& work)
{
    fs::path run = runDirectory(work.directory);
    fs::remove_all(run);
    fs::create_directory(run);
    fs::permissions(run, fs::perms::owner_all);
    writeFileAtomic(run / runRequestName, dumpJson(work.request.toJson()),
                    0600);
    for (std::size_t i = 0; i < work.request.disks.size(); i++)
    {
        copyDisk(diskFile(work.directory, i), run / runDiskName(i),
                 work.request.disks[i].bytes, *work.cancelled);
    }
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

SpawnOptions bootrunArgv(const BootSettings& settings, const Work& work)
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
    out.argv.push_back(runDirectory(work.directory).string());
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
void follow(Pipe& out, StageClock& clock, const BootWatcher& watcher)
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
                watcher.weakFence(std::string(part));
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

/** Has the dirty side do its work. On return it is dead. */
void runDirtySide(const BootSettings& settings, const Work& work,
                  const std::atomic<bool>& stopping, StageClock& clock,
                  const BootWatcher& watcher)
{
    Pipe out;
    Pipe err;
    SpawnOptions spawn = bootrunArgv(settings, work);
    spawn.stdoutFd = out.childs.get();
    spawn.stderrFd = err.childs.get();
    Process process(spawn);
    out.childs.reset();
    err.childs.reset();
    Deadline deadline(work.request.timeout + extraTime);
    for (;;)
    {
        waitForNews(out, process);
        std::optional<ExitStatus> status = process.wait(Milliseconds(0));
        follow(out, clock, watcher);
        err.drain();
        if (status)
        {
            requireBooted(*status, err);
            return;
        }
        if (*work.cancelled || stopping)
        {
            process.kill();
            throw BootCancelled("the job was cancelled");
        }
        if (deadline.passed())
        {
            process.kill();
            throw BootFailed("timeout", "the boot did not end");
        }
    }
}

/** A file that the dirty side left: of no other kind and size than it has to
 * be. What is in it is not looked at. */
UniqueFd openLeft(int directory, const std::string& name, std::uint64_t size)
{
    UniqueFd fd = openRegularAt(directory, name, O_RDONLY);
    if (fileSize(fd.get()) != size)
    {
        throw Refused(name, fmt::format("has {} bytes, not {}",
                                        fileSize(fd.get()), size));
    }
    return fd;
}

/** An output file with what is written to it. */
class OutFile
{
  public:
    explicit OutFile(const fs::path& path)
        : fd_(openFile(path, O_WRONLY | O_CREAT | O_TRUNC, 0600))
    {}

    handover::ImageSink sink()
    {
        return [this](ByteView data) {
            writeAll(fd_.get(), data);
            bytes_ += data.size();
        };
    }

    std::uint64_t bytes() const { return bytes_; }

  private:
    UniqueFd fd_;
    std::uint64_t bytes_ = 0;
};

/** Makes out/ of the files of the dirty side. They are read, hashed and packed
 * page by page; what they mean is for the production host to judge. */
class ResultMaker
{
  public:
    explicit ResultMaker(const Work& work) : work_(work)
    {
        fs::path out = work.directory / "out";
        fs::remove_all(out);
        fs::create_directory(out);
        run_.reset(::open(runDirectory(work.directory).c_str(),
                          O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
        if (!run_)
        {
            throwErrno("cannot open the run directory");
        }
    }

    JobResult make(const std::map<std::string, double>& seconds)
    {
        // Reading and comparing disks takes as long as hashing memory.
        auto disks = std::async(std::launch::async, [this] {
            for (std::size_t i = 0; i < work_.request.disks.size(); i++)
            {
                takeDisk(i);
            }
        });
        takeMemory();
        takeState();
        disks.get();
        manifest_.job = work_.request.job;
        manifest_.guest = vm::shapeOf(specOf(work_.request));
        manifest_.seconds = seconds;
        writeFileAtomic(path(ResultFile::manifest), manifest_.toJson(), 0600);
        return result_;
    }

  private:
    fs::path path(ResultFile file, std::size_t disk = 0) const
    {
        return resultFile(work_.directory, file, disk);
    }

    /** The disks' paths do not matter, their number does. */
    static vm::GuestSpec specOf(const JobRequest& request)
    {
        vm::GuestSpec spec = request.guest;
        for (const DiskShape& disk : request.disks)
        {
            spec.disks.push_back({"", disk.readOnly});
        }
        return spec;
    }

    void takeMemory()
    {
        std::uint64_t bytes = work_.request.guest.memory;
        UniqueFd fd = openLeft(run_.get(), runMemoryName, bytes);
        handover::FileImage image(fd.get(), bytes);
        OutFile stream(path(ResultFile::memory));
        handover::MemoryDigest digest =
            handover::writeImageStream(image, stream.sink()).digest;
        result_.memoryBytes = stream.bytes();
        manifest_.memoryChunks = digest.chunks.size();
        manifest_.memoryRoot = digest.root();
        OutFile(path(ResultFile::digests)).sink()(digest.encode());
    }

    void takeState()
    {
        UniqueFd fd = openRegularAt(run_.get(), runStateName, O_RDONLY);
        Bytes state =
            readFile(fd.get(), handover::deviceStateMaxBytes, runStateName);
        manifest_.deviceStateBytes = state.size();
        manifest_.deviceStateSha256 = sha256(state);
        OutFile(path(ResultFile::state)).sink()(state);
    }

    void takeDisk(std::size_t disk)
    {
        const DiskShape& shape = work_.request.disks[disk];
        if (shape.readOnly)
        {
            result_.disks.emplace_back();
            return;
        }
        UniqueFd now = openLeft(run_.get(), runDiskName(disk), shape.bytes);
        UniqueFd before = openFile(diskFile(work_.directory, disk), O_RDONLY);
        handover::FileImage nowImage(now.get(), shape.bytes);
        handover::FileImage beforeImage(before.get(), shape.bytes);
        OutFile stream(path(ResultFile::disk, disk));
        Sha256 hash;
        auto sink = stream.sink();
        handover::writeImageDelta(nowImage, beforeImage, [&](ByteView data) {
            hash.update(data);
            sink(data);
        });
        result_.disks.push_back(DeltaFile{stream.bytes(), hash.finish()});
    }

    const Work& work_;
    UniqueFd run_;
    handover::Manifest manifest_;
    JobResult result_;
};

} // namespace

JobResult runBoot(const BootSettings& settings, const Work& work,
                  const std::atomic<bool>& stopping, const BootWatcher& watcher)
{
    StageClock clock(watcher);
    clock.enter("copy");
    prepareRun(settings, work);
    runDirtySide(settings, work, stopping, clock, watcher);
    clock.enter("digest");
    JobResult result = ResultMaker(work).make(clock.seconds());
    clock.enter("");
    return result;
}

} // namespace airlock::boot
