#include "common/bytes.hpp"
#include "common/sha256.hpp"

#include <gtest/gtest.h>

namespace airlock
{

TEST(ByteReader, ReadsBigEndianValuesInOrder)
{
    Bytes data = {0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0xaa,
                  0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88};
    ByteReader reader(data, "test");
    EXPECT_EQ(reader.u8(), 0x01);
    EXPECT_EQ(reader.be16(), 0x0203);
    EXPECT_EQ(reader.be32(), 0x04050607U);
    EXPECT_EQ(reader.peek(), 0xaa);
    EXPECT_EQ(reader.peek(1), 0x11);
    EXPECT_EQ(reader.u8(), 0xaa);
    EXPECT_EQ(reader.be64(), 0x1122334455667788U);
    EXPECT_TRUE(reader.atEnd());
    EXPECT_EQ(reader.peek(), -1);
}

TEST(ByteReader, RefusesToReadBeyondTheEndAndNamesThePlace)
{
    Bytes data = {1, 2, 3};
    ByteReader reader(data, "cpu/0");
    reader.u8();
    try
    {
        reader.be32();
        FAIL() << "read beyond the end";
    }
    catch (const Refused& error)
    {
        EXPECT_EQ(error.where(), "cpu/0");
        EXPECT_EQ(error.reason(), "wants 4 bytes at offset 1, 2 are left");
    }
    EXPECT_EQ(reader.left(), 2U);
}

TEST(ByteReader, RefusesLengthsThatWrapAround)
{
    Bytes data(8);
    ByteReader reader(data, "test");
    reader.u8();
    EXPECT_THROW(reader.take(SIZE_MAX), Refused);
    EXPECT_EQ(reader.offset(), 1U);
}

TEST(ByteWriter, WritesWhatTheReaderReads)
{
    ByteWriter writer;
    writer.u8(7);
    writer.be16(0x1234);
    writer.be32(0xdeadbeef);
    writer.be64(0x0102030405060708);
    writer.text("ab");
    Bytes expected = {7, 0x12, 0x34, 0xde, 0xad, 0xbe, 0xef, 1,  2,
                      3, 4,    5,    6,    7,    8,    'a',  'b'};
    EXPECT_EQ(writer.data(), expected);
}

// Test vectors of FIPS 180-2, appendix B.
TEST(Sha256, MatchesTheStandard)
{
    auto hex = [](std::string_view text) {
        ByteWriter writer;
        writer.text(text);
        return toHex(sha256(writer.data()));
    };
    EXPECT_EQ(
        hex(""),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    EXPECT_EQ(
        hex("abc"),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Sha256, StartsAnewAfterFinish)
{
    Bytes data = {'a', 'b', 'c'};
    Sha256 hash;
    hash.update(data);
    Digest first = hash.finish();
    hash.update(data);
    EXPECT_EQ(hash.finish(), first);
    EXPECT_TRUE(equalConstantTime(first, sha256(data)));
    EXPECT_FALSE(equalConstantTime(first, ByteView(first).first(31)));
    first[31] ^= 1;
    EXPECT_FALSE(equalConstantTime(first, sha256(data)));
}

TEST(Hex, RoundTripsAndRefusesWhatIsNoHex)
{
    EXPECT_EQ(toHex(Bytes{0x00, 0xff, 0x1a}), "00ff1a");
    EXPECT_EQ(fromHex("00FF1a"), (Bytes{0x00, 0xff, 0x1a}));
    EXPECT_EQ(fromHex("0"), std::nullopt);
    EXPECT_EQ(fromHex(""), Bytes());
    EXPECT_EQ(fromHex("0g"), std::nullopt);
    EXPECT_EQ(fromHex("00g0"), std::nullopt);
    EXPECT_EQ(digestFromHex(std::string(62, '0')), std::nullopt);
    EXPECT_EQ(digestFromHex(std::string(65, '0')), std::nullopt);
    EXPECT_EQ(digestFromHex(std::string(63, '0') + "x"), std::nullopt);
    EXPECT_EQ(digestFromHex(std::string(64, '0')), Digest{});
    EXPECT_EQ(digestFromHex(toHex(sha256({}))), sha256({}));
}

} // namespace airlock
