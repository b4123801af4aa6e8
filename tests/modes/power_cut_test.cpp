#include "tests/integration/boot_jobs.hpp"
#include "tests/modes/boot_sector.hpp"
#include "tests/modes/switched_capsule.hpp"
#include "tests/unit/error_of.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

// The power of a capsule goes at each step of the cycle, of the machine and its
// TPM. The next start is clean mode, on the network; the job is there as a
// whole, or has failed and says so.

namespace airlock::test
{
namespace
{

using boot::JobState;
using capsule::ModeEnd;
using capsule::RunningMode;
using testing::HasSubstr;

constexpr std::uint64_t stagingBytes = 512U << 20;
constexpr std::uint64_t diskBytes = 8U << 20;
constexpr auto dirtyTime = std::chrono::minutes(15);
constexpr auto collectTime = std::chrono::minutes(3);

/** A disk that is read until the middle, where something happens. */
class DiskUntil : public handover::ImageSource
{
  public:
    DiskUntil(Bytes disk, std::function<void()> event)
        : disk_(std::move(disk)), event_(std::move(event))
    {}
    std::uint64_t bytes() const override { return disk_.size(); }
    std::uint64_t nextData(std::uint64_t begin) override { return begin; }
    void read(std::span<std::uint8_t> out, std::uint64_t offset) override
    {
        std::copy_n(disk_.begin() + static_cast<std::ptrdiff_t>(offset),
                    out.size(), out.begin());
        if (event_ && offset >= disk_.size() / 2)
        {
            std::exchange(event_, {})();
        }
    }

  private:
    Bytes disk_;
    std::function<void()> event_;
};

class PowerCut : public testing::Test
{
  protected:
    PowerCut()
    {
        Bytes sentinel(sentinelBytes);
        fillRandom(sentinel);
        disk_ = bootDisk(sentinel, diskBytes);
        // So that each piece of it goes over the wire.
        fillRandom(std::span(disk_).subspan(512));
    }
    ~PowerCut() override
    {
        std::printf("%-18s  %s\n", "power goes", "next clean mode finds");
        for (const auto& [step, outcome] : table_)
        {
            std::printf("%-18s  %s\n", step.c_str(), outcome.c_str());
        }
    }

    void create()
    {
        request_ = smallRequest(diskBytes);
        request_.policy = "serial:" + std::string(sectorSays);
        request_.timeout = std::chrono::minutes(10);
        host_.asHost(
            [&](boot::Client& client) { id_ = client.createJob(request_).id; });
    }

    void upload(const std::function<void()>& halfway = {})
    {
        host_.asHost([&](boot::Client& client) {
            DiskUntil source(disk_, halfway);
            client.uploadDisk(id_, 0, source);
        });
    }

    void seal()
    {
        host_.asHost([&](boot::Client& client) { client.seal(id_); });
    }

    boot::JobStatus status()
    {
        boot::JobStatus out;
        host_.asHost([&](boot::Client& client) {
            out = waitFinished(client, id_, collectTime);
        });
        return out;
    }

    /** All of the result, checked against its digests. */
    void fetch(const std::function<void()>& afterManifest = {})
    {
        host_.asHost([&](boot::Client& client) {
            const handover::Bundle bundle = client.fetchBundle(
                id_, [&](const handover::Manifest& manifest) {
                    manifest.requireJob(request_.job);
                    if (afterManifest)
                    {
                        afterManifest();
                    }
                });
            EXPECT_EQ(bundle.deviceState().size(),
                      bundle.manifest().deviceStateBytes);
        });
    }

    void note(const std::string& step, const boot::JobStatus& found,
              const std::string& more = {})
    {
        std::string text = toText(found.state);
        text += found.error ? ", " + found.error->code : "";
        table_.emplace_back(step, text + more);
    }

