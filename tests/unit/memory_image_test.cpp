#include "common/file.hpp"
#include "devmodel/handover/memory_image.hpp"
#include "error_of.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>

namespace airlock::handover
{
namespace
{

using test::errorOf;

constexpr std::uint64_t mib = 1U << 20;
constexpr std::uint64_t page = memoryPageBytes;

void put(const UniqueFd& fd, std::uint64_t at, std::uint8_t value,
         std::size_t length = 1)
{
    writeAllAt(fd.get(), Bytes(length, value), at);
}

Bytes content(const UniqueFd& fd)
{
    return readFile(fd.get(), 1U << 30, "test");
}

std::uint64_t allocated(const UniqueFd& fd)
{
    struct stat info = {};
    EXPECT_EQ(::fstat(fd.get(), &info), 0);
    return static_cast<std::uint64_t>(info.st_blocks) * 512;
}

/** Random runs of pages, some of them written with zeros. */
UniqueFd randomImage(std::uint64_t bytes, unsigned seed)
{
    UniqueFd fd = createMemfd("image", bytes);
    std::mt19937 random(seed);
    for (int run = 0; run < 60; ++run)
    {
        std::uint64_t first = random() % (bytes / page);
        std::uint64_t count =
            std::min<std::uint64_t>(1 + random() % 90, bytes / page - first);
        auto value = static_cast<std::uint8_t>(random() % 3 * 40);
        put(fd, first * page, value, count * page);
    }
    return fd;
}

TEST(MemoryImage, AnEmptyImageHasNoChunks)
{
    UniqueFd fd = createMemfd("m", 8 * mib);
    MemoryResult result = describeMemory(fd.get(), 8 * mib);
    EXPECT_TRUE(result.digest.chunks.empty());
    EXPECT_EQ(result.figures.pages, 0U);
    EXPECT_EQ(allocated(fd), 0U) << "looking must not allocate";
}

TEST(MemoryImage, TheDigestIsTheDocumentedOne)
{
    UniqueFd fd = createMemfd("m", 4 * mib);
    put(fd, memoryChunkBytes + 3 * page + 5, 7);
    MemoryDigest digest = describeMemory(fd.get(), 4 * mib).digest;
    ASSERT_EQ(digest.chunks.size(), 1U);
    EXPECT_EQ(digest.chunks[0].index, 1U);

    Bytes content(page);
    content[5] = 7;
    ByteWriter writer;
    writer.be64(1U << 3);
    writer.bytes(content);
    EXPECT_EQ(digest.chunks[0].digest, sha256(writer.data()));

    ByteWriter root;
    root.text("airlock-memory-1");
    root.be64(4 * mib);
    root.be64(256U << 10);
    root.be64(1);
    root.be64(1);
    root.bytes(digest.chunks[0].digest);
    EXPECT_EQ(digest.root(), sha256(root.data()));
}

TEST(MemoryImage, FindsSingleBytesAnywhereInAPage)
{
    for (std::uint64_t at : {std::uint64_t{0}, page - 1, page + 63, 5 * page,
                             63 * page + 8, 64 * page - 1})
    {
        UniqueFd fd = createMemfd("m", mib);
        put(fd, at, 1);
        EXPECT_EQ(describeMemory(fd.get(), mib).figures.pages, 1U) << at;
    }
}

TEST(MemoryImage, ZeroPagesAndHolesAreTheSame)
{
    UniqueFd sparse = createMemfd("m", 4 * mib);
    UniqueFd zeros = createMemfd("m", 4 * mib);
    put(zeros, 0, 0, 4 * mib);
    put(sparse, mib, 9, 10);
    put(zeros, mib, 9, 10);
    EXPECT_EQ(describeMemory(sparse.get(), 4 * mib).digest,
              describeMemory(zeros.get(), 4 * mib).digest);
}

class MemoryCopy : public testing::TestWithParam<unsigned>
{};

TEST_P(MemoryCopy, MakesTheDestinationEqualWhateverItHeld)
{
    // Not a multiple of the chunk: the last one is cut short.
    constexpr std::uint64_t bytes = 40 * mib + 3 * page;
    for (unsigned seed = 1; seed <= 4; ++seed)
    {
        UniqueFd source = randomImage(bytes, seed);
        UniqueFd destination = randomImage(bytes, seed + 100);
        MemoryDigest expected = describeMemory(source.get(), bytes, 1).digest;
        MemoryResult result = copyMemory(source.get(), destination.get(), bytes,
                                         &expected, GetParam());
        EXPECT_EQ(content(destination), content(source));
        EXPECT_EQ(allocated(destination), result.figures.bytes())
            << "zero pages must be holes";
        EXPECT_EQ(describeMemory(destination.get(), bytes).digest, expected);
    }
}

INSTANTIATE_TEST_SUITE_P(Threads, MemoryCopy, testing::Values(1, 2, 5));

TEST(MemoryImage, CopiesToAnEmptyFileAndToOneThatIsMapped)
{
    UniqueFd source = randomImage(8 * mib, 1);
    UniqueFd destination = createMemfd("m", 8 * mib);
    Mapping guest(destination.get(), 8 * mib, Mapping::Access::readWrite);
    copyMemory(source.get(), destination.get(), 8 * mib);
    Bytes expected = content(source);
    EXPECT_TRUE(
        std::equal(expected.begin(), expected.end(), guest.view().begin()));
    // A second time over what a running guest has changed since.
    std::fill(guest.bytes().begin(), guest.bytes().end(), 0xee);
    copyMemory(source.get(), destination.get(), 8 * mib);
    EXPECT_TRUE(
        std::equal(expected.begin(), expected.end(), guest.view().begin()));
}

TEST(MemoryImage, RefusesWhatDoesNotMatchTheDigests)
{
    UniqueFd source = createMemfd("m", 4 * mib);
    UniqueFd destination = createMemfd("m", 4 * mib);
    put(source, mib, 1);
    put(source, 3 * mib, 1);
    MemoryDigest expected = describeMemory(source.get(), 4 * mib).digest;
    auto copy = [&] {
        copyMemory(source.get(), destination.get(), 4 * mib, &expected);
    };
    EXPECT_EQ(errorOf(copy), "");

    put(source, mib, 2);
    EXPECT_EQ(errorOf(copy), "memory: chunk 4 (file offset 0x100000): does "
                             "not match its digest");
    put(source, mib, 0);
    EXPECT_EQ(errorOf(copy), "memory: chunk 4 (file offset 0x100000): is "
                             "zero, data was expected");
    put(source, mib, 1);
    put(source, 2 * mib, 1);
    EXPECT_EQ(errorOf(copy), "memory: chunk 8 (file offset 0x200000): has "
                             "data, zeros were expected");
    put(source, 2 * mib, 0);
    put(source, 3 * mib, 0);
    EXPECT_EQ(errorOf(copy), "memory: chunk 12 (file offset 0x300000): is "
                             "zero, data was expected");
    put(source, 3 * mib, 1);
    EXPECT_EQ(errorOf(copy), "") << "the right image loads next";
    expected.bytes = 8 * mib;
    EXPECT_THAT(errorOf(copy), testing::HasSubstr("8388608 bytes were"));
}

TEST(MemoryImage, RefusesWrongSizes)
{
    UniqueFd small = createMemfd("m", mib);
    UniqueFd large = createMemfd("m", 2 * mib);
    EXPECT_THROW(describeMemory(small.get(), 2 * mib), Refused);
    EXPECT_THROW(describeMemory(large.get(), mib), Refused);
    EXPECT_THROW(copyMemory(small.get(), large.get(), mib), Error);
    for (std::uint64_t bytes : {std::uint64_t{0}, mib + 1, memoryMaxBytes * 2})
    {
        EXPECT_THROW(requireMemorySize(bytes, "memory"), Refused) << bytes;
    }
}

TEST(MemoryImage, ErrorsOfAnyThreadComeOut)
{
    UniqueFd source = randomImage(64 * mib, 3);
    UniqueFd sealed = createMemfd("m", 64 * mib);
    addSeals(sealed.get(), F_SEAL_WRITE);
    EXPECT_THROW(copyMemory(source.get(), sealed.get(), 64 * mib, nullptr, 4),
                 SystemError);
}

/** A source that never stands still: the digest must be that of the bytes in
 * the destination all the same. */
TEST(MemoryImage, TheDigestIsOfTheDestinationEvenWhenTheSourceChanges)
{
    UniqueFd source = createMemfd("m", 4 * mib);
    UniqueFd destination = createMemfd("m", 4 * mib);
    Mapping hostile(source.get(), 4 * mib, Mapping::Access::readWrite);
    std::atomic<bool> stop = false;
    std::jthread writer([&] {
        std::mt19937 random(1);
        while (!stop)
        {
            std::uint64_t at = random() % (1024) * page;
            bool zero = random() % 2 == 0;
            hostile.bytes()[at] =
                zero ? 0 : static_cast<std::uint8_t>(random());
        }
    });
    for (int round = 0; round < 50; ++round)
    {
        MemoryDigest digest =
            copyMemory(source.get(), destination.get(), 4 * mib).digest;
        EXPECT_EQ(describeMemory(destination.get(), 4 * mib).digest, digest);
    }
    stop = true;
}

TEST(MemoryImage, ASourceThatShrinksMeanwhileIsAnErrorNotACrash)
{
    UniqueFd source = createMemfd("m", 256 * mib);
    put(source, 0, 1, 256 * mib);
    std::jthread shrinker(
        [&] { EXPECT_EQ(::ftruncate(source.get(), page), 0); });
    try
    {
        describeMemory(source.get(), 256 * mib, 1);
    }
    catch (const Error&)
    {
        // Whether it was caught in the act depends on the scheduler.
    }
    shrinker.join();
    EXPECT_THROW(describeMemory(source.get(), 256 * mib, 1), Refused);
}

TEST(MemoryDigest, EncodesAndDecodes)
{
    UniqueFd fd = randomImage(16 * mib, 5);
    MemoryDigest digest = describeMemory(fd.get(), 16 * mib).digest;
    ASSERT_GT(digest.chunks.size(), 2U);
    EXPECT_EQ(MemoryDigest::decode(digest.encode(), 16 * mib), digest);
    EXPECT_EQ(digest.encode().size(), digest.chunks.size() * 40);
}

TEST(MemoryDigest, RefusesListsThatDoNotFitTheGuest)
{
    MemoryDigest digest;
    digest.bytes = mib;
    digest.chunks = {{0, {}}, {3, {}}};
    Bytes good = digest.encode();
    EXPECT_NO_THROW(MemoryDigest::decode(good, mib));
    EXPECT_THROW(MemoryDigest::decode(good, mib / 2), Refused);
    EXPECT_THROW(MemoryDigest::decode(ByteView(good).first(79), mib), Refused);
    digest.chunks = {{3, {}}, {0, {}}};
    EXPECT_THROW(MemoryDigest::decode(digest.encode(), mib), Refused);
    digest.chunks = {{3, {}}, {3, {}}};
    EXPECT_THROW(MemoryDigest::decode(digest.encode(), mib), Refused);
}

TEST(MemoryDigest, TheRootDependsOnEverything)
{
    MemoryDigest digest;
    digest.bytes = mib;
    digest.chunks = {{0, {}}, {3, {}}};
    Digest root = digest.root();
    MemoryDigest other = digest;
    other.bytes = 2 * mib;
    EXPECT_NE(other.root(), root);
    other = digest;
    other.chunks[1].index = 2;
    EXPECT_NE(other.root(), root);
    other = digest;
    other.chunks[1].digest[31] = 1;
    EXPECT_NE(other.root(), root);
    other = digest;
    other.chunks.pop_back();
    EXPECT_NE(other.root(), root);
}

} // namespace
} // namespace airlock::handover
