#pragma once

#include "common/secret.hpp"

#include <array>
#include <initializer_list>
#include <memory>
#include <string_view>

struct evp_pkey_st;

/** The few operations of OpenSSL's libcrypto that the trust library needs.
 * Errors of the library are thrown as Error. */
namespace airlock::trust
{

struct FreeKey
{
    void operator()(evp_pkey_st* key) const;
};
using Key = std::unique_ptr<evp_pkey_st, FreeKey>;

/** "what: reason", with what OpenSSL complained about last. */
[[noreturn]] void throwCrypto(const std::string& what);

Digest hmacSha256(ByteView key, std::initializer_list<ByteView> parts);

/** SHA-256 over several parts, without putting them together. */
Digest sha256Of(std::initializer_list<ByteView> parts);

/** What AES-256-GCM makes of a plain text. */
struct GcmBox
{
    static constexpr std::size_t keySize = 32;

    std::array<std::uint8_t, 12> nonce{};
    std::array<std::uint8_t, 16> tag{};
    Bytes ciphertext;
};

/** Encrypts under a key of 32 bytes with a random nonce: a key is for one text
 * only. `associated` is authenticated, not encrypted. */
GcmBox gcmSeal(const Secret& key, ByteView associated, ByteView plain);

/** Throws Refused (naming `where`) when key, text or associated data are not
 * those of gcmSeal(). */
Secret gcmOpen(const Secret& key, ByteView associated, const GcmBox& box,
               std::string_view where);

/** AES-128 in CFB mode with a zero initial vector, as TPM 2.0 protects what it
 * gives away with a key that is used once. */
Bytes cfbEncrypt(ByteView key, ByteView plain);

/** The key derivations of TPM 2.0 (part 1, 11.4.10) over SHA-256, for results
 * of at most 32 bytes. `label` without its terminating zero. */
Secret kdfA(ByteView key, std::string_view label, ByteView contextU,
            ByteView contextV, std::size_t size);
Secret kdfE(ByteView z, std::string_view label, ByteView partyU,
            ByteView partyV, std::size_t size);

/** A key from PEM text. Refused (naming `where`) when it is none, is encrypted,
 * or is neither an EC key on P-256 nor an RSA key of 2048 to 4096 bits. */
Key publicKeyFromPem(std::string_view pem, std::string_view where);
Key privateKeyFromPem(std::string_view pem, std::string_view where);

/** A new EC key on P-256. */
Key makeKey();
std::string privateKeyPem(const Key& key);
std::string publicKeyPem(const Key& key);

/** Signs a digest: ECDSA (DER) or RSASSA-PKCS1-v1_5. */
Bytes signDigest(const Key& key, const Digest& digest);
/** `pss`: RSASSA-PSS instead of PKCS1-v1_5; no meaning for ECDSA. */
bool verifyDigest(const Key& key, const Digest& digest, ByteView signature,
                  bool pss = false);

} // namespace airlock::trust
