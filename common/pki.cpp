#include "common/pki.hpp"

#include "common/error.hpp"
#include "common/json.hpp"
#include "common/sha256.hpp"
#include "common/tls.hpp"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <memory>
#include <string_view>

namespace airlock::pki
{

namespace
{

constexpr std::size_t maxName = 64;
constexpr std::string_view hostCharacters =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-";

struct Free
{
    void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
    void operator()(X509* certificate) const { X509_free(certificate); }
    void operator()(X509_EXTENSION* extension) const
    {
        X509_EXTENSION_free(extension);
    }
    void operator()(BIO* bio) const { BIO_free(bio); }
    void operator()(BIGNUM* number) const { BN_free(number); }
};
using Key = std::unique_ptr<EVP_PKEY, Free>;
using Certificate = std::unique_ptr<X509, Free>;
using MemoryBio = std::unique_ptr<BIO, Free>;

void require(bool ok, const char* what)
{
    if (!ok)
    {
        throw Error(std::string("cannot make a certificate (") + what +
                    "): " + tls::lastErrors());
    }
}

void requireName(const std::string& name, const char* what)
{
    if (name.empty() || name.size() > maxName ||
        !std::all_of(name.begin(), name.end(),
                     [](char c) { return c > ' ' && c <= '~'; }))
    {
        throw Error(std::string("a certificate's ") + what + " has to be 1 to" +
                    " 64 characters of printable ASCII without blanks: " +
                    printable(name));
    }
}

std::string pem(BIO* bio)
{
    char* data = nullptr;
    long size = BIO_get_mem_data(bio, &data);
    return {data, static_cast<std::size_t>(size)};
}

Credential toPem(X509* certificate, EVP_PKEY* key)
{
    MemoryBio first(BIO_new(BIO_s_mem()));
    MemoryBio second(BIO_new(BIO_s_secmem()));
    require(first && second, "memory");
    require(PEM_write_bio_X509(first.get(), certificate) == 1, "PEM");
    require(PEM_write_bio_PrivateKey(second.get(), key, nullptr, nullptr, 0,
                                     nullptr, nullptr) == 1,
            "PEM of the key");
    return {pem(first.get()), pem(second.get())};
}

MemoryBio readBio(const std::string& text)
{
    MemoryBio bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
    require(bio != nullptr, "memory");
    return bio;
}

/** A version 3 certificate for this key with all but subject and extensions;
 * 126 random bits make a serial number that nobody else issues. */
Certificate start(EVP_PKEY* key, const Validity& validity)
{
    Certificate out(X509_new());
    require(out != nullptr, "memory");
    std::array<std::uint8_t, 16> random{};
    fillRandom(random);
    random[0] = static_cast<std::uint8_t>((random[0] & 0x3f) | 0x40);
    std::unique_ptr<BIGNUM, Free> serial(
        BN_bin2bn(random.data(), static_cast<int>(random.size()), nullptr));
    require(serial && BN_to_ASN1_INTEGER(serial.get(),
                                         X509_get_serialNumber(out.get())),
            "serial number");
    std::time_t now = std::time(nullptr);
    X509_set_version(out.get(), X509_VERSION_3);
    require(X509_time_adj_ex(X509_getm_notBefore(out.get()), 0,
                             static_cast<long>(validity.begin.count()), &now) &&
                X509_time_adj_ex(X509_getm_notAfter(out.get()), 0,
                                 static_cast<long>(validity.end.count()), &now),
            "time");
    require(X509_set_pubkey(out.get(), key) == 1, "key");
    return out;
}

void addName(X509* certificate, const char* field, const std::string& value)
{
    require(X509_NAME_add_entry_by_txt(
                X509_get_subject_name(certificate), field, MBSTRING_UTF8,
                reinterpret_cast<const unsigned char*>(value.data()),
                static_cast<int>(value.size()), -1, 0) == 1,
            "subject");
}

void addExtension(X509* certificate, X509* issuer, int nid,
                  const std::string& value)
{
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
    std::unique_ptr<X509_EXTENSION, Free> extension(
        X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
    require(extension && X509_add_ext(certificate, extension.get(), -1) == 1,
            "extension");
}

std::string alternativeNames(const std::vector<std::string>& hosts)
{
    std::string out;
    for (const std::string& host : hosts)
    {
        std::array<std::uint8_t, 16> address{};
        bool isAddress =
            ::inet_pton(AF_INET, host.c_str(), address.data()) == 1 ||
            ::inet_pton(AF_INET6, host.c_str(), address.data()) == 1;
        if (!isAddress &&
            (host.empty() || host.size() > 253 ||
             host.find_first_not_of(hostCharacters) != std::string::npos))
        {
            throw Error(printable(host) + " is neither a host name nor an IP "
                                          "address");
        }
        out += (out.empty() ? "" : ",") +
               std::string(isAddress ? "IP:" : "DNS:") + host;
    }
    return out;
}

/** Instead of asking at the terminal. */
int noPassphrase(char*, int, int, void*)
{
    return -1;
}

Key newKey()
{
    Key key(EVP_EC_gen("P-256"));
    require(key != nullptr, "key");
    return key;
}

} // namespace

Credential makeAuthority(const std::string& name, const Validity& validity)
{
    requireName(name, "name");
    Key key = newKey();
    Certificate certificate = start(key.get(), validity);
    X509* it = certificate.get();
    addName(it, "CN", name);
    require(X509_set_issuer_name(it, X509_get_subject_name(it)) == 1, "issuer");
    addExtension(it, it, NID_basic_constraints, "critical,CA:TRUE,pathlen:0");
    addExtension(it, it, NID_key_usage, "critical,keyCertSign,cRLSign");
    addExtension(it, it, NID_subject_key_identifier, "hash");
    require(X509_sign(it, key.get(), EVP_sha256()) > 0, "signature");
    return toPem(it, key.get());
}

Credential issue(const Credential& authority, const Subject& subject,
                 const Validity& validity)
{
    requireName(subject.name, "common name");
    requireName(subject.role, "role");
    MemoryBio certificateText = readBio(authority.certificate);
    MemoryBio keyText = readBio(authority.key);
    ERR_clear_error();
    Certificate issuer(
        PEM_read_bio_X509(certificateText.get(), nullptr, nullptr, nullptr));
    require(issuer != nullptr, "the authority's certificate");
    Key issuerKey(
        PEM_read_bio_PrivateKey(keyText.get(), nullptr, noPassphrase, nullptr));
    require(issuerKey != nullptr &&
                X509_check_private_key(issuer.get(), issuerKey.get()) == 1,
            "the authority's key");

    Key key = newKey();
    Certificate certificate = start(key.get(), validity);
    X509* it = certificate.get();
    addName(it, "OU", subject.role);
    addName(it, "CN", subject.name);
    require(X509_set_issuer_name(it, X509_get_subject_name(issuer.get())) == 1,
            "issuer");
    addExtension(it, issuer.get(), NID_basic_constraints, "critical,CA:FALSE");
    addExtension(it, issuer.get(), NID_key_usage, "critical,digitalSignature");
    addExtension(it, issuer.get(), NID_ext_key_usage, "serverAuth,clientAuth");
    addExtension(it, issuer.get(), NID_subject_key_identifier, "hash");
    addExtension(it, issuer.get(), NID_authority_key_identifier, "keyid");
    if (!subject.hosts.empty())
    {
        addExtension(it, issuer.get(), NID_subject_alt_name,
                     alternativeNames(subject.hosts));
    }
    require(X509_sign(it, issuerKey.get(), EVP_sha256()) > 0, "signature");
    return toPem(it, key.get());
}

} // namespace airlock::pki
