#include "bootsrv/machine/roots.hpp"
#include "cut_blocks.hpp"

#include <gtest/gtest.h>

// A boot host with a new root, a switch that has the old one, and power that
// goes at any time.

namespace airlock::machine
{
namespace
{

using test::CutAnchor;
using test::CutBlocks;
using test::Platter;
using test::Power;
using test::PowerCut;

constexpr std::uint64_t window = 4;
constexpr std::uint64_t keptBytes = 256U << 10;

/** The switch's port, as docs/protocol-switch.md has it. */
struct Port
{
    Secret root;
    std::uint64_t used = 0;
    std::uint64_t misses = 0;

    bool show(const Roots::Shown& shown)
    {
        if (!root.equals(shown.root.view()) || shown.epoch <= used ||
            shown.epoch > used + window)
        {
            misses++;
            return false;
        }
        used = shown.epoch;
        return true;
    }

    void rotate(const Secret& fresh)
    {
        if (!root.equals(fresh.view()))
        {
            root = Secret(fresh.view());
            used = 0;
        }
    }
};

class RootsTest : public testing::Test
{
  protected:
    RootsTest()
    {
        Power power;
        CutBlocks blocks(platter, keptBytes, power);
        Site site;
        site.tls = {"certificate", "key", "authorities"};
        site.switchTo.emplace();
        installKept(blocks, key, anchor(power), site);
        port.root = Secret(oldRoot.view());
    }

    std::shared_ptr<SequenceAnchor> anchor(Power& power)
    {
        return std::make_shared<CutAnchor>(number, power);
    }

    /** From its start until it has the port, with a root that the switch has
     * for certain. False when it never gets there. */
    bool live(Power& power, const Secret& root, const Secret& previous,
              std::uint64_t seed = 0)
    {
        CutBlocks blocks(platter, keptBytes, power);
        try
        {
            Kept kept(blocks, key, anchor(power));
            Roots roots(root, previous, kept);
            constexpr int tries = 40;
            for (int i = 0; i < tries; i++)
            {
                if (!show(roots, power))
                {
                    continue;
                }
                if (roots.untold() == nullptr)
                {
                    return switchHas(kept.get(), root, previous);
                }
                power.use(); // before the call gets there
                port.rotate(*roots.untold());
                power.use(); // before the answer
                roots.told();
            }
            return false;
        }
        catch (const PowerCut&)
        {
            blocks.lose(seed);
            throw;
        }
    }

    bool show(Roots& roots, Power& power)
    {
        const Roots::Shown shown = roots.take(window);
        power.use();
        const bool open = port.show(shown);
        power.use();
        open ? roots.opened() : roots.failed();
        return open;
    }

    bool live(const Secret& root, const Secret& previous)
    {
        Power enough;
        return live(enough, root, previous);
    }

    Secret key = Secret::random();
    Secret oldRoot = Secret::random();
    Secret newRoot = Secret::random();
    Secret none;
    Platter platter;
    std::uint64_t number = 0;
    Port port;
};

TEST_F(RootsTest, OneRootIsCountedOn)
{
    for (std::uint64_t epoch = 1; epoch < 4; epoch++)
    {
        ASSERT_TRUE(live(oldRoot, none));
        EXPECT_EQ(port.used, epoch);
    }
    EXPECT_EQ(port.misses, 0U);
}

TEST_F(RootsTest, NewRootIsToldAndCountedFromItsBeginning)
{
    ASSERT_TRUE(live(oldRoot, none));
    ASSERT_TRUE(live(oldRoot, none));
    ASSERT_TRUE(live(newRoot, oldRoot));
    EXPECT_TRUE(port.root.equals(newRoot.view()));
    EXPECT_EQ(port.used, 1U);
    // From then on the old one is not shown.
    port.root = Secret(oldRoot.view());
    port.used = 0;
    EXPECT_FALSE(live(newRoot, oldRoot));
    EXPECT_TRUE(port.root.equals(oldRoot.view()));
}

TEST_F(RootsTest, NobodyKnowsThatTheSwitchWasTold)
{
    ASSERT_TRUE(live(oldRoot, none));
    port.rotate(newRoot);
    ASSERT_TRUE(live(newRoot, oldRoot));
    EXPECT_TRUE(port.root.equals(newRoot.view()));
    // The old one was tried, in vain.
    EXPECT_EQ(port.misses, 1U);
    ASSERT_TRUE(live(newRoot, oldRoot));
    EXPECT_EQ(port.misses, 1U);
}

TEST_F(RootsTest, AnotherRotationIsForSwitchesThatHaveThisRoot)
{
    const Secret third = Secret::random();
    ASSERT_TRUE(live(newRoot, oldRoot));
    ASSERT_TRUE(live(third, newRoot));
    EXPECT_TRUE(port.root.equals(third.view()));

    Power power;
    CutBlocks blocks(platter, keptBytes, power);
    const Kept kept(blocks, key, anchor(power));
    EXPECT_TRUE(switchHas(kept.get(), third, newRoot));
    EXPECT_FALSE(switchHas(kept.get(), Secret::random(), third));
    EXPECT_TRUE(switchHas(kept.get(), Secret::random(), none));
    KeptRecord alone = kept.get();
    alone.site.switchTo.reset();
    EXPECT_TRUE(switchHas(alone, Secret::random(), third));
}

TEST_F(RootsTest, PowerCutAtAnyTimeLeavesARootThatOpensThePort)
{
    ASSERT_TRUE(live(oldRoot, none));
    const Platter platterBefore = platter;
    const std::uint64_t numberBefore = number;
    const std::uint64_t usedBefore = port.used;
    int cuts = 0;
    for (std::uint64_t operations = 0;; operations++)
    {
        for (std::uint64_t seed = 0; seed < 3; seed++)
        {
            platter = platterBefore;
            number = numberBefore;
            port.root = Secret(oldRoot.view());
            port.used = usedBefore;
            Power power(operations);
            try
            {
                ASSERT_TRUE(live(power, newRoot, oldRoot, seed));
                EXPECT_GT(cuts, 30);
                return;
            }
            catch (const PowerCut&)
            {
                cuts++;
            }
            ASSERT_TRUE(live(newRoot, oldRoot)) << operations;
            EXPECT_TRUE(port.root.equals(newRoot.view())) << operations;
        }
    }
}

} // namespace
} // namespace airlock::machine
