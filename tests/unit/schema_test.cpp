#include "devmodel/handover/schema.hpp"
#include "devmodel/handover/schema_tables/fields.hpp"
#include "devmodel/handover/schema_tables/tables.hpp"
#include "devmodel/handover/stream.hpp"
#include "error_of.hpp"
#include "tests/unit/admit_guest.hpp"
#include "tests/unit/described.hpp"
#include "tests/unit/test_streams.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace
{

using namespace airlock;
using namespace airlock::handover;
using airlock::test::errorOf;
using airlock::test::Guest;
using airlock::test::loadStream;
using airlock::test::notDescribed;
using testing::AllOf;
using testing::Contains;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

std::vector<Section> describedSections(const std::string& stream)
{
    std::vector<Section> sections;
    for (Section& section : parseBootStream(loadStream(stream)).sections)
    {
        if (findSchema(section.id))
        {
            sections.push_back(std::move(section));
        }
    }
    return sections;
}

// --- Real sections -----------------------------------------------------------

class RealStream : public testing::TestWithParam<std::string>
{};

TEST_P(RealStream, RoundTripIsIdentity)
{
    const auto sections = describedSections(GetParam());
    EXPECT_GE(sections.size(), 7U);
    for (const Section& section : sections)
    {
        EXPECT_EQ(serialise(parseSection(section)), section.payload)
            << label(section.id);
        EXPECT_EQ(sectionSize(section.id, section.payload),
                  section.payload.size())
            << label(section.id);
    }
}

INSTANTIATE_TEST_SUITE_P(Schema, RealStream,
                         testing::Values("guest-1cpu-boot", "guest-2cpu-boot"),
                         test::streamTestName);

Bytes& addSubsection(Bytes& bytes, const std::string& name,
                     std::uint8_t version = 1)
{
    bytes.push_back(0x05);
    bytes.push_back(static_cast<std::uint8_t>(name.size()));
    bytes.insert(bytes.end(), name.begin(), name.end());
    bytes.insert(bytes.end(), {0, 0, 0, version, 0xab, 0xcd});
    return bytes;
}

class ProductionState : public testing::TestWithParam<std::string>
{};

TEST_P(ProductionState, EveryByteIsDescribed)
{
    EXPECT_EQ(notDescribed(loadStream(GetParam())), "");
}

/** What the suite `schema` finds in a build that saves more than the tables
 * know, or less. */
TEST_P(ProductionState, AByteMoreOrLessInAnySectionIsFound)
{
    const auto stream =
        parseProductionStream(loadStream(GetParam()), sectionSize);
    for (std::size_t i = 0; i < stream.sections.size(); ++i)
    {
        const std::string name = label(stream.sections[i].id);
        auto changed = stream.sections;
        changed[i].payload.push_back(0);
        EXPECT_THAT(
            notDescribed(writeProductionStream(stream.machine, changed)),
            StartsWith(name + ": section does not end at offset"));
        changed[i].payload.resize(stream.sections[i].payload.size() - 1);
        EXPECT_THAT(
            notDescribed(writeProductionStream(stream.machine, changed)),
            StartsWith(name + ": "));
    }
}

TEST_P(ProductionState, AnUnknownSubsectionOfAnySectionIsFound)
{
    const auto stream =
        parseProductionStream(loadStream(GetParam()), sectionSize);
    for (std::size_t i = 0; i < stream.sections.size(); ++i)
    {
        // The virtio devices end with the one table that all of them share.
        std::string owner = vmstateName(stream.sections[i].id.idstr);
        owner = owner.starts_with("virtio-") ? "virtio" : owner;
        auto changed = stream.sections;
        addSubsection(changed[i].payload, owner + "/unheard-of");
        EXPECT_THAT(
            notDescribed(writeProductionStream(stream.machine, changed)),
            AllOf(StartsWith(label(changed[i].id) + ": "),
                  HasSubstr(owner + "/unheard-of/: is not a subsection that "
                                    "this device has")));
    }
}

INSTANTIATE_TEST_SUITE_P(Schema, ProductionState,
                         testing::Values("guest-1cpu-production",
                                         "guest-2cpu-production"),
                         test::streamTestName);

/** Positions worth changing: all of the first few thousand, then some of the
 * thousand queues that are not there. */
std::vector<std::size_t> positions(std::size_t size)
{
    constexpr std::size_t dense = 2000;
    constexpr std::size_t stride = 997;
    std::vector<std::size_t> out;
    for (std::size_t i = 0; i < size; i += i < dense ? 1 : stride)
    {
        out.push_back(i);
    }
    return out;
}

TEST(Schema, NoByteIsLost)
{
    Guest guest;
    for (const Section& section : guest.candidate)
    {
        const Record before = parseSection(section);
        for (std::size_t at : positions(section.payload.size()))
        {
            Section changed = section;
            changed.payload[at] ^= 0x40;
            try
            {
                const Record record = parseSection(changed);
                EXPECT_EQ(serialise(record), changed.payload)
                    << label(section.id) << " at " << at;
                EXPECT_FALSE(record == before)
                    << label(section.id) << " at " << at;
            }
            catch (const Refused& refused)
            {
                EXPECT_THAT(refused.what(), HasSubstr(label(section.id)));
            }
        }
    }
}

/** Whether the record is `whole` without some of its last subsections: what
 * a cut between two subsections leaves. */
bool lacksOnlySubsections(const Record& record, const Record& whole)
{
    const auto some = leaves(record);
    const auto all = leaves(whole);
    return some.size() < all.size() &&
           std::equal(some.begin(), some.end(), all.begin());
}

TEST(Schema, EveryTruncationIsRefusedOrShows)
{
    Guest guest;
    for (const Section& section : guest.candidate)
    {
        const Record whole = parseSection(section);
        for (std::size_t size : positions(section.payload.size()))
        {
            Section cut = section;
            cut.payload.resize(size);
            try
            {
                EXPECT_TRUE(lacksOnlySubsections(parseSection(cut), whole))
                    << label(section.id) << " cut to " << size;
            }
            catch (const Refused& refused)
            {
                EXPECT_THAT(refused.what(), HasSubstr(label(section.id)));
            }
        }
    }
}

TEST(Schema, RefusesBytesBehindASection)
{
    Guest guest;
    for (Section& section : guest.candidate)
    {
        section.payload.push_back(0);
        EXPECT_THAT(errorOf([&] { parseSection(section); }),
                    HasSubstr("1 bytes are left over"))
            << label(section.id);
    }
}

TEST(Schema, KnowsSectionsByNameAndVersion)
{
    EXPECT_EQ(findSchema({"cpu", 3, 12}), &tables::cpu);
    EXPECT_EQ(findSchema({"0000:00:02.0/virtio-blk", 0, 2}),
              &tables::virtioBlk);
    EXPECT_EQ(findSchema({"cpu", 0, 11}), nullptr);
    EXPECT_EQ(findSchema({"i8254", 0, 3}), nullptr);
    EXPECT_THAT(errorOf([] {
                    parseSection({{"i8254", 0, 3}, {}});
                }),
                HasSubstr("i8254/0: there is no table for this section"));
    EXPECT_THAT(errorOf([] {
                    sectionSize({"cpu", 1, 11}, {});
                }),
                HasSubstr("cpu/1: there is no table for this section in "
                          "version 11"));
}

TEST(Schema, NamesLeavesAsQemuDoes)
{
    Guest guest;
    const auto cpu = leaves(guest.state("cpu"));
    for (const char* path :
         {"env.efer", "env.cr[0]", "env.segs[1].base", "env.fpregs[7].tmp_exp",
          "env.ldt.limit", "cpu/poll_control_msr/env.poll_control_msr"})
    {
        EXPECT_THAT(cpu, Contains(Field(&Leaf::path, path)));
    }
    const auto blk = leaves(guest.state("virtio-blk"));
    for (const char* path :
         {"status", "vq[0].vring.num", "pci_dev.config[255]",
          "virtio/virtqueues/vq[1023].vring.used",
          "virtio/extra_state/extra_state.virtio_pci/modern_state/"
          "vqs[0].desc[1]"})
    {
        EXPECT_THAT(blk, Contains(Field(&Leaf::path, path)));
    }
}

TEST(Schema, FindsFieldsThroughGroups)
{
    Guest guest;
    const Record net = guest.state("virtio-net");
    EXPECT_TRUE(net.has("guest_features"));
    EXPECT_TRUE(net.has("mac_table.in_use"));
    EXPECT_TRUE(net.subsection("virtio/virtqueues"));
    EXPECT_FALSE(net.subsection("virtio/ring"));
    EXPECT_FALSE(net.has("rq"));
    EXPECT_THROW(net.number("rq"), std::logic_error);
    EXPECT_THROW(net.number("mac"), std::logic_error);
    EXPECT_THROW(net.rows("vq").column("no such column"), std::logic_error);
}

// --- Counts and constants ----------------------------------------------------

struct Bound
{
    std::string section;
    std::string field;
    std::uint64_t value;
    std::string expected;
};

class Bounds : public testing::TestWithParam<Bound>
{};

TEST_P(Bounds, AreChecked)
{
    Guest guest;
    guest.change(GetParam().section, [](Record& state) {
        state.number(GetParam().field) = GetParam().value;
    });
    EXPECT_THAT(errorOf([&] {
                    parseSection(
                        Guest::find(guest.candidate, GetParam().section));
                }),
                HasSubstr(GetParam().expected));
}

INSTANTIATE_TEST_SUITE_P(
    Schema, Bounds,
    testing::Values(
        Bound{"virtio-blk", "config_len", 0xffffffff,
              "config: has 4294967295 elements, at most 256"},
        Bound{"virtio-blk", "num_queues", 1025, "vq: has 1025 elements"},
        Bound{"virtio-blk", "rq", 1, "rq: there are requests in flight"},
        Bound{"virtio-net", "mac_table.in_use", 65,
              "mac_table.macs: has 390 elements"},
        Bound{"virtio-console", "config.max_nr_ports", 0xffffffff,
              "ports_map: has 134217728 elements"},
        Bound{"virtio-console", "nr_active_ports", 513,
              "ports: has 513 elements"},
        Bound{"PCIBUS", "nirq", 9, "irq_count: has 9 elements"},
        Bound{"PCIBUS", "nirq", 0xffffffff, "irq_count: has "},
        Bound{"cpu", "env.fpregs_format_vmstate", 1,
              "env.fpregs_format_vmstate: is not the format"}),
    [](const auto& bound) {
        return test::testName(bound.param.section + bound.param.field +
                              std::to_string(bound.param.value));
    });

TEST(Schema, RefusesConsoleOutputInFlight)
{
    Guest guest;
    guest.change("virtio-console", [](Record& state) {
        Rows& ports = state.rows("ports");
        ports.at(0, ports.column("elem_popped")) = 1;
    });
    EXPECT_THAT(errorOf([&] {
                    parseSection(
                        Guest::find(guest.candidate, "virtio-console"));
                }),
                HasSubstr("there is output in flight"));
}

// --- The engine on a table of its own ----------------------------------------

namespace small
{

using namespace airlock::handover::tables;

constexpr airlock::handover::Field extraFields[] = {u16("extra")};
constexpr Schema first{"small/first", 1, extraFields};
constexpr Schema second{"small/second", 3, extraFields};
constexpr airlock::handover::Field fields[] = {
    boolean("flag"),
    unused(2),
    i32("signed"),
};
constexpr Subsection subsections[] = {
    admitted(first),
    admitted(second),
    refused("small/never", "for a reason"),
};
const Schema table{"small", 1, fields, subsections};

} // namespace small

/** flag, two unused bytes, a number, and what follows. */
Bytes smallBytes(std::initializer_list<std::uint8_t> start = {1, 0, 0, 0xff,
                                                              0xff, 0xff, 0xfe})
{
    return start;
}

Record parseSmall(const Bytes& bytes)
{
    ByteReader reader(bytes, "here");
    return parse(reader, small::table);
}

TEST(SchemaEngine, ReadsValuesAndSubsections)
{
    Bytes bytes = smallBytes();
    addSubsection(addSubsection(bytes, "small/first"), "small/second", 3);
    const Record record = parseSmall(bytes);
    EXPECT_EQ(record.number("flag"), 1U);
    EXPECT_EQ(record.signedNumber("signed"), -2);
    EXPECT_EQ(record.subsection("small/second")->number("extra"), 0xabcdU);
    EXPECT_EQ(serialise(record), bytes);
}

TEST(SchemaEngine, RefusesBooleansAndUnusedBytesWithOtherValues)
{
    EXPECT_THAT(errorOf([] {
                    parseSmall({2, 0, 0, 0, 0, 0, 0});
                }),
                HasSubstr("here: flag: is 0x2, not 0 or 1"));
    EXPECT_THAT(errorOf([] {
                    parseSmall({1, 0, 9, 0, 0, 0, 0});
                }),
                HasSubstr("unused: has data in bytes that are not used"));
}

TEST(SchemaEngine, RefusesSubsectionsThatQemuWouldNotWrite)
{
    Bytes bytes = smallBytes();
    addSubsection(addSubsection(bytes, "small/first"), "small/first");
    EXPECT_THAT(errorOf([&] { parseSmall(bytes); }),
                HasSubstr("small/first/: is there twice or out of order"));

    bytes = smallBytes();
    addSubsection(addSubsection(bytes, "small/second", 3), "small/first");
    EXPECT_THAT(errorOf([&] { parseSmall(bytes); }), HasSubstr("out of order"));

    bytes = smallBytes();
    EXPECT_THAT(
        errorOf([&] { parseSmall(addSubsection(bytes, "small/second", 2)); }),
        HasSubstr("has version 2, not 3"));

    bytes = smallBytes();
    EXPECT_THAT(errorOf([&] { parseSmall(addSubsection(bytes, "small/x")); }),
                HasSubstr("is not a subsection that this device has"));

    bytes = smallBytes();
    EXPECT_THAT(
        errorOf([&] { parseSmall(addSubsection(bytes, "small/never")); }),
        HasSubstr("for a reason"));
}

TEST(SchemaEngine, RefusesSubsectionNamesWithZeroBytes)
{
    Bytes bytes = smallBytes();
    addSubsection(bytes, std::string("small/first\0", 12));
    EXPECT_THAT(errorOf([&] { parseSmall(bytes); }),
                HasSubstr("small/first?/: is not a subsection"));
}

TEST(SchemaEngine, LeavesToOthersWhatIsNotItsSubsection)
{
    Bytes bytes = smallBytes();
    const std::size_t end = bytes.size();
    addSubsection(bytes, "other/first");
    ByteReader reader(bytes, "here");
    parse(reader, small::table);
    EXPECT_EQ(reader.offset(), end);
}

TEST(SchemaEngine, RefusesACutSubsection)
{
    Bytes bytes = smallBytes();
    addSubsection(bytes, "small/first");
    bytes.pop_back();
    EXPECT_THAT(errorOf([&] { parseSmall(bytes); }),
                HasSubstr("small/first/extra: is cut short"));
    bytes.resize(bytes.size() - 3);
    EXPECT_THAT(errorOf([&] { parseSmall(bytes); }),
                HasSubstr("small/first/: is cut short"));
}

// QEMU would look for a subsection of "segment" behind each segment.
TEST(SchemaEngine, RefusesWhatQemuWouldTakeForASubsectionOfARow)
{
    Guest guest;
    const std::string name = "segment/x";
    guest.change("cpu", [&](Record& state) {
        // The next bytes are env.segs[1]: selector, base.
        Rows& segs = state.rows("env.segs");
        Bytes fake{0x05, static_cast<std::uint8_t>(name.size())};
        fake.insert(fake.end(), name.begin(), name.end());
        ByteReader reader(fake, "fake");
        segs.at(1, segs.column("selector")) = reader.be32();
        std::uint64_t base = 0;
        while (!reader.atEnd())
        {
            base = base << 8 | reader.u8();
        }
        segs.at(1, segs.column("base")) = base << 8;
    });
    EXPECT_THAT(
        errorOf([&] { parseSection(Guest::find(guest.candidate, "cpu")); }),
        HasSubstr("env.segs[0]: is followed by what QEMU would take"));
}

TEST(SchemaEngine, FindsMsixInBoundedSteps)
{
    Bytes config(tables::pciConfigSize);
    EXPECT_EQ(tables::msixCapability(config).entries, 0U);
    config[0x34] = 0x40; // a capability that is its own next
    config[0x40] = 0x09;
    config[0x41] = 0x40;
    EXPECT_EQ(tables::msixCapability(config).entries, 0U);
    config[0x41] = 0xfc;
    config[0xfc] = 0x11;
    config[0xfe] = 0xff;
    config[0xff] = 0xff;
    EXPECT_EQ(tables::msixCapability(config).offset, 0xfcU);
    EXPECT_EQ(tables::msixCapability(config).entries, 2048U);
}

} // namespace
