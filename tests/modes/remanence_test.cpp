#include "bootsrv/machine/staging.hpp"
#include "tests/integration/boot_jobs.hpp"
#include "tests/modes/boot_sector.hpp"
#include "tests/modes/switched_capsule.hpp"
#include "tools/rigs/guest_case.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

// Two tenants' guests boot in one capsule, one after the other, with the images
// as they are shipped. Each has a text of its own on its disk, and makes
// another one of it in its memory. While the second guest is there, the whole
// capsule is searched from outside for what the first one had.

namespace airlock::test
{
namespace
{

using boot::JobState;
using capsule::ModeEnd;
using capsule::RunningMode;
using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::StartsWith;

constexpr std::uint64_t stagingBytes = 512U << 20;
constexpr std::uint64_t diskBytes = 2U << 20;
/** Of staging, where its header is. */
constexpr std::size_t headBytes = 64U << 10;
constexpr auto dirtyTime = std::chrono::minutes(15);

/** A tenant with its guest. */
struct Tenant
{
    explicit Tenant(const std::string& tenant)
        : request(smallRequest(diskBytes, tenant)), host("host-" + tenant),
          sentinel(sentinelBytes)
    {
        fillRandom(sentinel);
        request.policy = "serial:" + std::string(sectorSays);
        request.timeout = std::chrono::minutes(10);
    }

    boot::JobRequest request;
    std::string host; ///< its host agent
    Bytes sentinel;
    std::string id;
    /** What its job is encrypted with on the disk. */
    Bytes key;
};

class Remanence : public testing::Test
{
  protected:
    void send(Tenant& tenant)
    {
        host_.asHost(
            [&](boot::Client& client) {
                const Bytes disk = bootDisk(tenant.sentinel, diskBytes);
                tenant.id =
                    uploadSmall(client, tenant.request, asText(disk), 0);
                client.seal(tenant.id);
            },
            tenant.host);
    }

    void fetchAndRemove(const Tenant& tenant)
    {
        host_.asHost(
            [&](boot::Client& client) {
                const boot::JobStatus status =
                    waitFinished(client, tenant.id, std::chrono::minutes(3));
                ASSERT_EQ(status.state, JobState::done)
                    << dumpJson(status.toJson()) << dirty_.console;
                const handover::Bundle bundle = client.fetchBundle(
                    tenant.id, [&](const handover::Manifest& manifest) {
                        manifest.requireJob(tenant.request.job);
                    });
                EXPECT_GT(bundle.deviceState().size(), 0U);
                client.remove(tenant.id);
            },
            tenant.host);
    }

    /** The dirty mode of a tenant; the machine stands still while its guest has
     * booted, and is searched then. */
    void dirty(const std::function<void()>& search)
    {
        dirty_ = host_.run(true, dirtyTime, [&](RunningMode& mode) {
            mode.waitForConsole("STAGE=save", dirtyTime);
            saveMemory(mode, memory(), host_.options().memoryMiB);
            search();
            mode.qmp().execute("cont");
        });
    }

    /** Of the job that dirty mode has, from outside. */
    Bytes jobKey()
    {
        Bytes head(headBytes);
        const UniqueFd disk = openFile(host_.capsule().stagingDisk(), O_RDONLY);
        readExactAt(disk.get(), head, host_.capsule().layout().staging);
        const std::filesystem::path file = home_.path() / "head";
        writeFileAtomic(file, head);
        machine::DeviceBlocks staging(file);
        const std::optional<Secret> key = machine::readHeader(staging);
        if (!key)
        {
            throw Error("dirty mode runs without the key of a job");
        }
        return copyOf(key->view());
    }

    std::size_t inMemory(ByteView text) const
    {
        return occurrences(memory(), text);
    }
    std::vector<std::string> inFiles(ByteView text) const
    {
        return filesWith(host_.directory(), text);
    }
    std::filesystem::path memory() const { return home_.path() / "memory"; }

    SwitchedCapsule host_{imagesOf("AIRLOCK_BOOT_IMAGES", "remanence"),
                          stagingBytes};
    TempDirectory home_ = rig::roomyDirectory("remanence");
    ModeEnd dirty_;
};

TEST_F(Remanence, NothingOfATenantIsThereWhileTheNextOneBoots)
{
    Tenant blue("blue");
    Tenant green("green");
    host_.run(false, host_.bootTime, [&](RunningMode& mode) {
        host_.waitOpen(mode);
        send(blue);
    });
    EXPECT_THAT(inFiles(blue.sentinel), IsEmpty()); // encrypted
    // The search of files finds what is there in the clear.
    EXPECT_THAT(inFiles(asBytes("\"policies\"")),
                Contains(StartsWith("data.img")));

    dirty([&] {
        blue.key = jobKey();
        // It is there while its guest boots: on its disk, and in its memory.
        EXPECT_GT(inMemory(blue.sentinel), 0U);
        EXPECT_GT(inMemory(masked(blue.sentinel)), 0U);
        EXPECT_THAT(inFiles(blue.sentinel), IsEmpty());
        // With its key, whoever has the disk has the job.
        EXPECT_GT(inMemory(blue.key), 0U);
        EXPECT_THAT(inFiles(blue.key), ElementsAre(StartsWith("staging.img")));
    });

    host_.run(false, host_.bootTime, [&](RunningMode& mode) {
        host_.waitOpen(mode);
        fetchAndRemove(blue);
        send(green);
    });

    dirty([&] {
        EXPECT_GT(inMemory(green.sentinel), 0U);
        EXPECT_GT(inMemory(masked(green.sentinel)), 0U);
        EXPECT_NE(jobKey(), blue.key);
        for (const Bytes& text :
             {blue.sentinel, masked(blue.sentinel), blue.key})
        {
            EXPECT_EQ(inMemory(text), 0U);
            EXPECT_THAT(inFiles(text), IsEmpty());
        }
    });
    EXPECT_THAT(inFiles(green.sentinel), IsEmpty());

    host_.cut(false, [&](RunningMode& mode) {
        host_.waitOpen(mode);
        fetchAndRemove(green);
    });
}

} // namespace
} // namespace airlock::test
