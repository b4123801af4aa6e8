#include "devmodel/handover/stream.hpp"
#include "error_of.hpp"
#include "tests/unit/test_streams.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace airlock::handover
{
namespace
{

using test::buildStream;
using test::errorOf;
using test::loadStream;
using test::StreamBuilder;
using ::testing::HasSubstr;

const std::vector<Section> kSections = {
    {{"timer", 0, 2}, {1, 2, 3, 4}},
    {{"cpu", 0, 12}, {5, 0x7e, 0, 0, 0, 7, 8}}, // looks like a footer
    {{"0000:00:02.0/virtio-blk", 0, 2}, {}},
};

std::string refusedBoot(ByteView stream)
{
    return errorOf([&] { parseBootStream(stream); });
}

const RamBlock& block(const RamSummary& ram, const std::string& name)
{
    for (const RamBlock& candidate : ram.blocks)
    {
        if (candidate.name == name)
        {
            return candidate;
        }
    }
    throw Error("no block " + name);
}

class Recorded : public ::testing::TestWithParam<std::string>
{};

INSTANTIATE_TEST_SUITE_P(Streams, Recorded,
                         ::testing::ValuesIn(test::recordedStreams()),
                         test::streamTestName);

TEST_P(Recorded, EveryByteBelongsToASection)
{
    Bytes stream = loadStream(GetParam());
    BootStream parsed = parseBootStream(stream);

    // All that is not in a section is framing of known size.
    std::size_t total = 8 + parsed.ram.bytes;
    for (const Section& section : parsed.sections)
    {
        total += 14 + section.id.idstr.size() + section.payload.size() + 5;
    }
    std::size_t configuration = 5 + parsed.configuration.machine.size();
    if (!parsed.configuration.capabilities.empty())
    {
        configuration += 6 + 26 + 4 + 1 + 15;
    }
    // QEMU 10 announces the switchover with a command, 7.2 did not.
    bool announced = parsed.configuration.machine.starts_with("airlock");
    std::size_t command = announced ? 5 : 0;
    EXPECT_EQ(total + configuration + command + 6,
              test::descriptionStart(stream));
}

TEST_P(Recorded, FieldsCoverEveryPayload)
{
    BootStream parsed = parseBootStream(loadStream(GetParam()));
    ASSERT_EQ(parsed.sections.size(), parsed.description.devices.size());
    for (std::size_t i = 0; i < parsed.sections.size(); ++i)
    {
        std::size_t end = 0;
        for (const FieldSpan& span :
             layOut(parsed.description.devices[i], parsed.sections[i].payload))
        {
            EXPECT_EQ(span.offset, end) << span.path;
            end = span.offset + span.size;
        }
        EXPECT_EQ(end, parsed.sections[i].payload.size());
    }
}

TEST_P(Recorded, TruncatedAnywhereIsRefused)
{
    Bytes stream = loadStream(GetParam());
    // Each length for the small ones; long ones differ in RAM pages and text.
    std::size_t step = 1 + stream.size() / (64U << 10) * 2;
    for (std::size_t size = 0; size < stream.size(); size += step)
    {
        ASSERT_NE(refusedBoot(ByteView(stream).first(size)), "") << size;
    }
}

TEST_P(Recorded, BytesLostInTheMiddleAreRefused)
{
    Bytes stream = loadStream(GetParam());
    std::size_t end = test::descriptionStart(stream) - 6;
    for (std::size_t at = 8; at < end; at += 1 + end / 40)
    {
        Bytes shorter = stream;
        shorter.erase(shorter.begin() + static_cast<std::ptrdiff_t>(at));
        ASSERT_NE(refusedBoot(shorter), "") << at;
    }
}

TEST_P(Recorded, RewrittenForProductionItReadsBack)
{
    BootStream parsed = parseBootStream(loadStream(GetParam()));
    Bytes stream = writeProductionStream("airlock-1.0", parsed.sections);
    std::size_t next = 0;
    ProductionStream back =
        parseProductionStream(stream, [&](const SectionId& id, ByteView) {
            EXPECT_EQ(id, parsed.sections[next].id);
            return parsed.sections[next++].payload.size();
        });
    EXPECT_EQ(back.machine, "airlock-1.0");
    ASSERT_EQ(back.sections.size(), parsed.sections.size());
    for (std::size_t i = 0; i < back.sections.size(); ++i)
    {
        EXPECT_EQ(back.sections[i].payload, parsed.sections[i].payload);
    }
    EXPECT_EQ(writeProductionStream(back.machine, back.sections), stream);
}

TEST(BootStream, ReadsTheConfigurationOfARecordedStream)
{
    BootStream parsed = parseBootStream(loadStream("q35-2cpu"));
    EXPECT_EQ(parsed.configuration.machine, "pc-q35-7.2");
    EXPECT_THAT(parsed.configuration.capabilities,
                ::testing::ElementsAre("x-ignore-shared"));
    EXPECT_TRUE(parseBootStream(loadStream("q35-ram"))
                    .configuration.capabilities.empty());
}

TEST(BootStream, CountsMemoryPagesAndKeepsNone)
{
    RamSummary shared = parseBootStream(loadStream("q35-extras")).ram;
    EXPECT_EQ(shared.chunks, 3U); // START, one PART, END
    EXPECT_EQ(block(shared, "ram").size, 64U << 20);
    EXPECT_EQ(block(shared, "ram").pages + block(shared, "ram").zeroPages, 0U);
    EXPECT_EQ(block(shared, "pc.bios").pages, 1U);
    EXPECT_EQ(block(shared, "pc.bios").zeroPages, 15U);
    EXPECT_EQ(block(shared, "0000:00:06.0/vga.vram").zeroPages, 4096U);

    RamSummary sent = parseBootStream(loadStream("q35-ram")).ram;
    EXPECT_EQ(block(sent, "pc.ram").zeroPages, 512U);
}

TEST(BootStream, ReadsAStreamMadeByHand)
{
    BootStream parsed = parseBootStream(buildStream(kSections));
    ASSERT_EQ(parsed.sections.size(), 3U);
    for (std::size_t i = 0; i < 3; ++i)
    {
        EXPECT_EQ(parsed.sections[i].id, kSections[i].id);
        EXPECT_EQ(parsed.sections[i].payload, kSections[i].payload);
    }
}

TEST(BootStream, ReadsUuidAndSwitchoverCommand)
{
    StreamBuilder builder;
    builder.configuration("airlock-boot-1.0");
    builder.out.u8(kVmSubsection);
    builder.name("configuration/uuid").out.be32(1);
    for (std::uint8_t i = 0; i < 16; ++i)
    {
        builder.out.u8(i);
    }
    builder.ram();
    builder.out.u8(kVmCommand);
    builder.out.be16(0x0b);
    builder.out.be16(0);
    BootStream parsed = parseBootStream(builder.finish());
    ASSERT_TRUE(parsed.configuration.uuid);
    EXPECT_EQ(parsed.configuration.uuid->at(15), 15);
}

/** A flipped bit is refused, unless it is the sender's to choose: payload,
 * machine name, description. */
TEST(BootStream, EveryBitFlipInFramingIsRefused)
{
    StreamBuilder builder;
    builder.configuration("airlock-boot-1.0").ram();
    for (const Section& section : kSections)
    {
        builder.section(section);
    }
    auto payloads = builder.payloads;
    std::size_t framing = builder.out.size();
    Bytes stream = builder.finish();
    payloads.emplace_back(13, std::string_view("airlock-boot-1.0").size());

    for (std::size_t bit = 0; bit < framing * 8; ++bit)
    {
        std::size_t at = bit / 8;
        bool free = std::any_of(payloads.begin(), payloads.end(),
                                [&](const auto& payload) {
                                    return at >= payload.first &&
                                           at - payload.first < payload.second;
                                });
        Bytes bad = stream;
        bad[at] ^= static_cast<std::uint8_t>(1U << (bit % 8));
        if (free)
        {
            refusedBoot(bad); // must only come back
            continue;
        }
        std::string refused = refusedBoot(bad);
        // The version of an old-style section and the address and the exact
        // name of a block are not said twice, so nothing contradicts them.
        bool unbound = refused.empty();
        if (unbound)
        {
            BootStream parsed = parseBootStream(bad);
            bool sameIds = parsed.sections.size() == kSections.size();
            for (std::size_t i = 0; sameIds && i < kSections.size(); ++i)
            {
                sameIds = parsed.sections[i].id.sameDevice(kSections[i].id) &&
                          parsed.sections[i].payload == kSections[i].payload;
            }
            EXPECT_TRUE(sameIds) << "byte " << at << " bit " << bit % 8;
        }
    }
}

TEST(BootStream, BitFlipsInHeadersOfRealSectionsAreRefused)
{
    BootStream real = parseBootStream(loadStream("q35-2cpu"));
    for (std::size_t i = 0; i < real.sections.size(); ++i)
    {
        StreamBuilder builder;
        builder.configuration("airlock-boot-1.0").ram();
        std::size_t header = builder.out.size();
        builder.section(real.sections[i]);
        std::size_t name = header + 5;
        Bytes stream = builder.finish();
        std::size_t end = name + real.sections[i].id.idstr.size() + 5;
        for (std::size_t bit = name * 8; bit < end * 8; ++bit)
        {
            Bytes bad = stream;
            bad[bit / 8] ^= static_cast<std::uint8_t>(1U << (bit % 8));
            ASSERT_NE(refusedBoot(bad), "")
                << real.sections[i].id.idstr << " bit " << bit - name * 8;
        }
    }
}

TEST(BootStream, RefusesSectionsOtherThanDescribed)
{
    StreamBuilder right;
    right.configuration("airlock-boot-1.0").ram();
    for (const Section& section : kSections)
    {
        right.section(section);
    }
    std::string description = Json{{"devices", right.devices}}.dump();

    auto stream = [&](std::vector<Section> sections) {
        StreamBuilder builder;
        builder.configuration("airlock-boot-1.0").ram();
        for (const Section& section : sections)
        {
            builder.section(section);
        }
        return builder.finish(description);
    };
    const Section& a = kSections[0];
    const Section& b = kSections[1];
    const Section& c = kSections[2];
    EXPECT_EQ(refusedBoot(stream({a, b, c})), "");
    EXPECT_THAT(refusedBoot(stream({b, a, c})),
                HasSubstr("cpu/0: section stands where the description has "
                          "timer/0"));
    EXPECT_THAT(refusedBoot(stream({a, b})),
                HasSubstr("describes sections that are missing"));
    EXPECT_THAT(refusedBoot(stream({a, b, c, a})),
                HasSubstr("section is not in the description"));
    Section longer = b;
    longer.payload.push_back(0);
    EXPECT_THAT(refusedBoot(stream({a, longer, c})),
                HasSubstr("cpu/0: section does not end"));
}

TEST(BootStream, RefusesDuplicatesEvenIfDescribed)
{
    Section other = kSections[0];
    other.payload = {9};
    std::vector<Section> twice = {kSections[0], kSections[1], other};
    EXPECT_EQ(refusedBoot(buildStream(twice)),
              "timer/0: section appears twice");
}

TEST(BootStream, RefusesOtherIterableSectionsAndCommands)
{
    StreamBuilder iterable;
    iterable.configuration("m").header(kVmSectionStart, 2, {"block", 0, 1});
    EXPECT_THAT(refusedBoot(iterable.finish()),
                HasSubstr("block/0: unexpected iterable section"));

    StreamBuilder second;
    second.configuration("m").ram().header(kVmSectionStart, 2, {"ram", 0, 4});
    EXPECT_THAT(refusedBoot(second.finish()),
                HasSubstr("unexpected iterable section"));

    StreamBuilder part;
    part.configuration("m").ramChunk(kVmSectionPart, {});
    EXPECT_THAT(refusedBoot(part.finish()), HasSubstr("not open"));

    StreamBuilder after;
    after.configuration("m").ram().ramChunk(kVmSectionPart, {});
    EXPECT_THAT(refusedBoot(after.finish()), HasSubstr("not open"));

    StreamBuilder command;
    command.configuration("m").out.u8(kVmCommand);
    command.out.be16(7); // MIG_CMD_PACKAGED: a stream within the stream
    command.out.be16(4);
    EXPECT_THAT(refusedBoot(command.finish()), HasSubstr("carries command 7"));
}

TEST(BootStream, RefusesWrongConfigurations)
{
    StreamBuilder none;
    EXPECT_THAT(refusedBoot(none.ram().finish()),
                HasSubstr("configuration: section is missing"));

    StreamBuilder longName;
    longName.configuration(std::string(256, 'x'));
    EXPECT_THAT(refusedBoot(longName.finish()), HasSubstr("bad machine name"));

    StreamBuilder escape;
    escape.configuration("\033[2J");
    EXPECT_THAT(refusedBoot(escape.finish()), HasSubstr("\"?[2J\""));

    StreamBuilder capability;
    capability.out.u8(kVmConfiguration);
    capability.out.be32(1);
    capability.out.text("m");
    capability.out.u8(kVmSubsection);
    capability.name("configuration/capabilities").out.be32(1);
    capability.out.be32(1);
    capability.name("mapped-ram");
    EXPECT_THAT(refusedBoot(capability.finish()),
                HasSubstr("\"mapped-ram\" is not supported"));

    StreamBuilder twice;
    twice.configuration("m").out.u8(kVmSubsection);
    twice.name("configuration/capabilities").out.be32(1);
    EXPECT_THAT(refusedBoot(twice.finish()), HasSubstr("unknown subsection"));

    StreamBuilder subsection;
    subsection.configuration("m").out.u8(kVmSubsection);
    subsection.name("configuration/target-page-bits").out.be32(1);
    EXPECT_THAT(refusedBoot(subsection.finish()),
                HasSubstr("unknown subsection"));
}

TEST(BootStream, RefusesWrongMemoryRecords)
{
    auto withRecord = [](std::uint64_t record, const std::string& name,
                         const Bytes& rest = {}) {
        ByteWriter records;
        records.be64(record);
        if (!name.empty())
        {
            records.u8(static_cast<std::uint8_t>(name.size()));
            records.text(name);
        }
        records.bytes(rest);
        StreamBuilder builder;
        builder.configuration("m").header(kVmSectionStart, 2, {"ram", 0, 4});
        builder.out.be64(0x2004);
        builder.name("ram").out.be64(0x2000);
        builder.out.be64(0);
        builder.out.be64(0x10);
        builder.footer(2).ramChunk(kVmSectionEnd, records.data());
        return refusedBoot(builder.finish());
    };
    EXPECT_EQ(withRecord(0x1002, "ram", {0}), "");
    EXPECT_EQ(withRecord(0x0008, "ram", Bytes(4096)), "");
    EXPECT_EQ(withRecord(0x0200, ""), ""); // MULTIFD_FLUSH
    EXPECT_THAT(withRecord(0x1002, "ram", {1}), HasSubstr("is not zero"));
    EXPECT_THAT(withRecord(0x2002, "ram", {0}), HasSubstr("beyond the end"));
    EXPECT_THAT(withRecord(0x1002, "rom", {0}), HasSubstr("unknown block rom"));
    EXPECT_THAT(withRecord(0x1022, "", {0}), HasSubstr("names no block"));
    EXPECT_THAT(withRecord(0x100a, "ram", {0}), HasSubstr("unknown record"));
    EXPECT_THAT(withRecord(0x1040, "ram", {0}), HasSubstr("unknown record"));
    EXPECT_THAT(withRecord(0x2004, "ram"), HasSubstr("unknown record"));
}

TEST(BootStream, RefusesWrongBlockLists)
{
    auto withBlocks = [](std::uint64_t total,
                         std::vector<std::pair<std::string, std::uint64_t>>
                             blocks) {
        StreamBuilder builder;
        builder.configuration("m").header(kVmSectionStart, 2, {"ram", 0, 4});
        builder.out.be64(total | 0x04);
        for (const auto& [name, size] : blocks)
        {
            builder.name(name).out.be64(size);
            builder.out.be64(0);
        }
        builder.out.be64(0x10);
        builder.footer(2).ramChunk(kVmSectionEnd, {});
        return refusedBoot(builder.finish());
    };
    EXPECT_EQ(withBlocks(0x3000, {{"a", 0x1000}, {"b", 0x2000}}), "");
    EXPECT_THAT(withBlocks(0x2000, {{"a", 0x1000}, {"a", 0x1000}}),
                HasSubstr("block a is listed twice"));
    EXPECT_THAT(withBlocks(0x2000, {{"a", 0x1000}, {"b", 0x2000}}),
                HasSubstr("block b has a bad size"));
    EXPECT_THAT(withBlocks(0x2000, {{"a", 0}}), HasSubstr("bad size"));
    EXPECT_THAT(withBlocks(0x2000, {{"a", 0x801}}), HasSubstr("bad size"));
    EXPECT_NE(withBlocks(0x3000, {{"a", 0x1000}}), "");

    std::vector<std::pair<std::string, std::uint64_t>> many;
    for (int i = 0; i < 257; ++i)
    {
        many.emplace_back("b" + std::to_string(i), 0x1000);
    }
    EXPECT_THAT(withBlocks(257 * 0x1000, many), HasSubstr("one too many"));
}

TEST(BootStream, RefusesWhatFollowsTheEnd)
{
    Bytes stream = buildStream(kSections);
    stream.push_back('x');
    EXPECT_THAT(refusedBoot(stream), HasSubstr("does not end with"));

    // A second end mark inside, so that sections come after it.
    StreamBuilder builder;
    builder.configuration("m").ram().out.u8(kVmEof);
    EXPECT_THAT(refusedBoot(builder.finish()), HasSubstr("goes on after"));
}

TEST(BootStream, RefusesMoreThanTheLimit)
{
    Bytes huge(kMaxBootStream + 1);
    EXPECT_THAT(refusedBoot(huge), HasSubstr("are allowed"));
}

TEST(BootStream, RefusesForeignFormats)
{
    EXPECT_NE(refusedBoot({}), "");
    Bytes stream = buildStream(kSections);
    stream[0] = 'X';
    EXPECT_EQ(refusedBoot(stream), "stream: is no QEMU migration stream");
    stream = buildStream(kSections);
    stream[7] = 2;
    EXPECT_THAT(refusedBoot(stream), HasSubstr("version 2"));
}

/** Finds the description although its length has a '{' and zero bytes. */
TEST(BootStream, FindsDescriptionsOfAwkwardLength)
{
    for (std::size_t length : {0x7bU, 0x7b7bU, 0x100U, 0x17b00U, 0x10000U})
    {
        StreamBuilder builder;
        builder.configuration("m").ram();
        std::string description = R"({"devices":[],"pad":""})";
        description.insert(description.size() - 2,
                           std::string(length - description.size(), '{'));
        EXPECT_EQ(refusedBoot(builder.finish(description)), "") << length;
    }
}

std::size_t sizeOf(const SectionId& id, ByteView)
{
    for (const Section& section : kSections)
    {
        if (section.id == id)
        {
            return section.payload.size();
        }
    }
    throw Refused(label(id), "unknown");
}

std::string refusedProduction(ByteView stream)
{
    return errorOf([&] { parseProductionStream(stream, sizeOf); });
}

TEST(ProductionStream, HasExactlyTheAgreedBytes)
{
    Bytes stream =
        writeProductionStream("airlock-1.0", std::span(kSections).first(1));
    ByteWriter want;
    want.be32(0x5145564d);
    want.be32(3);
    want.u8(7);
    want.be32(11);
    want.text("airlock-1.0");
    want.u8(4);
    want.be32(0);
    want.u8(5);
    want.text("timer");
    want.be32(0);
    want.be32(2);
    want.bytes(kSections[0].payload);
    want.u8(0x7e);
    want.be32(0);
    want.u8(0);
    want.u8(6);
    want.be32(2);
    want.text("{}");
    EXPECT_EQ(stream, want.data());
}

TEST(ProductionStream, TruncatedAnywhereIsRefused)
{
    Bytes stream = writeProductionStream("airlock-1.0", kSections);
    EXPECT_EQ(refusedProduction(stream), "");
    for (std::size_t size = 0; size < stream.size(); ++size)
    {
        EXPECT_NE(refusedProduction(ByteView(stream).first(size)), "") << size;
    }
}

/** What a refusal of the first `size` bytes starts with: the section in which,
 * or behind which, they end. */
std::string whereItEnds(std::size_t size)
{
    constexpr std::size_t magic = 8;
    constexpr std::size_t frame = 1 + 4; // of a header and of a footer
    std::string before = "configuration";
    std::size_t at = magic + frame + std::string_view("airlock-1.0").size();
    if (size <= magic)
    {
        return "stream: wants ";
    }
    for (const Section& section : kSections)
    {
        const std::size_t payload =
            at + frame + 1 + section.id.idstr.size() + 8;
        if (size < payload)
        {
            break;
        }
        before = label(section.id);
        at = payload + section.payload.size() + frame;
        if (size < at)
        {
            return before + ": wants ";
        }
        before = "stream behind " + before;
    }
    return before + ": wants ";
}

TEST(ProductionStream, TruncatedItSaysWhere)
{
    const Bytes stream = writeProductionStream("airlock-1.0", kSections);
    for (std::size_t size = 0; size < stream.size(); ++size)
    {
        EXPECT_THAT(refusedProduction(ByteView(stream).first(size)),
                    ::testing::StartsWith(whereItEnds(size)))
            << size;
    }
}

TEST(ProductionStream, EveryBitFlipIsRefusedOrShows)
{
    Bytes stream = writeProductionStream("airlock-1.0", kSections);
    for (std::size_t bit = 0; bit < stream.size() * 8; ++bit)
    {
        Bytes bad = stream;
        bad[bit / 8] ^= static_cast<std::uint8_t>(1U << (bit % 8));
        try
        {
            ProductionStream parsed = parseProductionStream(bad, sizeOf);
            EXPECT_EQ(writeProductionStream(parsed.machine, parsed.sections),
                      bad);
        }
        catch (const Refused&)
        {}
    }
}

TEST(ProductionStream, RefusesWrongFraming)
{
    Bytes stream = writeProductionStream("airlock-1.0", kSections);
    Bytes longer = stream;
    longer.push_back(0);
    EXPECT_THAT(refusedProduction(longer), HasSubstr("goes on after"));

    std::vector<Section> twice = {kSections[0], kSections[0]};
    EXPECT_THAT(refusedProduction(writeProductionStream("m", twice)),
                HasSubstr("appears twice"));

    Bytes renumbered = stream;
    renumbered[8 + 5 + 11 + 4] = 1;
    EXPECT_THAT(refusedProduction(renumbered),
                HasSubstr("has number 1, expected 0"));

    EXPECT_THAT(refusedProduction(buildStream(kSections)),
                HasSubstr("unknown section type 5"));
    EXPECT_NE(refusedProduction(Bytes(kMaxProductionStream + 1)), "");
}

TEST(ProductionStream, SizesFromTheCallbackAreChecked)
{
    Bytes stream = writeProductionStream("airlock-1.0", kSections);
    for (std::size_t size :
         {std::size_t{0}, std::size_t{5}, stream.size(), ~std::size_t{0}})
    {
        auto wrong = [&](const SectionId&, ByteView) { return size; };
        EXPECT_NE(errorOf([&] { parseProductionStream(stream, wrong); }), "");
    }
}

TEST(ProductionStream, WriterRefusesWhatDoesNotFit)
{
    std::vector<Section> longName = {{{std::string(256, 'x'), 0, 1}, {}}};
    EXPECT_THROW(writeProductionStream("m", longName), Error);
    std::vector<Section> big = {{{"x", 0, 1}, Bytes(kMaxProductionStream)}};
    EXPECT_THROW(writeProductionStream("m", big), Error);
    EXPECT_THROW(writeProductionStream("", {}), Error);
}

} // namespace
} // namespace airlock::handover
