#include "common/file.hpp"
#include "devmodel/handover/image_stream.hpp"
#include "error_of.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <random>
#include <thread>

namespace airlock::handover
{
namespace
{

using test::errorOf;

constexpr std::uint64_t imageBytes = 9 * memoryChunkBytes + memoryPageBytes;

/** An image with data here and there, up to its last page. */
UniqueFd makeImage(unsigned seed)
{
    UniqueFd fd = createMemfd("image", imageBytes);
    std::mt19937_64 random(seed);
    std::uint64_t pages = imageBytes / memoryPageBytes;
    for (std::uint64_t page = 0; page < pages; page += 1 + random() % 40)
    {
        writeAllAt(fd.get(), Bytes(100, static_cast<std::uint8_t>(random())),
                   page * memoryPageBytes + random() % 3000);
    }
    writeAllAt(fd.get(), Bytes(1, 7), imageBytes - 1);
    return fd;
}

Bytes stream(int fd, const MemoryDigest* base = nullptr,
             MemoryDigest* digest = nullptr)
{
    Bytes out;
    FileImage image(fd, imageBytes);
    MemoryResult result = writeImageStream(
        image,
        [&](ByteView part) { out.insert(out.end(), part.begin(), part.end()); },
        base);
    if (digest != nullptr)
    {
        *digest = result.digest;
    }
    return out;
}

void apply(int fd, const Bytes& data, std::size_t step)
{
    ImageFile file(fd, imageBytes);
    ImageStreamReader reader(imageBytes,
                             [&](const ImageChunk& c) { file.write(c); });
    for (std::size_t at = 0; at < data.size(); at += step)
    {
        reader.feed(
            ByteView(data).subspan(at, std::min(step, data.size() - at)));
    }
    reader.finish();
}

Bytes content(int fd)
{
    return readFile(fd, imageBytes, "image");
}

std::string refusal(const Bytes& data)
{
    return errorOf([&] {
        ImageStreamReader reader(imageBytes, [](const ImageChunk&) {});
        reader.feed(data);
        reader.finish();
    });
}

TEST(ImageStream, ComesBackAsItWas)
{
    UniqueFd source = makeImage(1);
    MemoryDigest digest;
    Bytes data = stream(source.get(), nullptr, &digest);
    EXPECT_EQ(digest, describeMemory(source.get(), imageBytes).digest);
    for (std::size_t step : {1000UL, 4096UL, data.size()})
    {
        UniqueFd copy = createMemfd("copy", imageBytes);
        apply(copy.get(), data, step);
        EXPECT_EQ(content(copy.get()), content(source.get())) << step;
    }
}

TEST(ImageStream, IsTheSameWhenItIsReadAhead)
{
    UniqueFd source = makeImage(2);
    FileImage image(source.get(), imageBytes);
    Bytes out;
    MemoryFigures figures = writeImage(image, [&](ByteView part) {
        out.insert(out.end(), part.begin(), part.end());
    });
    EXPECT_EQ(out, stream(source.get()));
    EXPECT_GT(figures.pages, 0U);
}

/** Ends, or fails, in the middle. */
class BrokenImage : public ImageSource
{
  public:
    std::uint64_t bytes() const override { return imageBytes; }
    std::uint64_t nextData(std::uint64_t begin) override { return begin; }
    void read(std::span<std::uint8_t> out, std::uint64_t offset) override
    {
        if (offset >= imageBytes / 2)
        {
            throw Error("a bad sector");
        }
        std::ranges::fill(out, std::uint8_t{1});
    }
};

TEST(ImageStream, AnErrorOfTheSourceReachesWhoWrites)
{
    BrokenImage image;
    std::uint64_t written = 0;
    try
    {
        writeImage(image, [&](ByteView part) { written += part.size(); });
        FAIL() << "an image that cannot be read was written";
    }
    catch (const Error& error)
    {
        EXPECT_STREQ(error.what(), "a bad sector");
    }
    EXPECT_GE(written, imageBytes / 2);
}

TEST(ImageStream, EndsWhenNobodyTakesIt)
{
    UniqueFd source = makeImage(3);
    FileImage image(source.get(), imageBytes);
    unsigned calls = 0;
    EXPECT_THROW(writeImage(image,
                            [&](ByteView) {
                                if (++calls == 3)
                                {
                                    throw Refused("peer", "has gone");
                                }
                            }),
                 Refused);
    EXPECT_EQ(calls, 3U);
}

TEST(ImageStream, ADeltaMakesTheOldImageTheNewOne)
{
    UniqueFd before = makeImage(1);
    UniqueFd after = createMemfd("after", imageBytes);
    copyMemory(before.get(), after.get(), imageBytes);
    MemoryDigest base = describeMemory(before.get(), imageBytes).digest;

    // Changed, zeroed, first written, and a whole chunk gone.
    writeAllAt(after.get(), Bytes(50, 1), 10);
    writeAllAt(after.get(), Bytes(memoryPageBytes, 0), imageBytes - 4096);
    writeAllAt(after.get(), Bytes(memoryChunkBytes, 0), 3 * memoryChunkBytes);
    Bytes delta = stream(after.get(), &base);
    EXPECT_LT(delta.size(), stream(after.get()).size());
    apply(before.get(), delta, 777);
    EXPECT_EQ(content(before.get()), content(after.get()));
    // Once more does not hurt.
    apply(before.get(), delta, 777);
    EXPECT_EQ(content(before.get()), content(after.get()));
}

TEST(ImageStream, NothingChangedIsAnEmptyDelta)
{
    UniqueFd image = makeImage(2);
    MemoryDigest base = describeMemory(image.get(), imageBytes).digest;
    EXPECT_EQ(stream(image.get(), &base).size(), 32U);
}

/** Zeros that somebody has written, on a disk that takes its time. */
class SlowZeros : public ImageSource
{
  public:
    std::uint64_t bytes() const override { return imageBytes; }
    std::uint64_t nextData(std::uint64_t begin) override { return begin; }
    void read(std::span<std::uint8_t> out, std::uint64_t) override
    {
        std::this_thread::sleep_for(
            std::chrono::milliseconds(imageStreamSilence) / 4);
        std::ranges::fill(out, std::uint8_t{0});
    }
};

TEST(ImageStream, ALongRunOfZerosIsNotSilent)
{
    SlowZeros zeros;
    Bytes data;
    MemoryResult result = writeImageStream(zeros, [&](ByteView part) {
        data.insert(data.end(), part.begin(), part.end());
    });
    EXPECT_TRUE(result.digest.chunks.empty());
    std::vector<std::uint64_t> positions;
    ImageStreamReader reader(imageBytes, [&](const ImageChunk& chunk) {
        EXPECT_EQ(chunk.mask, 0U);
        positions.push_back(chunk.index * memoryChunkBytes);
    });
    reader.feed(data);
    reader.finish();
    ASSERT_FALSE(positions.empty());
    EXPECT_EQ(reader.position(), positions.back());
}

TEST(ImageStream, CutAnywhereItIsRefused)
{
    UniqueFd source = makeImage(3);
    Bytes data = stream(source.get());
    for (std::size_t size = 0; size < data.size(); size += 1 + size / 8)
    {
        EXPECT_NE(refusal({data.begin(),
                           data.begin() + static_cast<std::ptrdiff_t>(size)}),
                  "")
            << size;
    }
    data.push_back(0);
    EXPECT_NE(refusal(data).find("after its end"), std::string::npos);
}

/** A disk of so many bytes, through a stream and back. */
void roundTrip(std::uint64_t bytes)
{
    UniqueFd source = createMemfd("disk", bytes);
    writeAllAt(source.get(), Bytes(10, 1), 100);
    writeAllAt(source.get(), Bytes(1, 7), bytes - 1);
    FileImage image(source.get(), bytes);
    Bytes data;
    writeImage(image, [&](ByteView part) {
        data.insert(data.end(), part.begin(), part.end());
    });
    EXPECT_LE(data.size(), imageStreamMaxBytes(bytes));
    UniqueFd copy = createMemfd("copy", bytes);
    ImageFile file(copy.get(), bytes);
    std::uint64_t last = 0;
    ImageStreamReader reader(bytes, [&](const ImageChunk& chunk) {
        file.write(chunk);
        last = chunk.pages.size();
    });
    reader.feed(data);
    reader.finish();
    EXPECT_EQ(fileSize(copy.get()), bytes);
    EXPECT_EQ(readFile(copy.get(), bytes, "copy"),
              readFile(source.get(), bytes, "source"));
    EXPECT_EQ(last % memoryPageBytes, bytes % memoryPageBytes);
}

TEST(ImageStream, TheLastPageOfADiskMayBeShort)
{
    // The smallest; a cloud-init seed as genisoimage makes them; a short page
    // alone in its chunk; and one at the end of a full chunk.
    for (std::uint64_t bytes :
         {std::uint64_t{512}, std::uint64_t{187} * 2048,
          2 * memoryChunkBytes + 512, 2 * memoryChunkBytes - 512})
    {
        SCOPED_TRACE(bytes);
        roundTrip(bytes);
    }
}

TEST(ImageStream, AShortLastPageCanBecomeZero)
{
    constexpr std::uint64_t bytes = memoryChunkBytes + memoryPageBytes + 1536;
    UniqueFd before = createMemfd("before", bytes);
    UniqueFd after = createMemfd("after", bytes);
    writeAllAt(before.get(), Bytes(1, 7), bytes - 1);
    writeAllAt(after.get(), Bytes(1, 7), bytes - 1536 - 1);
    FileImage now(after.get(), bytes);
    FileImage old(before.get(), bytes);
    ImageFile file(before.get(), bytes);
    ImageStreamReader reader(bytes,
                             [&](const ImageChunk& c) { file.write(c); });
    writeImageDelta(now, old, [&](ByteView part) { reader.feed(part); });
    reader.finish();
    EXPECT_EQ(readFile(before.get(), bytes, "before"),
              readFile(after.get(), bytes, "after"));
}

TEST(ImageStream, DisksHaveWholeSectors)
{
    EXPECT_EQ(errorOf([] { requireImageSize(512, "disk"); }), "");
    for (std::uint64_t bytes :
         {std::uint64_t{0}, std::uint64_t{511}, memoryMaxBytes + 512})
    {
        EXPECT_THROW(requireImageSize(bytes, "disk"), Refused) << bytes;
    }
}

Bytes records(std::initializer_list<std::uint64_t> numbers,
              std::uint64_t bytes = imageBytes)
{
    ByteWriter writer;
    writer.text("ALIMAGE1");
    writer.be64(bytes);
    for (std::uint64_t number : numbers)
    {
        writer.be64(number);
    }
    return writer.release();
}

TEST(ImageStream, WhatCannotBeIsRefused)
{
    constexpr std::uint64_t end = ~0ULL;
    EXPECT_EQ(refusal(records({end, 0})), "");
    EXPECT_EQ(refusal(records({2, 0, 9, 0, end, 2})), "");
    std::map<std::string, Bytes> bad = {
        {"wrong size", records({end, 0}, imageBytes + memoryPageBytes)},
        {"wrong count", records({end, 1})},
        {"beyond the end", records({10, 0, end, 1})},
        {"twice", records({2, 0, 2, 0, end, 2})},
        {"backwards", records({2, 0, 1, 0, end, 2})},
        {"page beyond the end", records({9, 2, end, 1})},
        {"no magic", Bytes(64, 0)},
    };
    for (const auto& [name, data] : bad)
    {
        EXPECT_NE(refusal(data), "") << name;
    }
}

} // namespace
} // namespace airlock::handover
