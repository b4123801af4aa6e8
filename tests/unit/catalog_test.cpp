#include "devmodel/catalog/catalog.hpp"
#include "devmodel/handover/reduce.hpp"
#include "devmodel/handover/stream.hpp"
#include "tests/unit/test_streams.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace airlock::catalog
{
namespace
{

/** Each word of a list is in one row only, and the list is well formed. */
void expectUnique(std::string_view Device::*list)
{
    std::set<std::string_view> seen;
    for (const Device& row : devices())
    {
        for (std::string_view word : split(row.*list))
        {
            EXPECT_NE(word, "") << row.id;
            EXPECT_TRUE(seen.insert(word).second) << row.id << ": " << word;
        }
    }
}

TEST(Catalog, NamesAreUnique)
{
    std::set<std::string_view> ids;
    for (const Device& row : devices())
    {
        EXPECT_TRUE(ids.insert(row.id).second) << row.id;
        EXPECT_FALSE(row.purpose.empty()) << row.id;
    }
    expectUnique(&Device::types);
    expectUnique(&Device::sections);
    expectUnique(&Device::memoryBlocks);
}

TEST(Catalog, EveryRowIsFoundByWhatItLists)
{
    for (const Device& row : devices())
    {
        EXPECT_EQ(findById(row.id), &row);
        for (std::string_view type : split(row.types))
        {
            EXPECT_EQ(findByType(type), &row);
        }
        for (std::string_view section : split(row.sections))
        {
            EXPECT_EQ(findBySection(section), &row);
        }
        for (std::string_view block : split(row.memoryBlocks))
        {
            EXPECT_EQ(findByMemoryBlock(block), &row);
        }
    }
}

TEST(Catalog, FindsSectionsAndBlocksWithAddress)
{
    EXPECT_EQ(findBySection("0000:00:02.0/virtio-blk")->id, "virtio_blk");
    EXPECT_EQ(findBySection("0000:00:07.0/1.2/usb-kbd")->id, "usb");
    EXPECT_EQ(findByMemoryBlock("0000:00:01.0/vga.vram")->id, "vga");
    EXPECT_EQ(findByMemoryBlock("/rom@etc/acpi/tables")->id, "acpi");
    EXPECT_EQ(findByType("qemu64-x86_64-cpu")->id, "cpu");
    EXPECT_EQ(findByType("x86_64-cpu")->id, "cpu");
}

TEST(Catalog, DoesNotFindWhatIsNotListed)
{
    EXPECT_EQ(findById("e1000"), nullptr);
    EXPECT_EQ(findBySection("kvm-tpr-opt"), nullptr);
    EXPECT_EQ(findBySection("cpu cpu_common"), nullptr);
    EXPECT_EQ(findBySection(""), nullptr);
    EXPECT_EQ(findByType("fakex86_64-cpu"), nullptr);
    EXPECT_EQ(findByMemoryBlock("0000:00:01.0"), nullptr);
}

TEST(Catalog, RangesAreWellFormedAndDoNotOverlap)
{
    for (auto list : {&Device::ports, &Device::mmio})
    {
        std::vector<Range> all;
        for (const Device& row : devices())
        {
            auto ranges = parseRanges(row.*list);
            ASSERT_TRUE(ranges) << row.id;
            all.insert(all.end(), ranges->begin(), ranges->end());
        }
        std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) {
            return a.first < b.first;
        });
        for (std::size_t i = 1; i < all.size(); ++i)
        {
            EXPECT_LT(all[i - 1].last, all[i].first);
        }
    }
}

TEST(Catalog, ParsesRanges)
{
    EXPECT_EQ(parseRanges("0x60 0x70-0x71"),
              (std::vector<Range>{{0x60, 0x60}, {0x70, 0x71}}));
    EXPECT_EQ(parseRanges("")->size(), 0U);
    EXPECT_EQ((Range{0xcf8, 0xcff}.size()), 8U);
    for (const char* bad : {"60", "0x", "0x2-0x1", "0x1-", "0x1-0x2-0x3",
                            "0x1  0x2", "0x10000000000000000"})
    {
        EXPECT_FALSE(parseRanges(bad)) << bad;
    }
}

TEST(Catalog, OnlyRequiredDevicesAreAlwaysThere)
{
    for (const Device& row : devices())
    {
        EXPECT_EQ(row.optional(), row.deviceClass != DeviceClass::Required);
        EXPECT_EQ(row.onByDefault, row.deviceClass != DeviceClass::Extraneous)
            << row.id;
    }
}

TEST(Catalog, KnowsAllSectionsAndBlocksOfAFullMachine)
{
    std::vector<std::string> streams = test::recordedStreams("boot-");
    ASSERT_FALSE(streams.empty());
    streams.insert(streams.end(), {"q35-1cpu", "q35-4cpu", "q35-extras"});
    for (const std::string& name : streams)
    {
        handover::BootStream stream =
            handover::parseBootStream(test::loadStream(name));
        for (const handover::Section& section : stream.sections)
        {
            EXPECT_TRUE(handover::isBookkeeping(section.id) ||
                        findBySection(section.id.idstr) != nullptr)
                << section.id.idstr;
        }
        for (const handover::RamBlock& block : stream.ram.blocks)
        {
            EXPECT_NE(findByMemoryBlock(block.name), nullptr) << block.name;
        }
    }
}

} // namespace
} // namespace airlock::catalog
