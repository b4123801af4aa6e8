#include "bootsrv/machine/seal_store.hpp"
#include "common/file.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

namespace airlock::machine
{
namespace
{

/** A disk image with the store somewhere in it. */
class SealStoreTest : public testing::Test
{
  protected:
    static constexpr std::uint64_t offset = 4096;

    SealStoreTest()
    {
        UniqueFd fd = openFile(file, O_RDWR | O_CREAT);
        EXPECT_EQ(::ftruncate(fd.get(), offset + SealStore::size + 4096), 0);
    }

    static SealRecord recordWithLog(std::uint8_t byte)
    {
        SealRecord out;
        out.log = Bytes(1000, byte);
        return out;
    }

    Bytes all() const { return readFile(file, 2U << 20); }
    void put(ByteView data, std::uint64_t at) const
    {
        UniqueFd fd = openFile(file, O_RDWR);
        writeAllAt(fd.get(), data, at);
    }

    TempDirectory home;
    std::filesystem::path file = home.path() / "disk";
    SealStore store{file, offset};
};

TEST_F(SealStoreTest, EmptyDiskIsAnEmptyRecord)
{
    const SealRecord record = store.read();
    EXPECT_TRUE(record.log.empty());
    EXPECT_FALSE(record.blob);
    EXPECT_FALSE(record.request);
}

TEST_F(SealStoreTest, LastRecordCounts)
{
    for (std::uint8_t i = 1; i < 6; i++)
    {
        store.write(recordWithLog(i));
        EXPECT_EQ(store.read().log, Bytes(1000, i));
    }
}

TEST_F(SealStoreTest, WriteThatWasCutLeavesTheRecordBefore)
{
    store.write(recordWithLog(1));
    const Bytes before = all();
    store.write(recordWithLog(2));
    const Bytes after = all();
    const auto differs =
        std::mismatch(before.begin(), before.end(), after.begin());
    const auto first =
        static_cast<std::uint64_t>(differs.first - before.begin());
    // The new slot arrives up to some byte only, at several places.
    for (std::uint64_t length : {1U, 10U, 20U, 52U, 60U, 500U, 2000U})
    {
        put(before, 0);
        put(ByteView(after).subspan(first, length), first);
        EXPECT_EQ(store.read().log, Bytes(1000, 1)) << length;
    }
    put(after, 0);
    EXPECT_EQ(store.read().log, Bytes(1000, 2));
}

TEST_F(SealStoreTest, OverwriteLeavesNothingOfTheRequest)
{
    SealRecord record;
    record.request.emplace();
    record.request->name = "one";
    record.request->addressRoot = Secret(ByteView(Bytes(32, 0xab)));
    record.request->site = WipedJson(Json{{"tls", "a private key"}});
    store.write(recordWithLog(1));
    store.write(record);
    EXPECT_EQ(store.read().request->addressRoot.view()[31], 0xab);
    store.overwrite(recordWithLog(2));
    const Bytes data = all();
    const std::string text(data.begin(), data.end());
    EXPECT_EQ(text.find("abababab"), std::string::npos);
    EXPECT_EQ(text.find("a private key"), std::string::npos);
    EXPECT_EQ(store.read().log, Bytes(1000, 2));
}

TEST_F(SealStoreTest, NeighboursAreLeftAlone)
{
    store.write(recordWithLog(1));
    store.write(recordWithLog(2));
    store.overwrite(recordWithLog(3));
    const Bytes data = all();
    EXPECT_EQ(std::count(data.begin(), data.begin() + offset, 0), offset);
    EXPECT_EQ(std::count(data.end() - 4096, data.end(), 0), 4096);
}

TEST_F(SealStoreTest, RecordsOfOthersAreRefused)
{
    const auto parse = [](const char* text) {
        const Json json = parseJson(text, "record");
        return SealRecord::parse(JsonField(json, "record"));
    };
    EXPECT_NO_THROW(parse(R"({"version":1,"policies":[]})"));
    for (const char* text :
         {R"({})", R"({"version":2,"policies":[]})",
          R"({"version":1,"policies":[{}]})",
          R"({"version":1,"policies":[],"other":1})",
          R"({"version":1,"policies":[],"blob":"00"})",
          R"({"version":1,"policies":[],"log":"0"})",
          R"({"version":1,"policies":[],"request":{"name":"a",)"
          R"("address_root":"00"}})"})
    {
        EXPECT_THROW(parse(text), Refused) << text;
    }
}

} // namespace
} // namespace airlock::machine
