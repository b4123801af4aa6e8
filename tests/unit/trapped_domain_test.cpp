#include "common/file.hpp"
#include "hostagent/agent/trapped_domain.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

// Where a QEMU that a guest has taken over may say that its memory is.

namespace airlock::host
{
namespace
{

namespace fs = std::filesystem;

class DomainMemory : public testing::Test
{
  protected:
    DomainMemory()
    {
        for (const char* domain : {"7-web", "8-other"})
        {
            fs::create_directory(ram / domain);
            writeFileAtomic(ram / domain / "airlock.ram", Bytes(4096, 1));
        }
    }

    static UniqueFd open(const fs::path& path)
    {
        return openDomainMemory(path, 7);
    }

    TempDirectory home{"domain-memory"};
    // Not by a link that the system itself may have on the way.
    fs::path ram = fs::canonical(home.path());
};

TEST_F(DomainMemory, OfTheDomainItselfIsOpened)
{
    EXPECT_EQ(fileSize(open(ram / "7-web/airlock.ram").get()), 4096U);
}

TEST_F(DomainMemory, OfAnotherDomainIsRefused)
{
    EXPECT_THROW(open(ram / "8-other/airlock.ram"), Refused);
    EXPECT_THROW(open(ram / "7-web/../8-other/airlock.ram"), Refused);
    EXPECT_THROW(open(ram / "8-other/../7-web/airlock.ram"), Refused);
    EXPECT_THROW(open("7-web/airlock.ram"), Refused);
    EXPECT_THROW(openDomainMemory(ram / "7-web/airlock.ram", 77), Refused);
}

TEST_F(DomainMemory, LinksAreNotFollowed)
{
    fs::create_symlink(ram / "8-other/airlock.ram", ram / "7-web/file");
    EXPECT_THROW(open(ram / "7-web/file"), Refused);
    fs::create_directory_symlink(ram / "8-other", ram / "7-link");
    EXPECT_THROW(open(ram / "7-link/airlock.ram"), SystemError);
}

TEST_F(DomainMemory, OnlyFilesAreMemory)
{
    ASSERT_EQ(::mkfifo((ram / "7-web/fifo").c_str(), 0600), 0);
    EXPECT_THROW(open(ram / "7-web/fifo"), Refused);
    EXPECT_THROW(open(ram / "7-web/missing"), Refused);
}

} // namespace
} // namespace airlock::host
