#pragma once

#include "common/bytes.hpp"
#include "common/json.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace airlock::handover
{

/** Bounds on streams. QEMU itself has none. */
inline constexpr std::size_t kMaxBootStream = 64U << 20; ///< has ROM pages
inline constexpr std::size_t kMaxProductionStream = 16U << 20;
inline constexpr std::size_t kMaxSections = 4096;
inline constexpr std::size_t kMaxIdstr = 255; ///< its length is one byte

/** Marks of a QEMU stream (migration/savevm.h). */
inline constexpr std::uint32_t kVmFileMagic = 0x5145564d; // "QEVM"
inline constexpr std::uint32_t kVmFileVersion = 3;
inline constexpr std::uint8_t kVmEof = 0x00;
inline constexpr std::uint8_t kVmSectionStart = 0x01;
inline constexpr std::uint8_t kVmSectionPart = 0x02;
inline constexpr std::uint8_t kVmSectionEnd = 0x03;
inline constexpr std::uint8_t kVmSectionFull = 0x04;
inline constexpr std::uint8_t kVmSubsection = 0x05;
inline constexpr std::uint8_t kVmDescription = 0x06;
inline constexpr std::uint8_t kVmConfiguration = 0x07;
inline constexpr std::uint8_t kVmCommand = 0x08;
inline constexpr std::uint8_t kVmSectionFooter = 0x7e;

/** The one capability of a boot stream: shared memory is not sent. */
inline constexpr std::string_view kIgnoreShared = "x-ignore-shared";

/** True for printable ASCII only: the name can go to a terminal as it is. */
inline bool isPrintable(std::string_view text)
{
    return std::all_of(text.begin(), text.end(),
                       [](char c) { return c >= ' ' && c <= '~'; });
}

/** A length byte and that much printable text, at least one character. */
inline std::string readCountedName(ByteReader& in)
{
    std::string name(asText(in.take(in.u8())));
    if (name.empty() || !isPrintable(name))
    {
        throw Refused(in.where(), "bad name " + printable(name) +
                                      " before offset " +
                                      std::to_string(in.offset()));
    }
    return name;
}

} // namespace airlock::handover
