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

Secret Secret::random()
{
    Secret out;
    fillRandom(out.bytes_);
    return out;
}

Secret Secret::from(ByteView data, std::string_view where)
{
    if (data.size() != size)
    {
        throw Refused(where, "is not " + std::to_string(size) + " bytes long");
    }
    Secret out;
    std::copy(data.begin(), data.end(), out.bytes_.begin());
    return out;
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

void hkdf(ByteView key, ByteView info, std::span<std::uint8_t> out)
{
    static const std::unique_ptr<EVP_KDF, decltype(&EVP_KDF_free)> algorithm(
        EVP_KDF_fetch(nullptr, "HKDF", nullptr), EVP_KDF_free);
    std::unique_ptr<EVP_KDF_CTX, decltype(&EVP_KDF_CTX_free)> context(
        EVP_KDF_CTX_new(algorithm.get()), EVP_KDF_CTX_free);
    char digest[] = "SHA256";
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        octets(OSSL_KDF_PARAM_KEY, key),
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
