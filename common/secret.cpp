#include "common/secret.hpp"

#include "common/sha256.hpp"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include <algorithm>
#include <memory>

namespace airlock
{

void wipe(std::span<std::uint8_t> memory)
{
    OPENSSL_cleanse(memory.data(), memory.size());
}

void wipe(std::string& text)
{
    wipe({reinterpret_cast<std::uint8_t*>(text.data()), text.size()});
    text.clear();
}

void WipedJson::wipeTexts(Json& json)
{
    if (json.is_string())
    {
        wipe(json.get_ref<std::string&>());
    }
    else if (json.is_structured())
    {
        for (Json& part : json)
        {
            wipeTexts(part);
        }
    }
}

Secret::Secret(std::size_t size)
    : data_(std::make_unique<std::uint8_t[]>(size)), size_(size)
{}

Secret::Secret(ByteView from) : Secret(from.size())
{
    std::copy(from.begin(), from.end(), data_.get());
}

Secret::Secret(Secret&& other) noexcept
    : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0))
{}

Secret& Secret::operator=(Secret&& other) noexcept
{
    if (this != &other)
    {
        wipeNow();
        data_ = std::move(other.data_);
        size_ = std::exchange(other.size_, 0);
    }
    return *this;
}

Secret Secret::random(std::size_t size)
{
    Secret out(size);
    fillRandom(out.bytes());
    return out;
}

Secret Secret::key(ByteView from, std::string_view where)
{
    if (from.size() != keySize)
    {
        throw Refused(where,
                      "is not " + std::to_string(keySize) + " bytes long");
    }
    return Secret(from);
}

Secret Secret::key(const JsonField& field)
{
    const WipedText text(field.string(2 * keySize));
    auto digits = digestFromHex(text.text);
    if (!digits)
    {
        field.refuse("is not 64 hexadecimal digits");
    }
    const WipeAtEnd wiped(*digits);
    return Secret(*digits);
}

Secret Secret::join(std::initializer_list<const Secret*> parts,
                    std::size_t partSize)
{
    Secret out(parts.size() * partSize);
    auto at = out.bytes().begin();
    for (const Secret* part : parts)
    {
        if (part->size() != partSize)
        {
            throw Error("a secret to be joined is not " +
                        std::to_string(partSize) + " bytes long");
        }
        at = std::copy(part->view().begin(), part->view().end(), at);
    }
    return out;
}

bool Secret::equals(ByteView other) const
{
    return equalConstantTime(view(), other);
}

void Secret::wipeNow() noexcept
{
    wipe(bytes());
    data_.reset();
    size_ = 0;
}

namespace
{

OSSL_PARAM octets(const char* name, ByteView data)
{
    // The library reads it only.
    return OSSL_PARAM_construct_octet_string(
        name, const_cast<std::uint8_t*>(data.data()), data.size());
}

} // namespace

void hkdf(const Secret& key, ByteView info, std::span<std::uint8_t> out)
{
    constexpr std::size_t least = 16;
    if (key.size() < least)
    {
        throw Error("a key is too short to derive another one from it");
    }
    static const std::unique_ptr<EVP_KDF, decltype(&EVP_KDF_free)> algorithm(
        EVP_KDF_fetch(nullptr, "HKDF", nullptr), EVP_KDF_free);
    std::unique_ptr<EVP_KDF_CTX, decltype(&EVP_KDF_CTX_free)> context(
        EVP_KDF_CTX_new(algorithm.get()), EVP_KDF_CTX_free);
    char digest[] = "SHA256";
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        octets(OSSL_KDF_PARAM_KEY, key.view()),
        octets(OSSL_KDF_PARAM_INFO, info),
        OSSL_PARAM_construct_end(),
    };
    if (!context ||
        EVP_KDF_derive(context.get(), out.data(), out.size(), parameters) != 1)
    {
        throw Error("OpenSSL cannot derive a key");
    }
}

} // namespace airlock
