#include "bootsrv/machine/boot_choice.hpp"
#include "common/file.hpp"
#include "common/sha256.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace airlock::machine
{
namespace
{

/** A directory in place of efivarfs. */
class BootChoiceTest : public testing::Test
{
  protected:
    std::filesystem::path file(const std::string& name) const
    {
        return home.path() / (name + "-8be4df61-93ca-11d2-aa0d-00e098032b8c");
    }
    Bytes content(const std::string& name) const
    {
        return readFile(file(name), 4096);
    }

    TempDirectory home;
    BootChoice choice{home.path()};
};

TEST_F(BootChoiceTest, NextIsOneNumberWithTheAttributesInFront)
{
    choice.next(Mode::dirty);
    EXPECT_EQ(content("BootNext"), (Bytes{7, 0, 0, 0, 0x01, 0xa1}));
}

TEST_F(BootChoiceTest, ResetUndoesWhateverWasWritten)
{
    choice.next(Mode::dirty);
    writeFileAtomic(file("BootOrder"), Bytes{7, 0, 0, 0, 0x01, 0xa1});
    writeFileAtomic(file("BootA100"), Bytes{7, 0, 0, 0, 1, 2, 3});
    choice.reset();
    EXPECT_FALSE(std::filesystem::exists(file("BootNext")));
    EXPECT_EQ(content("BootOrder"), (Bytes{7, 0, 0, 0, 0x00, 0xa1}));
    Bytes entry = {7, 0, 0, 0};
    const Bytes option = loadOption(Mode::clean);
    entry.insert(entry.end(), option.begin(), option.end());
    EXPECT_EQ(content("BootA100"), entry);
}

TEST(LoadOption, IsWhatTheSpecificationSays)
{
    // Attributes, length of the path, "Airlock dirty mode", a partition by its
    // GUID, a file, the end. Nothing behind it.
    const std::string hex = toHex(loadOption(Mode::dirty));
    const std::string drive = "04012a0001000000"
                              "0000000000000000"
                              "0000000000000000"
                              "00007ca1000b5f4e8a1cc1ea4d171e00"
                              "0202";
    EXPECT_THAT(hex, testing::StartsWith("01000000"));
    EXPECT_THAT(hex, testing::HasSubstr(drive));
    EXPECT_THAT(hex, testing::EndsWith("6500660069000000"
                                       "7fff0400"));
    const Bytes option = loadOption(Mode::dirty);
    const std::size_t path = option[4] + 256U * option[5];
    EXPECT_EQ(option.size(), 4 + 2 + 2 * 19 + path);
}

TEST(Guid, FirstThreeGroupsAreLittleEndian)
{
    EXPECT_EQ(toHex(parseGuid("8be4df61-93ca-11d2-aa0d-00e098032b8c")),
              "61dfe48bca93d211aa0d00e098032b8c");
}

TEST(Guid, OthersAreRefused)
{
    for (const char* text : {"", "8be4df61-93ca-11d2-aa0d-00e098032b8",
                             "8be4df61-93ca-11d2-aa0d-00e098032b8cc",
                             "8be4df61x93ca-11d2-aa0d-00e098032b8c",
                             "8BE4DF61-93ca-11d2-aa0d-00e098032b8c"})
    {
        EXPECT_THROW(parseGuid(text), Refused) << text;
    }
}

} // namespace
} // namespace airlock::machine
