#pragma once

#include "tests/unit/event_log_writer.hpp"
#include "trust/uki.hpp"

#include <string>
#include <string_view>
#include <vector>

/** Images that nobody can start, and the logs of their boots. */
namespace airlock::test
{

struct PeSection
{
    std::string name;
    Bytes data;
    std::size_t virtualSize = 0; ///< 0: as the data
};

inline Bytes bytesOf(std::string_view text)
{
    return {text.begin(), text.end()};
}

/** A PE32+ image with these sections, each padded to 512 bytes, and what is
 * at its end. */
struct PeWriter
{
    static constexpr std::size_t headerSize = 1024;
    static constexpr std::size_t checksumAt = 0x80 + 24 + 64;
    static constexpr std::size_t certificateAt = 0x80 + 24 + 112 + 4 * 8;

    std::vector<PeSection> sections;
    Bytes certificates;
    std::uint32_t checksum = 0;

    Bytes write() const
    {
        Writer body;
        Writer table;
        std::size_t at = headerSize;
        for (const PeSection& section : sections)
        {
            const std::size_t padded = (section.data.size() + 511) / 512 * 512;
            std::string name = section.name;
            name.resize(8);
            table.text(name);
            table.le32(section.virtualSize != 0 ? section.virtualSize
                                                : section.data.size());
            table.le32(0x10000).le32(padded).le32(at);
            table.bytes(Bytes(12)).le32(0x40000040);
            body.bytes(section.data)
                .pad(body.data().size() + padded - section.data.size());
            at += padded;
        }
        Writer out;
        out.le16(0x5a4d).pad(0x3c).le32(0x80).pad(0x80).le32(0x4550);
        out.le16(0x8664).le16(sections.size()).bytes(Bytes(12));
        out.le16(112 + 16 * 8).le16(0x22);
        const std::size_t optional = out.data().size();
        out.le16(0x20b).pad(optional + 60).le32(headerSize).le32(checksum);
        out.pad(optional + 108).le32(16).pad(optional + 112 + 4 * 8);
        out.le32(certificates.empty() ? 0 : at).le32(certificates.size());
        out.pad(optional + 112 + 16 * 8);
        out.bytes(table.data()).pad(headerSize).bytes(body.data());
        out.bytes(certificates);
        return out.data();
    }
};

/** An image as ukify makes it; its kernel is a PE image too. */
inline PeWriter image(const std::string& version)
{
    PeWriter kernel;
    kernel.sections = {{".text", bytesOf("kernel " + version)}};
    PeWriter out;
    out.sections = {{".text", bytesOf("the stub")},
                    {".osrel", bytesOf("ID=airlock")},
                    {".cmdline", bytesOf("mode=clean")},
                    {".initrd", bytesOf("initrd " + version)},
                    {".linux", kernel.write()}};
    return out;
}

/** A machine that started an image. */
inline LogWriter logOf(const std::string& version, bool withPcr11 = true)
{
    const Bytes file = image(version).write();
    const trust::Uki uki = trust::Uki::parse(file, "uki");
    LogWriter out;
    out.event(0, "firmware").event(7, "keys");
    out.event(4, 0x80000003, uki.authenticode(), "path");
    out.event(4, 0x80000003, uki.digests().at("kernel"), "path");
    if (withPcr11)
    {
        for (const char* name : {".linux", ".osrel", ".cmdline", ".initrd"})
        {
            out.event(11, 0x0d,
                      hashOf({name, std::string_view(name).size() + 1}), name);
            out.event(11, 0x0d, uki.digests().at(name), name);
        }
    }
    out.event(9, 6, uki.digests().at(".initrd"), "initrd");
    return out;
}

} // namespace airlock::test
