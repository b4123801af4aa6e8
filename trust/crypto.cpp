#include "trust/crypto.hpp"

#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

namespace airlock::trust
{

namespace
{

struct Free
{
    void operator()(EVP_CIPHER_CTX* context) const
    {
        EVP_CIPHER_CTX_free(context);
    }
    void operator()(EVP_PKEY_CTX* context) const { EVP_PKEY_CTX_free(context); }
    void operator()(EVP_MAC* mac) const { EVP_MAC_free(mac); }
    void operator()(EVP_MAC_CTX* context) const { EVP_MAC_CTX_free(context); }
    void operator()(BIO* bio) const { BIO_free(bio); }
};
using CipherContext = std::unique_ptr<EVP_CIPHER_CTX, Free>;
using KeyContext = std::unique_ptr<EVP_PKEY_CTX, Free>;
using MemoryBio = std::unique_ptr<BIO, Free>;

void require(bool ok, const char* what)
{
    if (!ok)
    {
        throwCrypto(what);
    }
}

int toInt(std::size_t size)
{
    if (size > (1U << 30))
    {
        throw Error("OpenSSL: too many bytes at once");
    }
    return static_cast<int>(size);
}

CipherContext cipher(const EVP_CIPHER* type, bool encrypt, ByteView key,
                     ByteView iv)
{
    CipherContext out(EVP_CIPHER_CTX_new());
    require(out && EVP_CipherInit_ex(out.get(), type, nullptr, key.data(),
                                     iv.data(), encrypt ? 1 : 0) == 1,
            "cannot set a cipher up");
    return out;
}

/** Both directions: update() with an output, or with associated data only. */
void update(const CipherContext& context, std::uint8_t* out, ByteView in)
{
    int size = 0;
    require(EVP_CipherUpdate(context.get(), out, &size, in.data(),
                             toInt(in.size())) == 1,
            "cannot encrypt");
}

void requireGcmKey(const Secret& key)
{
    if (key.size() != GcmBox::keySize)
    {
        throw Error("an AES-256-GCM key has 32 bytes, not " +
                    std::to_string(key.size()));
    }
}

/** Instead of asking at the terminal. */
int noPassphrase(char*, int, int, void*)
{
    return -1;
}

MemoryBio bioOf(std::string_view text)
{
    MemoryBio bio(BIO_new_mem_buf(text.data(), toInt(text.size())));
    require(bio != nullptr, "memory");
    return bio;
}

/** Only what a TPM can verify and nobody calls weak. */
Key requireUsable(Key key, std::string_view where)
{
    if (!key)
    {
        ERR_clear_error();
        throw Refused(where, "is no key in PEM form without a passphrase");
    }
    const int bits = EVP_PKEY_get_bits(key.get());
    if (EVP_PKEY_is_a(key.get(), "EC") == 1)
    {
        char group[64] = {};
        std::size_t size = 0;
        if (EVP_PKEY_get_group_name(key.get(), group, sizeof group, &size) !=
                1 ||
            std::string_view(group) != "prime256v1")
        {
            throw Refused(where, "is no EC key on the curve P-256");
        }
    }
    else if (EVP_PKEY_is_a(key.get(), "RSA") != 1 || bits < 2048 || bits > 4096)
    {
        throw Refused(where,
                      "is neither an EC key nor RSA of 2048 to 4096 bits");
    }
    return key;
}

KeyContext contextOf(const Key& key)
{
    KeyContext out(EVP_PKEY_CTX_new(key.get(), nullptr));
    require(out != nullptr, "cannot use a key");
    return out;
}

/** Hash and, for RSA, the padding of the next operation. */
void setScheme(const KeyContext& context, const Key& key, bool pss)
{
    require(EVP_PKEY_CTX_set_signature_md(context.get(), EVP_sha256()) == 1,
            "cannot set the hash of a signature");
    if (EVP_PKEY_is_a(key.get(), "RSA") == 1)
    {
        require(EVP_PKEY_CTX_set_rsa_padding(context.get(),
                                             pss ? RSA_PKCS1_PSS_PADDING
                                                 : RSA_PKCS1_PADDING) == 1,
                "cannot set the padding of a signature");
    }
}

std::string textOf(BIO* bio)
{
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio, &data);
    return {data, static_cast<std::size_t>(size)};
}

} // namespace

void FreeKey::operator()(evp_pkey_st* key) const
{
    EVP_PKEY_free(key);
}

void throwCrypto(const std::string& what)
{
    char text[256] = "no reason given";
    if (const unsigned long code = ERR_get_error(); code != 0)
    {
        ERR_error_string_n(code, text, sizeof text);
    }
    ERR_clear_error();
    throw Error("OpenSSL: " + what + ": " + text);
}

Digest hmacSha256(ByteView key, std::initializer_list<ByteView> parts)
{
    std::unique_ptr<EVP_MAC, Free> mac(EVP_MAC_fetch(nullptr, "HMAC", nullptr));
    require(mac != nullptr, "HMAC is not available");
    std::unique_ptr<EVP_MAC_CTX, Free> context(EVP_MAC_CTX_new(mac.get()));
    char hash[] = "SHA256";
    const OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string("digest", hash, 0),
        OSSL_PARAM_construct_end()};
    require(context && EVP_MAC_init(context.get(), key.data(), key.size(),
                                    parameters) == 1,
            "cannot start an HMAC");
    for (ByteView part : parts)
    {
        require(EVP_MAC_update(context.get(), part.data(), part.size()) == 1,
                "cannot work an HMAC out");
    }
    Digest out{};
    std::size_t size = 0;
    require(EVP_MAC_final(context.get(), out.data(), &size, out.size()) == 1 &&
                size == out.size(),
            "cannot finish an HMAC");
    return out;
}

