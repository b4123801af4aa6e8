#include "bootsrv/machine/staging.hpp"
#include "common/error.hpp"
#include "cut_blocks.hpp"
#include "devmodel/handover/image_stream.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace airlock::machine
{
namespace
{

using test::CutBlocks;
using test::Platter;
using test::Power;
using ::testing::Each;

constexpr std::uint64_t mib = 1U << 20;

Bytes fromText(std::string_view hex)
{
    return fromHex(hex).value();
}

/** IEEE 1619-2007, annex B, vector 10: what dm-crypt's plain64 gives too. */
TEST(CryptSectors, IsWhatTheStandardSays)
{
    Bytes key =
        fromText("2718281828459045235360287471352662497757247093699959574966967"
                 "6273141592653589793238462643383279502884197169399375105820974"
                 "944592");
    Bytes data(sectorBytes);
    std::iota(data.begin(), data.end(), std::uint8_t{0});
    Bytes plain = data;
    cryptSectors(key, true, 0xff, data);
    EXPECT_EQ(toHex(ByteView(data).first(32)),
              "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63"
              "b");
    cryptSectors(key, false, 0xff, data);
    EXPECT_EQ(data, plain);
    // The number is little endian: vector 11 has 0xffff.
    cryptSectors(key, true, 0xffff, data);
    EXPECT_EQ(toHex(ByteView(data).first(16)),
              "77a31251618a15e6b92d1d66dffe7b50");
}

class StagingTest : public testing::Test
{
  protected:
    Platter platter;
    Power power;
    CutBlocks blocks{platter, 64 * mib, power};
    Secret key = Secret::random();
};

TEST_F(StagingTest, AreasReadWhatWasWritten)
{
    CryptArea area(blocks, {mib, 4 * mib}, key, inArea);
    Bytes data(3 * sectorBytes);
    fillRandom(data);
    area.write(data, 5 * sectorBytes);
    Bytes back(data.size());
    area.read(back, 5 * sectorBytes);
    EXPECT_EQ(back, data);
    // Any bytes of it.
    Bytes part(700);
    area.read(part, 5 * sectorBytes + 300);
    EXPECT_TRUE(std::equal(part.begin(), part.end(), data.begin() + 300));
    // Not in clear, and not with another area's key.
    blocks.read(back, mib + 5 * sectorBytes);
    EXPECT_NE(back, data);
    CryptArea other(blocks, {mib, 4 * mib}, key, outArea);
    other.read(back, 5 * sectorBytes);
    EXPECT_NE(back, data);
}

TEST_F(StagingTest, AreasHaveBounds)
{
    CryptArea area(blocks, {mib, mib}, key, inArea);
    Bytes sector(sectorBytes);
    EXPECT_NO_THROW(area.write(sector, mib - sectorBytes));
    EXPECT_THROW(area.write(sector, mib), Refused);
    EXPECT_THROW(area.write(sector, 1), Refused);
    EXPECT_THROW(area.write(Bytes(1), 0), Refused);
    EXPECT_THROW(area.write(sector, ~0ULL - sectorBytes + 1), Refused);
    EXPECT_THROW(area.read(sector, mib - 1), Refused);
    EXPECT_THROW(area.read(sector, ~0ULL), Refused);
}

TEST_F(StagingTest, HeaderIsNothingOrWhole)
{
    EXPECT_FALSE(readHeader(blocks));
    EXPECT_FALSE(hasHeader(blocks));
    writeHeader(blocks, key);
    EXPECT_TRUE(hasHeader(blocks));
    EXPECT_TRUE(
        equalConstantTime(readHeader(blocks).value().view(), key.view()));
    Bytes block(headerBytes);
    blocks.read(block, 0);
    for (std::size_t i : {0U, 7U, 8U, 39U, 40U, 71U, 72U, 4095U})
    {
        Bytes changed = block;
        changed[i] ^= 1;
        EXPECT_THROW(parseHeader(changed), Refused) << i;
    }
    clearHeader(blocks);
    EXPECT_FALSE(hasHeader(blocks));
    blocks.read(block, 0);
    EXPECT_THAT(block, Each(0));
}

TEST_F(StagingTest, RecordsAreWholeOrNotThere)
{
    CryptArea area(blocks, {mib, 4 * mib}, key, outArea);
    Slot slot{RecordKind::state, 0, mib, 2000};
    EXPECT_FALSE(findRecord(area, slot));
    Bytes data(1234);
    fillRandom(data);
    writeRecord(area, slot, data);
    RecordHead head = findRecord(area, slot).value();
    EXPECT_EQ(head.bytes, data.size());
    EXPECT_EQ(head.sha256, sha256(data));
    EXPECT_EQ(readRecord(area, slot, head), data);
    Slot other = slot;
    other.kind = RecordKind::memory;
    EXPECT_FALSE(findRecord(area, other));
    other = slot;
    other.room = data.size() - 1;
    EXPECT_FALSE(findRecord(area, other)); // longer than its place
    RecordHead wrong = head;
    wrong.bytes--;
    EXPECT_THROW(readRecord(area, slot, wrong), Refused);
    clearRecord(area, slot);
    EXPECT_FALSE(findRecord(area, slot));
    writeRecord(area, slot, {});
    EXPECT_TRUE(readRecord(area, slot, findRecord(area, slot).value()).empty());
}

TEST_F(StagingTest, ARecordDoesNotOutgrowItsPlace)
{
    CryptArea area(blocks, {mib, 4 * mib}, key, outArea);
    Slot slot{RecordKind::memory, 0, 0, mib};
    RecordWriter writer(area, slot);
    for (int i = 0; i < 8; i++)
    {
        writer.write(Bytes(mib / 8, 7));
    }
    EXPECT_THROW(writer.write(Bytes(1)), SystemError);
    EXPECT_EQ(writer.finish().bytes, mib);
}

TEST(Layout, PlacesDoNotOverlap)
{
    boot::JobRequest request;
    request.guest.memory = 3 * mib + 4096;
    request.disks = {{mib, false}, {5 * mib + 4096, true}, {4096, false}};
    std::uint64_t least = Layout::bytesFor(request);
    EXPECT_THROW(Layout::of(request, least - 1), Refused);
    Layout layout = Layout::of(request, least + 5);
    EXPECT_EQ(layout.request.offset, Layout::requestSlot().offset);
    EXPECT_EQ(layout.request.room, Layout::requestSlot().room);
    EXPECT_EQ(layout.in.offset, Layout::firstArea().offset);
    EXPECT_EQ(layout.out.offset, layout.in.offset + layout.in.bytes);
    EXPECT_EQ(layout.scratch.offset, layout.out.offset + layout.out.bytes);
    EXPECT_LE(layout.scratch.offset + layout.scratch.bytes, least + 5);
    EXPECT_GE(layout.scratch.bytes, request.bytes());
    auto check = [](const Area& area, std::vector<Slot> slots) {
        std::uint64_t end = 0;
        for (const Slot& slot : slots)
        {
            EXPECT_EQ(slot.offset, end);
            end = slot.offset + sectorBytes + slot.room;
            end = (end + stagingAlign - 1) / stagingAlign * stagingAlign;
        }
        EXPECT_EQ(end, area.bytes);
    };
    check(layout.in,
          {layout.request, layout.disks[0], layout.disks[1], layout.disks[2]});
    EXPECT_FALSE(layout.deltas[1]);
    check(layout.out, {layout.result, layout.state, layout.memory,
                       *layout.deltas[0], *layout.deltas[2]});
    EXPECT_EQ(layout.disks[1].room,
              handover::imageStreamMaxBytes(5 * mib + 4096));
}

} // namespace
} // namespace airlock::machine
