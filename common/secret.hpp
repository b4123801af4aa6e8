#pragma once

#include "common/bytes.hpp"

#include <array>
#include <cstddef>

namespace airlock
{

/** Overwrites memory in a way that the compiler keeps. */
void wipe(std::span<std::uint8_t> memory);

/** 32 bytes that nobody else may know. Wiped at the end; there is no way to
 * print it or to compare it other than in constant time. */
class Secret
{
  public:
    static constexpr std::size_t size = 32;

    /** Fresh bytes from the kernel. */
    static Secret random();
    /** From exactly 32 bytes; Refused naming `where` otherwise. */
    static Secret from(ByteView data, std::string_view where);

    Secret(const Secret&) = default;
    Secret& operator=(const Secret&) = default;
    ~Secret() { wipe(bytes_); }

    ByteView view() const { return bytes_; }

  private:
    Secret() = default;

    std::array<std::uint8_t, size> bytes_{};
};

/** HKDF with SHA-256 (RFC 5869), without salt: `out` from a key and a text
 * that says what for. */
void hkdf(ByteView key, ByteView info, std::span<std::uint8_t> out);

} // namespace airlock
