#include "bootsrv/machine/dirty_mode.hpp"

#include "bootsrv/boot_run.hpp"
#include "bootsrv/machine/collect.hpp"
#include "bootsrv/machine/staging.hpp"
#include "common/error.hpp"
#include "common/file.hpp"
#include "common/log.hpp"
#include "devmodel/handover/image_stream.hpp"
#include "devmodel/handover/manifest.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

namespace airlock::machine
{

namespace fs = std::filesystem;

namespace
{

constexpr std::size_t maxMessage = 1000;

/** The one job of staging, taken out and put back. */
class DirtyRun
{
  public:
    DirtyRun(const DirtySetup& setup, Blocks& staging, const Secret& key)
        : setup_(setup), staging_(staging),
          request_(stagedRequest(staging, key)),
          layout_(Layout::of(request_, staging.bytes())),
          in_(staging, layout_.in, key, inArea),
          out_(staging, layout_.out, key, outArea), run_(prepareWork(key))
    {}

    /** The boot, from the disks in staging to the result there. */
    void run(boot::StageClock& clock)
    {
        clock.enter("unpack");
        for (std::size_t i = 0; i < request_.disks.size(); i++)
        {
            unpack(i);
        }
        writeFileAtomic(run_ / boot::runRequestName,
                        dumpJson(request_.toJson()), 0600);
        boot::giveRunDirectory(setup_.boot, run_);
        boot::runDirtySide(setup_.boot, request_, run_, {stop()}, clock);
        clock.enter("pack");
        pack();
    }

    /** The last word: what was packed before is on the disk by then. */
    void report(const RunReport& report)
    {
        staging_.sync();
        std::string text = report.toText();
        writeRecord(out_, layout_.result, asBytes(text));
        staging_.sync();
    }

  private:
    fs::path prepareWork(const Secret& key) const
    {
        fs::path work = setup_.work;
        if (setup_.mountScratch)
        {
            work = setup_.mountScratch({setup_.staging,
                                        layout_.scratch.offset / sectorBytes,
                                        layout_.scratch.bytes / sectorBytes,
                                        areaKey(key, scratchArea)});
        }
        fs::path run = work / "run";
        fs::create_directories(run);
        fs::permissions(run, fs::perms::owner_all);
        return run;
    }

    const std::atomic<bool>* stop() const
    {
        static const std::atomic<bool> never = false;
        return setup_.stop != nullptr ? setup_.stop : &never;
    }

    /** A disk as it was uploaded, and what it is made of. */
    void unpack(std::size_t disk)
    {
        const Slot& slot = layout_.disks[disk];
        std::uint64_t bytes = request_.disks[disk].bytes;
        std::optional<RecordHead> head = findRecord(in_, slot);
        if (!head)
        {
            throw Refused("staging", fmt::format("has no disk {}", disk));
        }
        UniqueFd fd = openFile(run_ / boot::runDiskName(disk),
                               O_RDWR | O_CREAT | O_TRUNC, 0600);
        if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0)
        {
            throwErrno(fmt::format("cannot make disk {}", disk));
        }
        handover::ImageFile file(fd.get(), bytes);
        handover::MemoryDigest before;
        before.bytes = bytes;
        handover::ImageStreamReader reader(
            bytes, [&](const handover::ImageChunk& chunk) {
                file.write(chunk);
                if (chunk.mask != 0)
                {
                    before.chunks.push_back({chunk.index, chunkDigest(chunk)});
                }
            });
        readRecord(in_, slot, *head,
                   [&reader](ByteView data) { reader.feed(data); });
        reader.finish();
        before_.push_back(std::move(before));
    }

    void pack()
    {
        UniqueFd run(::open(run_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
        if (!run)
        {
            throwErrno("cannot open the run directory");
        }
        UniqueFd state = openRegularAt(run.get(), boot::runStateName, O_RDONLY);
        writeRecord(out_, layout_.state,
                    readFile(state.get(), handover::deviceStateMaxBytes,
                             boot::runStateName));
        packImage(run.get(), boot::runMemoryName, layout_.memory,
                  request_.guest.memory, nullptr);
        for (std::size_t i = 0; i < layout_.deltas.size(); i++)
        {
            if (layout_.deltas[i])
            {
                packImage(run.get(), boot::runDiskName(i), *layout_.deltas[i],
                          request_.disks[i].bytes, &before_[i]);
            }
        }
    }

    void packImage(int run, const std::string& name, const Slot& slot,
                   std::uint64_t bytes, const handover::MemoryDigest* base)
    {
        UniqueFd fd = openRegularAt(run, name, O_RDONLY);
        handover::FileImage image(fd.get(), bytes);
        RecordWriter writer(out_, slot);
        handover::writeImageStream(
            image, [&writer](ByteView data) { writer.write(data); }, base);
        writer.finish();
    }

    const DirtySetup& setup_;
    Blocks& staging_;
    boot::JobRequest request_;
    Layout layout_;
    CryptArea in_;
    CryptArea out_;
    fs::path run_;
    std::vector<handover::MemoryDigest> before_; ///< by disk
};

/** Runs it, and says how it went. */
RunReport runAndDescribe(DirtyRun& run)
{
    boot::BootWatcher watcher;
    watcher.stage = [](const std::string& stage, double) {
        log::info("A stage of the boot begins", {{"STAGE", stage}});
    };
    watcher.weakFence = [](const std::string& missing) {
        log::warning("The boot is fenced off less than it could be",
                     {{"MISSING", missing}});
    };
    boot::StageClock clock(watcher);
    RunReport out;
    auto fail = [&out](const std::string& code, const std::exception& error) {
        out.code = code;
        out.message = plainText(error.what(), maxMessage);
    };
    try
    {
        run.run(clock);
        out.code = "done";
    }
    catch (const boot::BootFailed& error)
    {
        fail(error.code(), error);
    }
    catch (const boot::BootCancelled&)
    {
        throw;
    }
    catch (const SystemError& error)
    {
        bool full = error.code() == ENOSPC || error.code() == EDQUOT;
        fail(full ? "no-space" : "internal", error);
    }
    catch (const std::exception& error)
    {
        fail("internal", error);
    }
    clock.enter("");
    out.seconds = clock.seconds();
    return out;
}

} // namespace

int runDirtyMode(const DirtySetup& setup)
{
    try
    {
        DeviceBlocks staging(setup.staging);
        std::optional<Secret> key = readHeader(staging);
        if (!key)
        {
            log::error("There is no job for dirty mode");
            return 1;
        }
        DirtyRun run(setup, staging, *key);
        RunReport report = runAndDescribe(run);
        run.report(report);
        log::notice("The dirty run is over",
                    {{"CODE", report.code}, {"REASON", report.message}});
        return 0;
    }
    catch (const std::exception& error)
    {
        log::error("The dirty run cannot be done", {{"REASON", error.what()}});
        return 1;
    }
}

} // namespace airlock::machine
