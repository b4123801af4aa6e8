#include "common/file.hpp"
#include "devmodel/handover/bundle.hpp"
#include "error_of.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

namespace airlock::handover
{
namespace
{

using test::errorOf;
namespace fs = std::filesystem;

constexpr std::uint64_t mib = 1U << 20;
constexpr std::uint64_t guestBytes = 16 * mib;

UniqueFd guestMemory()
{
    UniqueFd fd = createMemfd("guest", guestBytes);
    writeAllAt(fd.get(), Bytes(3 * mib, 0x5a), mib);
    writeAllAt(fd.get(), Bytes(10, 1), guestBytes - 10);
    return fd;
}

Bundle sample()
{
    Manifest manifest;
    manifest.job = JobTicket::issue("0f8fad5b-d9cb-469f-a165-70867728950e", 3);
    manifest.guest.bootMachine = "airlock-boot-1.0";
    manifest.guest.productionMachine = "airlock-1.0";
    manifest.guest.accelerator = "tcg";
    manifest.guest.cpuModel = "qemu64";
    manifest.guest.vcpus = 1;
    manifest.guest.memoryBytes = guestBytes;
    manifest.guest.lowMemoryBytes = guestBytes;
    UniqueFd memory = guestMemory();
    MemoryDigest digest = describeMemory(memory.get(), guestBytes).digest;
    return Bundle(manifest, {'Q', 'E', 'V', 'M'}, digest, std::move(memory));
}

class BundleDirectory : public testing::Test
{
  protected:
    BundleDirectory() : path_(dir_.path() / "bundle") { sample().save(path_); }

    std::string refusal() const
    {
        return errorOf([&] { Bundle::open(path_); });
    }

    void overwrite(const char* name, std::uint64_t at, std::uint8_t value) const
    {
        writeAllAt(openFile(path_ / name, O_WRONLY).get(), {&value, 1}, at);
    }

    TempDirectory dir_;
    fs::path path_;
};

TEST_F(BundleDirectory, OpensAsItWasSaved)
{
    Bundle bundle = Bundle::open(path_);
    EXPECT_EQ(bundle.deviceState(), (Bytes{'Q', 'E', 'V', 'M'}));
    EXPECT_EQ(bundle.manifest().memoryChunks, 13U);
    EXPECT_NO_THROW(bundle.requireJob(bundle.manifest().job));
    JobTicket other = bundle.manifest().job;
    ++other.generation;
    EXPECT_THROW(bundle.requireJob(other), Refused);

    UniqueFd memory = createMemfd("production", guestBytes);
    MemoryFigures figures = bundle.copyMemoryTo(memory.get());
    EXPECT_EQ(figures.pages, 3 * mib / memoryPageBytes + 1);
    EXPECT_EQ(readFile(memory.get(), guestBytes, "production"),
              readFile(guestMemory().get(), guestBytes, "guest"));
}

TEST_F(BundleDirectory, TheImageOnDiskIsSparseAndPrivate)
{
    struct stat info = {};
    ASSERT_EQ(::stat((path_ / "memory.img").c_str(), &info), 0);
    EXPECT_EQ(info.st_size, static_cast<off_t>(guestBytes));
    EXPECT_LT(info.st_blocks * 512, static_cast<blkcnt_t>(4 * mib));
    ASSERT_EQ(::stat(path_.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0700U);
}

TEST_F(BundleDirectory, SaveReplacesNothingAndRepairsATryThatWasCutShort)
{
    EXPECT_THROW(sample().save(path_), Error);
    fs::path next = dir_.path() / "next";
    fs::create_directory(next.string() + ".part");
    writeFileAtomic(next.string() + ".part/memory.img",
                    std::string_view("half"));
    sample().save(next);
    EXPECT_NO_THROW(Bundle::open(next));
    EXPECT_FALSE(fs::exists(next.string() + ".part"));
}

TEST_F(BundleDirectory, EveryFileIsRequired)
{
    for (const char* name :
         {"manifest.json", "device-state", "memory.digests", "memory.img"})
    {
        fs::rename(path_ / name, dir_.path() / "away");
        EXPECT_THAT(refusal(), testing::StartsWith(name));
        fs::create_symlink(dir_.path() / "away", path_ / name);
        EXPECT_THAT(refusal(), testing::HasSubstr("is a symbolic link"));
        fs::remove(path_ / name);
        ASSERT_EQ(::mkfifo((path_ / name).c_str(), 0600), 0);
        EXPECT_THAT(refusal(), testing::HasSubstr("is no regular file"));
        fs::remove(path_ / name);
        fs::rename(dir_.path() / "away", path_ / name);
    }
    EXPECT_EQ(refusal(), "");
}

TEST_F(BundleDirectory, RefusesADirectoryThatIsALinkOrMissing)
{
    fs::create_directory_symlink(path_, dir_.path() / "link");
    EXPECT_THROW(Bundle::open(dir_.path() / "link"), Refused);
    EXPECT_THROW(Bundle::open(dir_.path() / "absent"), Refused);
}

TEST_F(BundleDirectory, EveryFileHasTheSizeThatTheManifestSays)
{
    for (const char* name : {"device-state", "memory.digests", "memory.img"})
    {
        auto size = static_cast<off_t>(fs::file_size(path_ / name));
        for (off_t wrong : {size - 1, size + 1, off_t{0}})
        {
            fs::path copy = dir_.path() / "copy";
            fs::copy_file(path_ / name, copy);
            ASSERT_EQ(::truncate((path_ / name).c_str(), wrong), 0);
            EXPECT_THAT(refusal(), testing::StartsWith(name)) << wrong;
            fs::rename(copy, path_ / name);
        }
    }
    EXPECT_EQ(refusal(), "");
}

TEST_F(BundleDirectory, RefusesChangedContentWhereItIsRead)
{
    overwrite("device-state", 1, 'x');
    EXPECT_EQ(refusal(), "device-state: does not match its digest");
    overwrite("device-state", 1, 'E');
    overwrite("memory.digests", 12, 0xff);
    EXPECT_EQ(refusal(), "memory.digests: does not match the manifest's root");
}

TEST_F(BundleDirectory, RefusesAChangedMemoryImageWhenItIsCopied)
{
    overwrite("memory.img", 2 * mib, 0);
    Bundle bundle = Bundle::open(path_);
    UniqueFd memory = createMemfd("production", guestBytes);
    EXPECT_THROW(bundle.copyMemoryTo(memory.get()), Refused);
    overwrite("memory.img", 2 * mib, 0x5a);
    EXPECT_NO_THROW(bundle.copyMemoryTo(memory.get()));
}

TEST_F(BundleDirectory, RefusesAManifestThatIsTooLarge)
{
    writeFileAtomic(path_ / "manifest.json", std::string(2 * mib, ' '));
    EXPECT_THAT(refusal(), testing::StartsWith("manifest.json"));
}

TEST(Bundle, RefusesPartsThatDoNotFitTogether)
{
    Bundle good = sample();
    MemoryDigest digest = good.memoryDigest();
    Manifest manifest = good.manifest();
    EXPECT_THROW(
        Bundle(manifest, {}, digest, createMemfd("short", guestBytes / 2)),
        Refused);
    EXPECT_THROW(
        Bundle(manifest, Bytes(deviceStateMaxBytes + 1), digest, guestMemory()),
        Refused);
    digest.bytes = guestBytes / 2;
    EXPECT_THROW(
        Bundle(manifest, {}, digest, createMemfd("half", guestBytes / 2)),
        Refused);
}

} // namespace
} // namespace airlock::handover
