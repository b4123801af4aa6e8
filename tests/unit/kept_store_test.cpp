#include "bootsrv/machine/kept.hpp"
#include "bootsrv/machine/kept_store.hpp"
#include "common/error.hpp"
#include "cut_blocks.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace airlock::machine
{
namespace
{

using test::CutAnchor;
using test::CutBlocks;
using test::Platter;
using test::Power;
using test::PowerCut;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

constexpr std::uint64_t diskBytes = 1U << 20;

/** A machine's partition and TPM, across its lives. */
class KeptStoreTest : public testing::Test
{
  protected:
    /** One life: `action` gets the store; then the power goes. */
    template <typename Action>
    void life(const Action& action, std::uint64_t operations = ~0ULL,
              std::uint64_t seed = 1)
    {
        Power power(operations);
        CutBlocks blocks(platter, diskBytes, power);
        KeptStore store(blocks, key,
                        std::make_shared<CutAnchor>(number, power));
        try
        {
            action(store);
        }
        catch (const PowerCut&)
        {}
        blocks.lose(seed);
        used = power.used();
    }

    std::string text()
    {
        std::string out;
        life([&](KeptStore& store) { out = asText(store.load().view()); });
        return out;
    }

    Secret key = Secret::random();
    Platter platter;
    std::uint64_t number = 0;
    std::uint64_t used = 0;
};

TEST_F(KeptStoreTest, KeepsTheLastText)
{
    life([](KeptStore& store) { store.install("first"); });
    EXPECT_EQ(text(), "first");
    for (int i = 0; i < 5; i++)
    {
        std::string next = "text " + std::to_string(i);
        life([&](KeptStore& store) {
            store.load();
            store.save(next);
        });
        EXPECT_EQ(text(), next);
    }
    std::string longest(KeptStore::maxText, 'x');
    life([&](KeptStore& store) {
        store.load();
        store.save(longest);
        EXPECT_THROW(store.save(longest + "x"), Error);
    });
    EXPECT_EQ(text(), longest);
}

TEST_F(KeptStoreTest, ALossOfPowerLeavesTheOldTextOrTheNewOne)
{
    unsigned olds = 0;
    unsigned news = 0;
    for (KeptStore::Write how :
         {KeptStore::Write::once, KeptStore::Write::anchored,
          KeptStore::Write::erasing})
    {
        auto save = [how](KeptStore& store) {
            store.load();
            store.save("new", how);
        };
        Platter before;
        std::uint64_t numberBefore = 0;
        life([](KeptStore& store) { store.install("old"); });
        before = platter;
        numberBefore = number;
        life(save);
        std::uint64_t all = used;
        for (std::uint64_t cut = 0; cut <= all; cut++)
        {
            for (std::uint64_t seed = 0; seed < 12; seed++)
            {
                platter = before;
                number = numberBefore;
                life(save, cut, seed);
                std::string found = text();
                EXPECT_TRUE(found == "old" || found == "new") << found;
                EXPECT_TRUE(cut < all || found == "new");
                olds += found == "old" ? 1U : 0U;
                news += found == "new" ? 1U : 0U;
                // And it goes on from there.
                life([](KeptStore& store) {
                    store.load();
                    store.save("next");
                });
                EXPECT_EQ(text(), "next");
            }
        }
        platter = {};
        number = 0;
    }
    EXPECT_GT(olds, 0U);
    EXPECT_GT(news, 0U);
}

TEST_F(KeptStoreTest, WhatIsOlderThanTheAnchorSaysIsRefused)
{
    life([](KeptStore& store) { store.install("first"); });
    Platter old = platter;
    life([](KeptStore& store) {
        store.load();
        store.save("second", KeptStore::Write::anchored);
    });
    Platter current = platter;
    platter = old;
    EXPECT_THAT([this] { text(); },
                ThrowsMessage<Refused>(HasSubstr("an older one")));
    // The slot that is not in force does not count either.
    platter = current;
    std::uint64_t half = diskBytes / 2 / Platter::sector;
    bool firstSlot = platter.sectors.contains(0);
    ASSERT_TRUE(firstSlot && platter.sectors.contains(half));
    std::size_t refusals = 0;
    for (std::uint64_t slot : {std::uint64_t{0}, half})
    {
        platter = current;
        platter.sectors[slot][50] ^= 1; // the text begins at 48
        try
        {
            EXPECT_EQ(text(), "second");
        }
        catch (const Refused& refused)
        {
            EXPECT_THAT(refused.what(), HasSubstr("an older one"));
            refusals++;
        }
    }
    EXPECT_EQ(refusals, 1U) << "without the one in force";
}

TEST_F(KeptStoreTest, ErasingLeavesNothingThatTheKeyOpens)
{
    life([](KeptStore& store) { store.install("the old secret"); });
    Platter before = platter;
    life([](KeptStore& store) {
        store.load();
        store.save("without it", KeptStore::Write::erasing);
    });
    number = 0; // even for who could set the TPM back
    for (std::uint64_t slot : {std::uint64_t{0}, diskBytes / 2})
    {
        std::uint64_t sector = slot / Platter::sector;
        EXPECT_NE(platter.sectors[sector], before.sectors[sector]);
        Platter whole = platter;
        platter.sectors[sector] = {};
        EXPECT_EQ(text(), "without it");
        platter = whole;
    }
}

TEST_F(KeptStoreTest, AnotherKeyOpensNothing)
{
    EXPECT_THAT([this] { text(); },
                ThrowsMessage<Refused>(HasSubstr("never installed")));
    life([](KeptStore& store) { store.install("text"); });
    key = Secret::random();
    EXPECT_THAT([this] { text(); },
                ThrowsMessage<Refused>(HasSubstr("other secrets")));
}

TEST_F(KeptStoreTest, EveryChangedBitIsNoticed)
{
    life([](KeptStore& store) { store.install("a text"); });
    Platter good = platter;
    constexpr std::size_t bytes = 48 + 6; // head and text
    for (std::size_t byte = 0; byte < bytes; byte++)
    {
        platter = good;
        for (std::uint64_t slot : {std::uint64_t{0}, diskBytes / 2})
        {
            platter.sectors[slot / Platter::sector].at(byte) ^= 0x10;
        }
        EXPECT_THROW(text(), Refused) << byte;
    }
}

TEST(KeptRecord, ComesBackAsItWas)
{
    KeptRecord record;
    record.site.tls = {"certificate", "key", "authorities"};
    record.site.network = {"10.9.0.2/24", "10.9.0.1"};
    record.site.switchTo.emplace();
    record.site.switchTo->host = "switch";
    record.site.switchTo->method = ProofMethod::quote;
    record.site.switchTo->address = MacAddress::parse("02:00:00:00:00:07");
    record.epochs = {7, 9};
    record.gone.push_back({"id", "host", "print", 5});
    std::string text = record.toText();
    KeptRecord again = KeptRecord::parse(text);
    EXPECT_EQ(again.toText(), text);
    EXPECT_EQ(again.epochs.next, 9U);
    EXPECT_EQ(again.site.switchTo->address->text(), "02:00:00:00:00:07");
}

/** A switch that opens the port for what is in its window, once. */
class Window
{
  public:
    explicit Window(std::uint64_t used) : used_(used) {}
    bool opens(std::uint64_t epoch)
    {
        const bool out = epoch > used_ && epoch <= used_ + size;
        used_ = out ? epoch : used_;
        return out;
    }

    static constexpr std::uint64_t size = 4;

  private:
    std::uint64_t used_;
};

/** How many attempts it takes until a lease is seen. */
unsigned attempts(Epochs epochs, Window window, unsigned missed)
{
    std::uint64_t rounds = 0;
    for (unsigned count = 1; count < 1000; count++)
    {
        const bool again = epochs.atEnd(Window::size, rounds);
        const std::uint64_t epoch = epochs.take(Window::size, rounds);
        rounds += again ? 1 : 0;
        if (window.opens(epoch) && missed-- == 0)
        {
            return count;
        }
    }
    return 0;
}

TEST(Epochs, AreTriedOneAfterTheOther)
{
    EXPECT_EQ(attempts({0, 1}, Window(0), 0), 1U);
    EXPECT_EQ(attempts({7, 9}, Window(8), 0), 1U);
    // From the beginning of the window, when its end was tried in vain.
    EXPECT_EQ(attempts({7, 12}, Window(7), 0), 1U);
    // What is written there may be anything.
    EXPECT_EQ(attempts({7, 3}, Window(7), 0), 1U);
    EXPECT_EQ(attempts({7, 1000}, Window(7), 0), 1U);
}

TEST(Epochs, MissedOpeningsDoNotLockOut)
{
    // All of the window is used up, and nobody saw it.
    EXPECT_GT(attempts({7, 12}, Window(11), 0), 0U);
    // Nor the one after it, and so on.
    for (unsigned missed = 1; missed < Window::size; missed++)
    {
        EXPECT_GT(attempts({7, 12}, Window(11), missed), 0U) << missed;
    }
}

TEST(Site, RefusesWhatCannotBe)
{
    auto with = [](const char* member, Json value) {
        Site site;
        site.tls = {"a", "b", "c"};
        site.network = {"10.9.0.2/24", ""};
        site.switchTo.emplace();
        site.switchTo->host = "switch";
        Json json = site.toJson();
        json[Json::json_pointer(member)] = std::move(value);
        return dumpJson(json);
    };
    auto parse = [](const std::string& text) { Site::parse(text, "site"); };
    EXPECT_NO_THROW(parse(with("/network/address", "fd00::2/64")));
    EXPECT_THROW(parse(with("/network/address", "10.9.0.2")), Refused);
    EXPECT_THROW(parse(with("/network/address", "10.9.0.2/x")), Refused);
    EXPECT_THROW(parse(with("/network/gateway", "gate")), Refused);
    EXPECT_THROW(parse(with("/switch/method", "macsec")), Refused);
    EXPECT_THROW(parse(with("/switch/window", 0)), Refused);
    EXPECT_THROW(parse(with("/switch/address", "01:00:00:00:00:00")), Refused);
    EXPECT_THROW(parse(with("/port", 70000)), Refused);
    EXPECT_THROW(parse(with("/more", 1)), Refused);
}

} // namespace
} // namespace airlock::machine