Digest sha256Of(std::initializer_list<ByteView> parts)
{
    Sha256 hash;
    for (ByteView part : parts)
    {
        hash.update(part);
    }
    return hash.finish();
}

GcmBox gcmSeal(const Secret& key, ByteView associated, ByteView plain)
{
    requireGcmKey(key);
    GcmBox out;
    fillRandom(out.nonce);
    CipherContext context =
        cipher(EVP_aes_256_gcm(), true, key.view(), out.nonce);
    update(context, nullptr, associated);
    out.ciphertext.resize(plain.size());
    update(context, out.ciphertext.data(), plain);
    std::uint8_t none[16];
    int size = 0;
    require(EVP_CipherFinal_ex(context.get(), none, &size) == 1 &&
                EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_GET_TAG,
                                    toInt(out.tag.size()), out.tag.data()) == 1,
            "cannot finish AES-GCM");
    return out;
}

Secret gcmOpen(const Secret& key, ByteView associated, const GcmBox& box,
               std::string_view where)
{
    requireGcmKey(key);
    CipherContext context =
        cipher(EVP_aes_256_gcm(), false, key.view(), box.nonce);
    update(context, nullptr, associated);
    Secret out(box.ciphertext.size());
    update(context, out.bytes().data(), box.ciphertext);
    std::array<std::uint8_t, 16> tag = box.tag;
    require(EVP_CIPHER_CTX_ctrl(context.get(), EVP_CTRL_GCM_SET_TAG,
                                toInt(tag.size()), tag.data()) == 1,
            "cannot set the tag of AES-GCM");
    std::uint8_t none[16];
    int size = 0;
    if (EVP_CipherFinal_ex(context.get(), none, &size) != 1)
    {
        ERR_clear_error();
        throw Refused(where, "was changed, or belongs to another key");
    }
    return out;
}

Bytes cfbEncrypt(ByteView key, ByteView plain)
{
    const std::array<std::uint8_t, 16> zero{};
    if (key.size() != zero.size())
    {
        throw Error("an AES-128 key has 16 bytes");
    }
    CipherContext context = cipher(EVP_aes_128_cfb128(), true, key, zero);
    Bytes out(plain.size());
    update(context, out.data(), plain);
    return out;
}

Secret kdfA(ByteView key, std::string_view label, ByteView contextU,
            ByteView contextV, std::size_t size)
{
    ByteWriter head;
    head.be32(1); // the first block is enough for 32 bytes
    head.text(label);
    head.u8(0);
    ByteWriter bits;
    bits.be32(static_cast<std::uint32_t>(size * 8));
    Digest block =
        hmacSha256(key, {head.data(), contextU, contextV, bits.data()});
    WipeAtEnd wiped(block);
    return Secret(ByteView(block).first(size));
}

Secret kdfE(ByteView z, std::string_view label, ByteView partyU,
            ByteView partyV, std::size_t size)
{
    ByteWriter counter;
    counter.be32(1);
    ByteWriter use;
    use.text(label);
    use.u8(0);
    Digest block = sha256Of({counter.data(), z, use.data(), partyU, partyV});
    WipeAtEnd wiped(block);
    return Secret(ByteView(block).first(size));
}

Key publicKeyFromPem(std::string_view pem, std::string_view where)
{
    MemoryBio bio = bioOf(pem);
    return requireUsable(
        Key(PEM_read_bio_PUBKEY(bio.get(), nullptr, noPassphrase, nullptr)),
        where);
}

Key privateKeyFromPem(std::string_view pem, std::string_view where)
{
    MemoryBio bio = bioOf(pem);
    return requireUsable(
        Key(PEM_read_bio_PrivateKey(bio.get(), nullptr, noPassphrase, nullptr)),
        where);
}

Key makeKey()
{
    Key key(EVP_EC_gen("P-256"));
    require(key != nullptr, "cannot make a key");
    return key;
}

std::string privateKeyPem(const Key& key)
{
    MemoryBio bio(BIO_new(BIO_s_secmem()));
    require(bio && PEM_write_bio_PrivateKey(bio.get(), key.get(), nullptr,
                                            nullptr, 0, nullptr, nullptr) == 1,
            "cannot write a key");
    return textOf(bio.get());
}

std::string publicKeyPem(const Key& key)
{
    MemoryBio bio(BIO_new(BIO_s_mem()));
    require(bio && PEM_write_bio_PUBKEY(bio.get(), key.get()) == 1,
            "cannot write a key");
    return textOf(bio.get());
}

Bytes signDigest(const Key& key, const Digest& digest)
{
    KeyContext context = contextOf(key);
    require(EVP_PKEY_sign_init(context.get()) == 1, "cannot sign");
    setScheme(context, key, false);
    std::size_t size = 0;
    require(EVP_PKEY_sign(context.get(), nullptr, &size, digest.data(),
                          digest.size()) == 1,
            "cannot sign");
    Bytes out(size);
    require(EVP_PKEY_sign(context.get(), out.data(), &size, digest.data(),
                          digest.size()) == 1,
            "cannot sign");
    out.resize(size);
    return out;
}

bool verifyDigest(const Key& key, const Digest& digest, ByteView signature,
                  bool pss)
{
    KeyContext context = contextOf(key);
    require(EVP_PKEY_verify_init(context.get()) == 1, "cannot verify");
    setScheme(context, key, pss);
    const int result =
        EVP_PKEY_verify(context.get(), signature.data(), signature.size(),
                        digest.data(), digest.size());
    ERR_clear_error();
    return result == 1;
}

} // namespace airlock::trust
