#include "bootsrv/boot_runner.hpp"

#include "bootsrv/boot_run.hpp"
#include "bootsrv/dirty_side.hpp"
#include "common/file.hpp"
#include "common/sha256.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <future>

namespace airlock::boot
{

namespace fs = std::filesystem;

namespace
{

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
    giveRunDirectory(settings, run);
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
        manifest_.guest = shapeOf(work_.request);
        manifest_.seconds = seconds;
        writeFileAtomic(path(ResultFile::manifest), manifest_.toJson(), 0600);
        return result_;
    }

  private:
    fs::path path(ResultFile file, std::size_t disk = 0) const
    {
        return resultFile(work_.directory, file, disk);
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
    runDirtySide(settings, work.request, runDirectory(work.directory),
                 {work.cancelled.get(), &stopping}, clock);
    clock.enter("digest");
    JobResult result = ResultMaker(work).make(clock.seconds());
    clock.enter("");
    return result;
}

} // namespace airlock::boot