    void expectFailed(const std::string& step)
    {
        const boot::JobStatus found = status();
        note(step, found);
        EXPECT_EQ(found.state, JobState::failed) << dumpJson(found.toJson());
        EXPECT_EQ(found.error.value_or(boot::JobError()).code, "boot-failed");
    }

    void expectDone(const std::string& step)
    {
        const boot::JobStatus found = status();
        note(step, found, ", whole");
        ASSERT_EQ(found.state, JobState::done) << dumpJson(found.toJson());
    }

    /** Clean mode; what is done in it ends with the power. */
    void clean(const SwitchedCapsule::Meanwhile& until)
    {
        host_.cut(false, [&](RunningMode& mode) {
            host_.waitOpen(mode);
            until(mode);
        });
    }

    /** Clean mode to its own end, with a job for dirty mode. */
    void cleanToDirty(const std::string& step)
    {
        const ModeEnd end =
            host_.run(false, host_.bootTime, [&](RunningMode& mode) {
                host_.waitOpen(mode);
                expectFailed(step);
                create();
                upload();
                seal();
            });
        ASSERT_TRUE(end.dirtyNext) << end.console;
    }

    void cutAtConsole(bool dirty, const std::string& text)
    {
        host_.cut(dirty, [&](RunningMode& mode) {
            mode.waitForConsole(text, dirtyTime);
        });
    }

    SwitchedCapsule host_{imagesOf("AIRLOCK_BOOT_IMAGES", "power-cut"),
                          stagingBytes};
    Bytes disk_;
    boot::JobRequest request_;
    std::string id_;
    std::vector<std::pair<std::string, std::string>> table_;
};

TEST_F(PowerCut, AtEachStepLeavesAWholeJobOrNone)
{
    clean([&](RunningMode& mode) {
        create();
        EXPECT_THAT(
            errorOf<std::exception>([&] { upload([&] { mode.kill(); }); }),
            testing::Not(""));
    });
    clean([&](RunningMode&) {
        const boot::JobStatus found = status();
        note("uploading", found, ", disk missing");
        EXPECT_EQ(found.state, JobState::receiving);
        EXPECT_FALSE(found.uploaded.at(0));
        upload();
        seal();
    });
    // It goes on by itself: that it is sealed was told.
    cutAtConsole(false, "The machine goes dirty");
    table_.emplace_back("sealed", "queued, and goes on");
    ASSERT_NO_FATAL_FAILURE(cleanToDirty("going dirty"));
    cutAtConsole(true, "BdsDxe: starting");
    ASSERT_NO_FATAL_FAILURE(cleanToDirty("early dirty"));
    cutAtConsole(true, "STAGE=boot");
    ASSERT_NO_FATAL_FAILURE(cleanToDirty("guest booting"));
    cutAtConsole(true, "The dirty run is over");
    cutAtConsole(false, "The secrets are unsealed");
    // As soon as it is told that there is a result.
    clean([&](RunningMode&) {
        expectDone("result written");
        table_.emplace_back("collecting", "the same, looked through again");
    });
    clean([&](RunningMode& mode) {
        expectDone("open again");
        EXPECT_THAT(
            errorOf<std::exception>([&] { fetch([&] { mode.kill(); }); }),
            testing::Not(""));
    });
    clean([&](RunningMode& mode) {
        expectDone("downloading");
        fetch();
        std::thread remover([&] {
            errorOf<std::exception>([&] {
                host_.asHost([&](boot::Client& client) { client.remove(id_); });
            });
        });
        mode.kill();
        remover.join();
    });
    clean([&](RunningMode&) {
        const boot::JobStatus found = status();
        note("removing", found);
        EXPECT_THAT(found.state,
                    testing::AnyOf(JobState::done, JobState::gone));
        if (found.state == JobState::done)
        {
            fetch();
            host_.asHost([&](boot::Client& client) { client.remove(id_); });
        }
        create(); // there is room again
        EXPECT_EQ(status().state, JobState::receiving);
    });
}

} // namespace
} // namespace airlock::test
