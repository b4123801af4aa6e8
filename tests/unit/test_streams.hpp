#pragma once

#include "common/bytes.hpp"
#include "common/file.hpp"
#include "common/json.hpp"
#include "devmodel/handover/format.hpp"
#include "devmodel/handover/section.hpp"

#include <gtest/gtest.h>
#include <zstd.h>

#include <algorithm>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

/** Streams for tests: recorded ones and ones put together by hand. */
namespace airlock::test
{

/** A stream of tests/data/streams (record.sh), unpacked. */
inline Bytes loadStream(const std::string& name)
{
    Bytes packed = readFile(
        std::string(AIRLOCK_TEST_DATA "/streams/") + name + ".zst", 1U << 20);
    Bytes out(ZSTD_getFrameContentSize(packed.data(), packed.size()));
    std::size_t size =
        ZSTD_decompress(out.data(), out.size(), packed.data(), packed.size());
    if (ZSTD_isError(size) || size != out.size())
    {
        throw Error("cannot unpack " + name);
    }
    return out;
}

/** The names of all recorded streams of boot machines that start with a
 * prefix, sorted. */
inline std::vector<std::string> recordedStreams(const std::string& prefix = "")
{
    std::vector<std::string> names;
    for (const auto& entry :
         std::filesystem::directory_iterator(AIRLOCK_TEST_DATA "/streams"))
    {
        std::string name = entry.path().stem();
        if (entry.path().extension() == ".zst" && name.starts_with(prefix) &&
            !name.ends_with("-production") && !name.ends_with("-memory"))
        {
            names.push_back(name);
        }
    }
    std::sort(names.begin(), names.end());
    return names;
}

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

/** Runs f and returns the text of the Refused that it throws; "" if none. */
template <typename F>
std::string refusal(F&& f)
{
    try
    {
        std::forward<F>(f)();
    }
    catch (const Refused& refused)
    {
        return refused.what();
    }
    return "";
}

} // namespace airlock::test
