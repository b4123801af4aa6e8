#pragma once

#include "common/bytes.hpp"

#include <array>
#include <memory>
#include <optional>

struct evp_md_ctx_st;

namespace airlock
{

using Digest = std::array<std::uint8_t, 32>;

/** Incremental SHA-256 over OpenSSL's EVP interface.
 *
 * One object may be used for many digests one after the other: finish()
 * starts the next one. Errors of the library are thrown as Error.
 */
class Sha256
{
  public:
    Sha256();
    Sha256(Sha256&&) noexcept = default;
    Sha256& operator=(Sha256&&) noexcept = default;
    ~Sha256();

    void update(ByteView data);
    /** Adds a number as eight big-endian bytes. */
    void updateBe64(std::uint64_t value);
    Digest finish();

  private:
    struct Free
    {
        void operator()(evp_md_ctx_st* context) const;
    };
    std::unique_ptr<evp_md_ctx_st, Free> context_;
};

Digest sha256(ByteView data);

/** Compares in a time that depends on the length only. */
bool equalConstantTime(ByteView a, ByteView b);

/** Fills a view with bytes of OpenSSL's random generator, which the kernel's
 * seeds. */
void fillRandom(std::span<std::uint8_t> out);

/** Lower-case hexadecimal. */
std::string toHex(ByteView data);

/** The bytes of a lower- or upper-case hexadecimal text; nothing when a
 * character is no digit or the length is odd. */
std::optional<Bytes> fromHex(std::string_view text);

/** A digest from exactly 64 hexadecimal digits. */
std::optional<Digest> digestFromHex(std::string_view text);

} // namespace airlock
