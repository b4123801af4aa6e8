#include "common/epoch_address.hpp"
#include "common/sha256.hpp"

#include <gtest/gtest.h>

#include <set>

namespace airlock
{
namespace
{

Secret countingRoot()
{
    Bytes bytes;
    for (std::uint8_t i = 0; i < Secret::keySize; i++)
    {
        bytes.push_back(i);
    }
    return Secret::key(bytes, "root");
}

/** Made with another implementation (Python's hmac, by hand): what a boot host
 * and a switch of different versions have to agree on. */
TEST(EpochAddress, MatchesItsTestVectors)
{
    Secret root = countingRoot();
    EXPECT_EQ(epoch::hostAddress(root, 1).text(), "4e:64:10:11:4b:b8");
    EXPECT_EQ(epoch::hostAddress(root, 2).text(), "1e:c4:fb:fa:99:13");
    EXPECT_EQ(epoch::switchAddress(root, 1).text(), "ee:35:7c:e5:2a:47");
    EXPECT_EQ(epoch::hostAddress(root, 0x0102030405060708).text(),
              "5e:ee:76:e8:13:fe");
    EXPECT_EQ(epoch::tag(root, epoch::hostAddress(root, 1)), "10ecdd13f20c");
}

TEST(EpochAddress, IsALocalHostAddressAndNewEachTime)
{
    Secret root = Secret::random();
    std::set<MacAddress> seen;
    for (std::uint64_t number = 0; number < 500; number++)
    {
        for (const MacAddress& address : {epoch::hostAddress(root, number),
                                          epoch::switchAddress(root, number)})
        {
            EXPECT_TRUE(address.isLocal());
            EXPECT_FALSE(address.isGroup());
            EXPECT_TRUE(seen.insert(address).second);
        }
    }
    EXPECT_NE(epoch::hostAddress(Secret::random(), 1),
              epoch::hostAddress(root, 1));
    EXPECT_NE(epoch::tag(Secret::random(), epoch::hostAddress(root, 1)),
              epoch::tag(root, epoch::hostAddress(root, 1)));
}

TEST(MacAddress, ReadsAndWritesText)
{
    auto address = MacAddress::parse("02:00:5E:00:53:a1");
    ASSERT_TRUE(address);
    EXPECT_EQ(address->text(), "02:00:5e:00:53:a1");
    EXPECT_TRUE(MacAddress::parse("01:80:c2:00:00:00")->isGroup());
    EXPECT_TRUE(MacAddress::parse("00:00:00:00:00:00")->isZero());
    for (const char* wrong :
         {"", "02:00:5e:00:53", "02:00:5e:00:53:a1:", "02:00:5e:00:53:ag",
          "02-00-5e-00-53-a1", "2:00:5e:00:53:a1 ", "02:00:5e:00:53:a11"})
    {
        EXPECT_FALSE(MacAddress::parse(wrong)) << wrong;
    }
}

} // namespace
} // namespace airlock
