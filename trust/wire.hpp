#pragma once

#include "trust/crypto.hpp"
#include "trust/pcr.hpp"

#include <cstdint>
#include <optional>
#include <string_view>

/** The structures of TPM 2.0 (part 2 of the library specification) that cross
 * a trust boundary, read and written here.
 *
 * A verifier has no TPM and links no TPM library: what a hostile peer sends is
 * only seen by these parsers. They take exactly what is expected here, with
 * fixed bounds and nothing left over, and refuse all else naming the field.
 */
namespace airlock::trust::wire
{

inline constexpr std::uint16_t algRsa = 0x0001;
inline constexpr std::uint16_t algAes = 0x0006;
inline constexpr std::uint16_t algSha256 = 0x000b;
inline constexpr std::uint16_t algNull = 0x0010;
inline constexpr std::uint16_t algRsaSsa = 0x0014;
inline constexpr std::uint16_t algRsaPss = 0x0016;
inline constexpr std::uint16_t algEcdsa = 0x0018;
inline constexpr std::uint16_t algEcc = 0x0023;
inline constexpr std::uint16_t algCfb = 0x0043;
inline constexpr std::uint16_t curveP256 = 0x0003;

inline constexpr std::uint32_t generatedValue = 0xff544347; ///< "\xffTCG"
inline constexpr std::uint16_t typeQuote = 0x8018; ///< TPM_ST_ATTEST_QUOTE

/** TPMA_OBJECT */
inline constexpr std::uint32_t fixedTpm = 1U << 1;
inline constexpr std::uint32_t stClear = 1U << 2;
inline constexpr std::uint32_t fixedParent = 1U << 4;
inline constexpr std::uint32_t sensitiveDataOrigin = 1U << 5;
inline constexpr std::uint32_t userWithAuth = 1U << 6;
inline constexpr std::uint32_t adminWithPolicy = 1U << 7;
inline constexpr std::uint32_t noDa = 1U << 10;
inline constexpr std::uint32_t encryptedDuplication = 1U << 11;
inline constexpr std::uint32_t restricted = 1U << 16;
inline constexpr std::uint32_t decrypt = 1U << 17;
inline constexpr std::uint32_t sign = 1U << 18;

/** "fixedtpm|restricted|..." for messages. */
std::string attributesText(std::uint32_t attributes);

/** A TPMT_PUBLIC of an ECC key on P-256 or an RSA key of 2048 to 4096 bits. */
struct Public
{
    std::uint16_t type = 0; ///< algEcc or algRsa
    std::uint32_t attributes = 0;
    Bytes authPolicy;
    std::uint16_t symmetric = algNull; ///< algAes: 128 bits, CFB
    std::uint16_t scheme = algNull;    ///< with SHA-256 when it is not algNull
    Bytes x;                           ///< ECC
    Bytes y;                           ///< ECC
    std::uint16_t keyBits = 0;         ///< RSA
    std::uint32_t exponent = 0;        ///< RSA; 0 means 65537
    Bytes modulus;                     ///< RSA

    /** Refused naming `where`; nameAlg has to be SHA-256. */
    static Public parse(ByteView data, std::string_view where);
    Bytes marshal() const;
    /** For OpenSSL. Refused when it is no point of the curve. */
    Key key(std::string_view where) const;
};

/** The name of an object: 000b and the SHA-256 of its public area. */
Bytes nameOf(ByteView publicArea);

struct ClockInfo
{
    std::uint64_t clock = 0; ///< milliseconds that the TPM had power
    std::uint32_t resetCount = 0;
    std::uint32_t restartCount = 0;
    bool safe = false; ///< no earlier value of `clock` was higher

    bool operator==(const ClockInfo&) const = default;
};

/** A TPMS_ATTEST of type quote. */
struct QuoteInfo
{
    Bytes qualifiedSigner;
    Bytes extraData;
    ClockInfo clock;
    std::uint64_t firmwareVersion = 0;
    PcrSelection selection;
    Bytes pcrDigest;

    /** Checks magic and type; the selection is of SHA-256 alone. */
    static QuoteInfo parse(ByteView data, std::string_view where);
};

/** A TPMT_SIGNATURE over a SHA-256 digest. */
struct Signature
{
    std::uint16_t algorithm = 0; ///< algEcdsa, algRsaSsa, algRsaPss
    Bytes value;                 ///< as OpenSSL wants it: DER for ECDSA

    static Signature parse(ByteView data, std::string_view where);
};

/** The R and S of an ECDSA signature in DER, 32 bytes each. */
struct EcdsaParts
{
    std::array<std::uint8_t, 32> r{};
    std::array<std::uint8_t, 32> s{};
};
EcdsaParts ecdsaParts(ByteView der, std::string_view where);

/** A buffer with its length in two bytes in front (TPM2B). */
void writeSized(ByteWriter& out, ByteView data);
/** Refused when it is longer than `max`. */
ByteView readSized(ByteReader& in, std::size_t max, std::string_view field);
/** Refused when something is left. */
void requireEnd(const ByteReader& in);

} // namespace airlock::trust::wire
