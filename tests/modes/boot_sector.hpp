#pragma once

#include "common/bytes.hpp"

#include <algorithm>
#include <array>
#include <string_view>

/** The smallest guest there is: a boot sector that firmware starts. */
namespace airlock::test
{

/** What the guest makes of each byte of its tenant's text before it writes it
 * to its memory: what is found so was there because the guest ran. */
inline constexpr std::uint8_t guestMask = 0x5a;
inline constexpr std::size_t sentinelBytes = 32;
inline constexpr std::string_view sectorSays = "the sentinel is in memory";

inline Bytes masked(ByteView text)
{
    Bytes out = copyOf(text);
    for (std::uint8_t& byte : out)
    {
        byte ^= guestMask;
    }
    return out;
}

/** A disk of this size whose boot sector has the text, writes it masked to
 * address 0x8000, says so on the serial line, and halts. */
inline Bytes bootDisk(ByteView sentinel, std::size_t bytes)
{
    constexpr std::size_t saysAt = 0x40;
    constexpr std::size_t sentinelAt = 0x100;
    constexpr std::array<std::uint8_t, 40> code = {
        0xfa,                      // cli
        0x31, 0xc0,                // xor ax, ax
        0x8e, 0xd8,                // mov ds, ax
        0x8e, 0xc0,                // mov es, ax
        0xbe, 0x00,          0x7d, // mov si, 0x7d00: the sentinel
        0xbf, 0x00,          0x80, // mov di, 0x8000
        0xb9, sentinelBytes, 0x00, // mov cx, 32
        0xfc,                      // cld
        0xac,                      // lodsb
        0x34, guestMask,           // xor al, mask
        0xaa,                      // stosb
        0xe2, 0xfa,                // loop to lodsb
        0xba, 0xf8,          0x03, // mov dx, 0x3f8
        0xbe, 0x40,          0x7c, // mov si, 0x7c40: what to say
        0xac,                      // lodsb
        0x84, 0xc0,                // test al, al
        0x74, 0x03,                // jz to hlt
        0xee,                      // out dx, al
        0xeb, 0xf8,                // jmp to lodsb
        0xf4,                      // hlt
        0xeb, 0xfd,                // jmp to hlt
    };
    Bytes out(bytes);
    const auto put = [&out](ByteView what, std::size_t at) {
        std::copy(what.begin(), what.end(),
                  out.begin() + static_cast<std::ptrdiff_t>(at));
    };
    put(code, 0);
    put(asBytes(sectorSays), saysAt);
    put(sentinel, sentinelAt);
    put(std::array<std::uint8_t, 2>{0x55, 0xaa}, 510);
    return out;
}

} // namespace airlock::test
