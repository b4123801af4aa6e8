#pragma once

#include "common/bytes.hpp"
#include "common/json.hpp"
#include "devmodel/handover/format.hpp"
#include "devmodel/handover/section.hpp"
#include "tests/unit/recordings.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

/** Streams for tests, put together by hand. */
namespace airlock::test
{

/** Where the description starts: behind an end mark, a type and the number of
 * bytes that are left. */
inline std::size_t descriptionStart(ByteView stream)
{
    constexpr std::size_t header = 6;
    for (std::size_t at = header; at < stream.size(); ++at)
    {
        ByteReader reader(stream.subspan(at - header), "description");
        if (reader.u8() == handover::kVmEof &&
            reader.u8() == handover::kVmDescription &&
            reader.be32() == stream.size() - at)
        {
            return at;
        }
    }
    throw Error("the recorded stream has no description");
}

/** Names a parameterised test by its stream. */
inline std::string
streamTestName(const ::testing::TestParamInfo<std::string>& info)
{
    std::string name = info.param;
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
}

/** Writes a boot stream piece by piece, right or wrong. */
class StreamBuilder
{
  public:
    StreamBuilder()
    {
        out.be32(handover::kVmFileMagic);
        out.be32(handover::kVmFileVersion);
    }

    /** Configuration section with x-ignore-shared on. */
    StreamBuilder& configuration(const std::string& machine)
    {
        out.u8(handover::kVmConfiguration);
        out.be32(static_cast<std::uint32_t>(machine.size()));
        out.text(machine);
        out.u8(handover::kVmSubsection);
        name("configuration/capabilities");
        out.be32(1);
        out.be32(1);
        name("x-ignore-shared");
        return *this;
    }

    StreamBuilder& name(const std::string& text)
    {
        out.u8(static_cast<std::uint8_t>(text.size()));
        out.text(text);
        return *this;
    }

    StreamBuilder& header(std::uint8_t type, std::uint32_t frame,
                          const handover::SectionId& id)
    {
        out.u8(type);
        out.be32(frame);
        name(id.idstr);
        out.be32(id.instance);
        out.be32(id.version);
        return *this;
    }

    StreamBuilder& footer(std::uint32_t frame)
    {
        out.u8(handover::kVmSectionFooter);
        out.be32(frame);
        return *this;
    }

    /** A RAM section with one block of 2 pages, neither of them sent. */
    StreamBuilder& ram()
    {
        header(handover::kVmSectionStart, 2, {"ram", 0, 4});
        out.be64(0x2000 | 0x04);
        name("ram");
        out.be64(0x2000);
        out.be64(0);
        out.be64(0x10);
        footer(2);
        return ramChunk(handover::kVmSectionEnd, {});
    }

    /** A PART or END chunk with these bytes and an EOS record. */
    StreamBuilder& ramChunk(std::uint8_t type, ByteView records)
    {
        out.u8(type);
        out.be32(2);
        out.bytes(records);
        out.be64(0x10);
        return footer(2);
    }

    /** A FULL section and its old-style description. */
    StreamBuilder& section(const handover::Section& section,
                           std::uint32_t frame = 7)
    {
        header(handover::kVmSectionFull, frame, section.id);
        payloads.emplace_back(out.size(), section.payload.size());
        out.bytes(section.payload);
        footer(frame);
        devices.push_back({{"name", section.id.idstr},
                           {"instance_id", section.id.instance},
                           {"size", section.payload.size()},
                           {"fields",
                            {{{"name", "data"},
                              {"size", section.payload.size()},
                              {"type", "buffer"}}}}});
        return *this;
    }

    /** EOF and description; by default that of the sections so far. */
    Bytes finish()
    {
        return finish(Json{{"page_size", 4096}, {"devices", devices}}.dump());
    }
    Bytes finish(const std::string& description)
    {
        out.u8(handover::kVmEof);
        out.u8(handover::kVmDescription);
        out.be32(static_cast<std::uint32_t>(description.size()));
        out.text(description);
        return out.release();
    }

    ByteWriter out;
    Json devices = Json::array();
    /** Offset and size of each section's payload in the stream. */
    std::vector<std::pair<std::size_t, std::size_t>> payloads;
};

/** A boot stream of these sections, described as they are. */
inline Bytes buildStream(std::span<const handover::Section> sections)
{
    StreamBuilder builder;
    builder.configuration("airlock-boot-1.0").ram();
    for (const handover::Section& section : sections)
    {
        builder.section(section);
    }
    return builder.finish();
}

} // namespace airlock::test
