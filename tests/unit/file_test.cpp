#include "common/file.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>

namespace airlock
{
namespace
{

TEST(File, WriteAtomicReplacesContentAndLeavesNothingBehind)
{
    TempDirectory dir;
    auto path = dir.path() / "state";
    writeFileAtomic(path, std::string_view("old"));
    writeFileAtomic(path, std::string_view("new"), 0600);
    EXPECT_EQ(readTextFile(path, 100), "new");
    EXPECT_EQ(readFile(path, 3), (Bytes{'n', 'e', 'w'}));
    EXPECT_THROW(readTextFile(path, 2), Refused);
    struct stat info = {};
    ASSERT_EQ(::stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600U);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()),
                            std::filesystem::directory_iterator()),
              1);
}

TEST(File, WriteAtomicToAMissingDirectoryNamesThePath)
{
    TempDirectory dir;
    try
    {
        writeFileAtomic(dir.path() / "no" / "state", std::string_view("x"));
        FAIL() << "wrote into a directory that does not exist";
    }
    catch (const SystemError& error)
    {
        EXPECT_EQ(error.code(), ENOENT);
        EXPECT_THAT(error.what(), testing::HasSubstr("no/state"));
    }
}

TEST(File, ReadIsBounded)
{
    TempDirectory dir;
    auto path = dir.path() / "f";
    writeFileAtomic(path, std::string_view("12345"));
    EXPECT_EQ(readFile(path, 5).size(), 5U);
    EXPECT_THROW(readFile(path, 4), Refused);
    UniqueFd fd = openFile(path, O_RDONLY);
    EXPECT_THROW(readToEnd(fd.get(), 4, "f"), Refused);
}

TEST(File, ReadExactNoticesAFileThatEndsEarly)
{
    UniqueFd fd = createMemfd("t", 4);
    std::array<std::uint8_t, 4> buffer{};
    EXPECT_NO_THROW(readExactAt(fd.get(), buffer, 0));
    EXPECT_THROW(readExactAt(fd.get(), buffer, 1), Error);
}

TEST(File, OpenRegularAtTakesRegularFilesOnly)
{
    TempDirectory dir;
    writeFileAtomic(dir.path() / "file", std::string_view("x"));
    std::filesystem::create_symlink("file", dir.path() / "link");
    ASSERT_EQ(::mkfifo((dir.path() / "fifo").c_str(), 0600), 0);
    std::filesystem::create_directory(dir.path() / "dir");
    UniqueFd directory = openFile(dir.path(), O_RDONLY | O_DIRECTORY);
    EXPECT_TRUE(openRegularAt(directory.get(), "file", O_RDONLY));
    for (const char* name : {"link", "fifo", "dir", "absent"})
    {
        EXPECT_THROW(openRegularAt(directory.get(), name, O_RDONLY), Refused)
            << name;
    }
}

TEST(File, SealedMemfdCannotChange)
{
    UniqueFd fd = sealedMemfd("t", Bytes{1, 2, 3});
    std::uint8_t byte = 9;
    EXPECT_EQ(::pwrite(fd.get(), &byte, 1, 0), -1);
    EXPECT_EQ(::ftruncate(fd.get(), 0), -1);
    EXPECT_THROW(Mapping(fd.get(), 3, Mapping::Access::readWrite), SystemError);
    EXPECT_EQ(readFile(fd.get(), 3, "t"), (Bytes{1, 2, 3}));
    EXPECT_EQ(seals(fd.get()) & F_SEAL_WRITE, F_SEAL_WRITE);
}

TEST(File, MappingReachesTheFileAndMoves)
{
    UniqueFd fd = createMemfd("t", 4096);
    Mapping first(fd.get(), 4096, Mapping::Access::readWrite);
    Mapping second = std::move(first);
    EXPECT_EQ(first.size(), 0U);
    second.bytes()[7] = 42;
    EXPECT_EQ(readFile(fd.get(), 4096, "t")[7], 42);
    EXPECT_EQ(Mapping(fd.get(), 0, Mapping::Access::read).view().size(), 0U);
}

TEST(File, SparseCopiesKeepDataAndHolesOnEveryFileSystem)
{
    constexpr std::uint64_t size = 64U << 20;
    UniqueFd memory = createMemfd("t", size);
    writeAllAt(memory.get(), Bytes(5000, 7), 10000);
    writeAllAt(memory.get(), Bytes(1, 8), size - 1);
    TempDirectory directory;
    UniqueFd before = openFile(directory.path() / "a", O_RDWR | O_CREAT);
    ASSERT_EQ(::ftruncate(before.get(), size), 0);
    copySparse(memory.get(), before.get(), size);
    UniqueFd after = openFile(directory.path() / "b", O_RDWR | O_CREAT);
    ASSERT_EQ(::ftruncate(after.get(), size), 0);
    copySparse(before.get(), after.get(), size);
    EXPECT_EQ(readFile(after.get(), size, "b"),
              readFile(memory.get(), size, "t"));
    struct stat info = {};
    ASSERT_EQ(::fstat(after.get(), &info), 0);
    EXPECT_LT(info.st_blocks * 512, 1 << 20);
}

TEST(File, TempDirectoryIsPrivateAndGoesAway)
{
    std::filesystem::path path;
    {
        TempDirectory dir("airlock-test");
        path = dir.path();
        struct stat info = {};
        ASSERT_EQ(::stat(path.c_str(), &info), 0);
        EXPECT_EQ(info.st_mode & 0777, 0700U);
        writeFileAtomic(path / "x", std::string_view("x"));
    }
    EXPECT_FALSE(std::filesystem::exists(path));
}

} // namespace
} // namespace airlock
