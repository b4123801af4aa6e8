#include "common/sha256.hpp"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include <algorithm>

namespace airlock
{

namespace
{

void require(int result, const char* what)
{
    if (result != 1)
    {
        throw Error(std::string("OpenSSL: ") + what +
                    " failed; is the default provider installed?");
    }
}

const EVP_MD* algorithm()
{
    // Fetched once: an implicit fetch per digest costs more than hashing a
    // page does.
    static const EVP_MD* const md = EVP_MD_fetch(nullptr, "SHA256", nullptr);
    if (md == nullptr)
    {
        throw Error("OpenSSL: SHA-256 is not available; "
                    "is the default provider installed?");
    }
    return md;
}

int hexDigit(char c)
{
    if (c >= '0' && c <= '9')
    {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f')
    {
        return c - 'a' + 10;
    }
    if (c >= 'A' && c <= 'F')
    {
        return c - 'A' + 10;
    }
    return -1;
}

/** False when the text is not that many bytes in hexadecimal. */
bool decode(std::string_view text, std::span<std::uint8_t> out)
{
    if (text.size() != 2 * out.size())
    {
        return false;
    }
    for (std::size_t i = 0; i < out.size(); i++)
    {
        const int high = hexDigit(text[2 * i]);
        const int low = hexDigit(text[2 * i + 1]);
        if (high < 0 || low < 0)
        {
            return false;
        }
        out[i] = static_cast<std::uint8_t>(high * 16 + low);
    }
    return true;
}

} // namespace

void Sha256::Free::operator()(evp_md_ctx_st* context) const
{
    EVP_MD_CTX_free(context);
}

Sha256::Sha256() : context_(EVP_MD_CTX_new())
{
    require(context_ ? 1 : 0, "EVP_MD_CTX_new");
    require(EVP_DigestInit_ex2(context_.get(), algorithm(), nullptr),
            "EVP_DigestInit_ex2");
}

Sha256::~Sha256() = default;

void Sha256::update(ByteView data)
{
    require(EVP_DigestUpdate(context_.get(), data.data(), data.size()),
            "EVP_DigestUpdate");
}

void Sha256::updateBe64(std::uint64_t value)
{
    ByteWriter writer;
    writer.be64(value);
    update(writer.data());
}

Digest Sha256::finish()
{
    Digest out{};
    unsigned int size = 0;
    require(EVP_DigestFinal_ex(context_.get(), out.data(), &size),
            "EVP_DigestFinal_ex");
    require(EVP_DigestInit_ex2(context_.get(), nullptr, nullptr),
            "EVP_DigestInit_ex2");
    return out;
}

Digest sha256(ByteView data)
{
    Sha256 hash;
    hash.update(data);
    return hash.finish();
}

bool equalConstantTime(ByteView a, ByteView b)
{
    return a.size() == b.size() &&
           CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

void fillRandom(std::span<std::uint8_t> out)
{
    require(RAND_bytes_ex(nullptr, out.data(), out.size(), 0), "RAND_bytes_ex");
}

std::string toHex(ByteView data)
{
    constexpr std::string_view digits = "0123456789abcdef";
    std::string out;
    out.reserve(data.size() * 2);
    for (std::uint8_t byte : data)
    {
        out += digits[byte >> 4];
        out += digits[byte & 0xf];
    }
    return out;
}

std::optional<Bytes> fromHex(std::string_view text)
{
    std::optional<Bytes> out(std::in_place, text.size() / 2);
    if (!decode(text, *out))
    {
        out.reset();
    }
    return out;
}

std::optional<Digest> digestFromHex(std::string_view text)
{
    // In place: it may be a secret, of which nothing else keeps a copy.
    std::optional<Digest> out(std::in_place);
    if (!decode(text, *out))
    {
        out.reset();
    }
    return out;
}

} // namespace airlock
