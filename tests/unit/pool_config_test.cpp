#include "bootsrv/capsule/pool_config.hpp"
#include "config_case.hpp"
#include "manual_page.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace airlock::capsule
{
namespace
{

using testing::HasSubstr;

constexpr const char* one =
    "[[capsule]]\nname = 'one'\ntap = 'tap0'\nsite = '/s.json'\n";

class PoolConfigTest : public airlock::test::ConfigCase<readPoolConfig>
{
  protected:
    PoolConfigTest() : ConfigCase("capsules.toml") {}
};

TEST_F(PoolConfigTest, ValuesArriveWhereTheyBelong)
{
    const PoolConfig config = read(
        "state-directory = '/srv/c'\nsocket = '/run/s'\nuser = 'x'\n"
        "[machine]\nqemu = '/q'\nfirmware = '/f'\naccelerator = 'tcg'\n"
        "cpu = 'c'\n"
        "[images]\nclean = '/1'\ndirty = '/2'\nkeys = '/k'\n"
        "[[capsule]]\nname = 'one'\ntap = 'tap0'\nmemory = 2048\ncpus = 4\n"
        "staging = 512\nsite = '/s'\naddress-root = '/r'\n"
        "clean-limit = 60\ndirty-limit = 70\n"
        "[[capsule]]\nname = 'two'\ntap = 'tap1'\nsite = '/s'\n");
    ASSERT_EQ(config.capsules.size(), 2U);
    const PoolCapsule& first = config.capsules[0];
    EXPECT_EQ(config.directoryOf(first), "/srv/c/one");
    EXPECT_EQ(config.addressRootOf(first), "/r");
    EXPECT_EQ(config.addressRootOf(config.capsules[1]), "/srv/c/two.root");
    EXPECT_EQ(config.socket, "/run/s");
    EXPECT_EQ(config.images.clean, "/1");
    EXPECT_EQ(config.images.dirty, "/2");
    EXPECT_EQ(config.keys, "/k");
    EXPECT_EQ(first.stagingMiB, 512U);
    EXPECT_EQ(first.cleanLimit.count(), 60);
    EXPECT_EQ(first.dirtyLimit.count(), 70);

    const CapsuleOptions options = config.optionsOf(first);
    EXPECT_EQ(options.qemu, "/q");
    EXPECT_EQ(options.firmware, "/f");
    EXPECT_EQ(options.accelerator, "tcg");
    EXPECT_EQ(options.cpu, "c");
    EXPECT_EQ(options.memoryMiB, 2048U);
    EXPECT_EQ(options.cpus, 4U);
    EXPECT_EQ(options.tap, "tap0");
    EXPECT_FALSE(options.keepAll);
    EXPECT_FALSE(options.dirtyHasAll);
    // There is no way without it.
    ASSERT_TRUE(options.fence);
    EXPECT_EQ(options.fence->hidden, "/srv/c");
    EXPECT_EQ(options.fence->user, "x");
}

TEST_F(PoolConfigTest, CapsulesThatCannotBeAreErrorsWithTheirPlace)
{
    EXPECT_THAT(refusal(""), HasSubstr("write each capsule as a table"));
    EXPECT_THAT(refusal(std::string(one) + one),
                HasSubstr("line 5: there are two capsules one"));
    EXPECT_THAT(refusal(std::string(one) + "[[capsule]]\nname = 'two'\n"
                                           "tap = 'tap0'\nsite = '/s'\n"),
                HasSubstr("two capsules have the tap device tap0"));
    for (const char* name : {"", "../one", "a/b", ".one", "-one", "o ne"})
    {
        EXPECT_THAT(refusal("[[capsule]]\ntap = 't'\nsite = '/s'\nname = '" +
                            std::string(name) + "'\n"),
                    HasSubstr("capsule.name has to be"))
            << name;
    }
    EXPECT_THAT(refusal("[[capsule]]\nname = 'one'\nsite = '/s'\n"),
                HasSubstr("capsule.tap has to be"));
    EXPECT_THAT(refusal("[[capsule]]\nname = 'one'\ntap = 't'\n"),
                HasSubstr("capsule.site has to name"));
    EXPECT_THAT(refusal(std::string(one) + "memory = 100\n"),
                HasSubstr("capsule.memory"));
    EXPECT_THAT(refusal(std::string(one) + "cpus = 0\n"),
                HasSubstr("capsule.cpus"));
    EXPECT_THAT(refusal(std::string(one) + "fence = false\n"),
                HasSubstr("capsule.fence is not known"));
    EXPECT_THAT(refusal(std::string("state-directory = 'x'\n") + one),
                HasSubstr("state-directory has to begin with /"));
}

TEST_F(PoolConfigTest, TheManualHasTheSameKeysAndDefaults)
{
    const airlock::test::ManualPage page("airlock-capsules.toml.5.rst");
    EXPECT_EQ(page.keys(), poolConfigKeys());
    EXPECT_THAT(poolConfigKeys(), testing::Contains("capsule.dirty-limit"));
    EXPECT_EQ(read(page.example()).capsules.size(), 2U);
    // The page's table "capsule" is one of an array, with what it needs.
    std::string text = page.defaults();
    const std::string table = "[capsule]\n";
    ASSERT_NE(text.find(table), std::string::npos);
    text.replace(text.find(table), table.size(), one);
    const PoolConfig config = read(text);
    const PoolConfig plain = read(one);
    EXPECT_EQ(config.state, plain.state);
    EXPECT_EQ(config.socket, plain.socket);
    EXPECT_EQ(config.user, plain.user);
    EXPECT_EQ(config.images.clean, plain.images.clean);
    EXPECT_EQ(config.images.dirty, plain.images.dirty);
    EXPECT_EQ(config.keys, plain.keys);
    const CapsuleOptions there = config.optionsOf(config.capsules.at(0));
    const CapsuleOptions here = plain.optionsOf(plain.capsules.at(0));
    EXPECT_EQ(there.qemu, here.qemu);
    EXPECT_EQ(there.firmware, here.firmware);
    EXPECT_EQ(there.accelerator, here.accelerator);
    EXPECT_EQ(there.cpu, here.cpu);
    EXPECT_EQ(there.memoryMiB, here.memoryMiB);
    EXPECT_EQ(there.cpus, here.cpus);
    EXPECT_EQ(config.capsules[0].stagingMiB, plain.capsules[0].stagingMiB);
    EXPECT_EQ(config.capsules[0].addressRoot, plain.capsules[0].addressRoot);
    EXPECT_EQ(config.capsules[0].cleanLimit, plain.capsules[0].cleanLimit);
    EXPECT_EQ(config.capsules[0].dirtyLimit, plain.capsules[0].dirtyLimit);
}

} // namespace
} // namespace airlock::capsule
