#include "devmodel/catalog/catalog.hpp"
#include "devmodel/handover/reduce.hpp"
#include "devmodel/handover/stream.hpp"
#include "error_of.hpp"
#include "tests/unit/test_streams.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace airlock::handover
{
namespace
{

using test::errorOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<Section> sectionsOf(const std::string& stream)
{
    return parseBootStream(test::loadStream(stream)).sections;
}

std::vector<std::string> names(const std::vector<Section>& sections)
{
    std::vector<std::string> out;
    for (const Section& section : sections)
    {
        out.push_back(label(section.id));
    }
    return out;
}

const DroppedSection& dropped(const Reduced& reduced, const std::string& idstr)
{
    for (const DroppedSection& section : reduced.dropped)
    {
        if (section.id.idstr == idstr)
        {
            return section;
        }
    }
    throw Error(idstr + " was not dropped");
}

TEST(Reduce, KeepsTheRequiredSectionsInOrder)
{
    EXPECT_THAT(names(reduce(sectionsOf("q35-2cpu")).kept),
                ElementsAre("timer/0", "cpu_common/0", "cpu/0", "apic/0",
                            "cpu_common/1", "cpu/1", "apic/1",
                            "0000:00:00.0/mch/0", "PCIHost/0", "PCIBUS/0",
                            "ioapic/0", "0000:00:02.0/virtio-blk/0",
                            "0000:00:03.0/virtio-net/0",
                            "0000:00:04.0/virtio-console/0",
                            "0000:00:05.0/virtio-rng/0"));
}

TEST(Reduce, ExtraDevicesChangeNothingInWhatIsKept)
{
    EXPECT_EQ(names(reduce(sectionsOf("q35-2cpu")).kept),
              names(reduce(sectionsOf("q35-extras")).kept));
}

/** The catalog ids of what was dropped. */
std::set<std::string> devices(const Reduced& reduced)
{
    std::set<std::string> out;
    for (const DroppedSection& section : reduced.dropped)
    {
        out.insert(section.device);
    }
    return out;
}

TEST(Reduce, OfTheBootMachineOnlyTheProductionMachinesSectionsAreLeft)
{
    std::vector<std::string> want = {"timer/0"};
    for (std::string cpu : {"0", "1", "2", "3"})
    {
        want.insert(want.end(),
                    {"cpu_common/" + cpu, "cpu/" + cpu, "apic/" + cpu});
    }
    want.insert(want.end(),
                {"0000:00:00.0/mch/0", "PCIHost/0", "PCIBUS/0", "ioapic/0",
                 "airlock-pm/0", "0000:00:02.0/virtio-blk/0",
                 "0000:00:04.0/virtio-console/0", "0000:00:05.0/virtio-rng/0",
                 "0000:00:03.0/virtio-net/0"});
    EXPECT_EQ(names(reduce(sectionsOf("boot-4cpu")).kept), want);

    for (int cpu = 3; cpu > 0; --cpu)
    {
        auto first = want.begin() + 1 + 3 * cpu;
        want.erase(first, first + 3);
        std::string name = "boot-" + std::to_string(cpu) + "cpu";
        if (cpu != 3)
        {
            EXPECT_EQ(names(reduce(sectionsOf(name)).kept), want) << name;
        }
    }
}

/** One device of the boot machine switched over: "boot-with-vga" or
 * "boot-without-pit". */
class OptionalDevice : public ::testing::TestWithParam<std::string>
{
  protected:
    bool added() const { return GetParam().starts_with("boot-with-"); }
    std::string id() const
    {
        return GetParam().substr(GetParam().find_last_of('-') + 1);
    }
};

INSTANTIATE_TEST_SUITE_P(
    BootMachine, OptionalDevice,
    ::testing::ValuesIn(test::recordedStreams("boot-with")),
    test::streamTestName);

TEST_P(OptionalDevice, ChangesOnlyWhatIsDropped)
{
    const catalog::Device* device = catalog::findById(id());
    ASSERT_NE(device, nullptr);
    EXPECT_TRUE(device->optional());

    std::set<std::string> want = devices(reduce(sectionsOf("boot-1cpu")));
    Reduced reduced = reduce(sectionsOf(GetParam()));
    if (added() && !device->sections.empty())
    {
        want.insert(id());
    }
    if (!added())
    {
        ASSERT_EQ(want.erase(id()), 1U);
    }
    // Serial and parallel ports have a host side in these recordings only.
    if (added())
    {
        want.insert("serial");
    }
    EXPECT_EQ(devices(reduced), want);
    EXPECT_THAT(names(reduced.kept),
                ElementsAre("timer/0", "cpu_common/0", "cpu/0", "apic/0",
                            "0000:00:00.0/mch/0", "PCIHost/0", "PCIBUS/0",
                            "ioapic/0", "airlock-pm/0"));
}

/** Every optional device of the boot machine that can be there alone, or be
 * left out alone, has a recording: firmware starts with none of the others
 * missing. */
TEST(Reduce, EveryOptionalDeviceHasARecording)
{
    std::set<std::string> want;
    for (const catalog::Device& row : catalog::devices())
    {
        if (row.optional())
        {
            want.emplace(row.id);
        }
    }
    for (const char* needed :
         {"lpc", "firmware", "fwcfg", "acpi", "rtc", "dma"})
    {
        want.erase(needed);
    }
    std::set<std::string> have;
    for (const std::string& name : test::recordedStreams("boot-with"))
    {
        have.insert(name.substr(name.find_last_of('-') + 1));
    }
    EXPECT_EQ(have, want);
}

TEST(Reduce, SaysWhatWasDroppedAndWhy)
{
    Reduced reduced = reduce(sectionsOf("q35-extras"));
    EXPECT_EQ(dropped(reduced, "0000:00:1f.0/ICH9LPC").why, "legacy");
    EXPECT_EQ(dropped(reduced, "0000:00:1f.0/ICH9LPC").device, "lpc");
    EXPECT_EQ(dropped(reduced, "0000:00:06.0/vga").why, "extraneous");
    EXPECT_EQ(dropped(reduced, "0000:00:06.0/vga").device, "vga");
    EXPECT_EQ(dropped(reduced, "fdc").device, "floppy");
    EXPECT_EQ(dropped(reduced, "globalstate").why, "migration bookkeeping");
    EXPECT_EQ(dropped(reduced, "slirp").device, "");
    EXPECT_EQ(dropped(reduced, "port92").bytes, 1U);
}

TEST(Reduce, LosesNothing)
{
    for (const char* name : {"q35-1cpu", "q35-4cpu", "q35-extras"})
    {
        std::vector<Section> sections = sectionsOf(name);
        std::size_t bytes = 0;
        for (const Section& section : sections)
        {
            bytes += section.payload.size();
        }
        Reduced reduced = reduce(sections);
        EXPECT_EQ(reduced.kept.size() + reduced.dropped.size(),
                  sections.size());
        EXPECT_EQ(reduced.keptBytes() + reduced.droppedBytes(), bytes);
    }
}

TEST(Reduce, KeepsPayloadsAsTheyAre)
{
    std::vector<Section> sections = sectionsOf("q35-1cpu");
    for (const Section& kept : reduce(sections).kept)
    {
        auto original = std::find_if(
            sections.begin(), sections.end(),
            [&](const Section& section) { return section.id == kept.id; });
        ASSERT_NE(original, sections.end());
        EXPECT_EQ(kept.payload, original->payload);
    }
}

TEST(Reduce, RefusesDevicesThatTheCatalogLacks)
{
    EXPECT_EQ(errorOf([] { reduce(sectionsOf("q35-vapic")); }),
              "kvm-tpr-opt/0: section is of no device in the catalog");
    EXPECT_THAT(errorOf([] { reduce(sectionsOf("pc")); }),
                HasSubstr("section is of no device in the catalog"));
    // A parser's name for something else than a device section.
    EXPECT_NE(errorOf([] { reduce({{{"ram", 0, 4}, {}}}); }), "");
    EXPECT_NE(errorOf([] { reduce({{{"", 0, 4}, {}}}); }), "");
}

TEST(Reduce, RefusesDuplicates)
{
    std::vector<Section> sections = sectionsOf("q35-1cpu");
    for (std::size_t i = 0; i < sections.size(); ++i)
    {
        std::vector<Section> twice = sections;
        twice.push_back(sections[i]);
        EXPECT_EQ(errorOf([&] { reduce(twice); }),
                  label(sections[i].id) + ": section appears twice");
    }
}

} // namespace
} // namespace airlock::handover
