#pragma once

#include "bootsrv/machine/blocks.hpp"
#include "common/secret.hpp"

#include <string_view>

struct evp_cipher_ctx_st;

namespace airlock::machine
{

inline constexpr std::uint64_t sectorBytes = 512;

/** A part of staging. */
struct Area
{
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
};

/** Encrypts or decrypts whole sectors in place, the first of which has this
 * number: AES-256-XTS, the tweak is the number (little endian). */
void cryptSectors(ByteView key, bool encrypt, std::uint64_t sector,
                  std::span<std::uint8_t> data);

/** The key of AES-256-XTS for one area of a job. */
Secret areaKey(const Secret& jobKey, std::string_view area);

/** A part of a disk, encrypted as dm-crypt's aes-xts-plain64 does it with
 * sectors counted from the start of the area: each sector of 512 bytes by
 * itself, its number (little endian) as tweak. So dirty mode may map it, and
 * clean mode needs no device mapper.
 *
 * XTS hides, it does not protect against change: what is read may be anything.
 * Safe to use from several threads. */
class CryptArea
{
  public:
    /** `blocks` has to outlive it. */
    CryptArea(Blocks& blocks, const Area& area, const Secret& jobKey,
              std::string_view name);

    std::uint64_t bytes() const { return area_.bytes; }
    /** Any bytes of it. */
    void read(std::span<std::uint8_t> out, std::uint64_t offset) const;
    /** Whole sectors. */
    void write(ByteView data, std::uint64_t offset);
    void sync() { blocks_.sync(); }

  private:
    void readSectors(std::span<std::uint8_t> out, std::uint64_t offset) const;

    Blocks& blocks_;
    Area area_;
    Secret key_;
};

} // namespace airlock::machine
