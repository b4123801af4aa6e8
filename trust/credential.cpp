#include "trust/credential.hpp"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

namespace airlock::trust
{

namespace
{

constexpr std::size_t maxIdObject = 256;
constexpr std::size_t maxEncryptedSecret = 512;
constexpr std::string_view identity = "IDENTITY";

struct Free
{
    void operator()(EVP_PKEY_CTX* context) const { EVP_PKEY_CTX_free(context); }
    void operator()(BIO* bio) const { BIO_free(bio); }
    void operator()(EXTENDED_KEY_USAGE* uses) const
    {
        EXTENDED_KEY_USAGE_free(uses);
    }
    void operator()(ASN1_OBJECT* object) const { ASN1_OBJECT_free(object); }
    void operator()(X509* certificate) const { X509_free(certificate); }
    void operator()(X509_STORE* store) const { X509_STORE_free(store); }
    void operator()(X509_STORE_CTX* context) const
    {
        X509_STORE_CTX_free(context);
    }
};
using KeyContext = std::unique_ptr<EVP_PKEY_CTX, Free>;

void require(bool ok, const char* what)
{
    if (!ok)
    {
        throwCrypto(what);
    }
}

/** The seed of a credential, and what the EK needs to work it out. */
struct Seed
{
    Secret value;
    Bytes encrypted;
};

Bytes padded(const Bytes& number)
{
    Bytes out(32);
    std::copy_backward(number.begin(), number.end(), out.end());
    return out;
}

Secret sharedPoint(const Key& own, const Key& peer)
{
    KeyContext context(EVP_PKEY_CTX_new(own.get(), nullptr));
    Secret out(32);
    std::size_t size = out.size();
    require(context && EVP_PKEY_derive_init(context.get()) == 1 &&
                EVP_PKEY_derive_set_peer(context.get(), peer.get()) == 1 &&
                EVP_PKEY_derive(context.get(), out.bytes().data(), &size) ==
                    1 &&
                size == out.size(),
            "cannot agree on a point");
    return out;
}

/** An ephemeral key on the EK's curve; the seed is derived from the shared
 * point (part 1, C.6.4). */
Seed eccSeed(const wire::Public& endorsement)
{
    const Key peer = endorsement.key("endorsement key");
    const Key own = makeKey();
    std::uint8_t point[65];
    std::size_t size = 0;
    require(EVP_PKEY_get_octet_string_param(own.get(), "encoded-pub-key", point,
                                            sizeof point, &size) == 1 &&
                size == sizeof point && point[0] == 4,
            "cannot read a key");
    const ByteView x(point + 1, 32);
    const ByteView y(point + 33, 32);
    const Secret z = sharedPoint(own, peer);
    ByteWriter encrypted; // TPMS_ECC_POINT
    wire::writeSized(encrypted, x);
    wire::writeSized(encrypted, y);
    return {kdfE(z.view(), identity, x, padded(endorsement.x), 32),
            encrypted.release()};
}

/** A random seed under OAEP; its label ends in a zero byte (part 1, B.4). */
Seed rsaSeed(const wire::Public& endorsement)
{
    const Key key = endorsement.key("endorsement key");
    Seed out{Secret::random(32), {}};
    KeyContext context(EVP_PKEY_CTX_new(key.get(), nullptr));
    require(context && EVP_PKEY_encrypt_init(context.get()) == 1 &&
                EVP_PKEY_CTX_set_rsa_padding(context.get(),
                                             RSA_PKCS1_OAEP_PADDING) == 1 &&
                EVP_PKEY_CTX_set_rsa_oaep_md(context.get(), EVP_sha256()) ==
                    1 &&
                EVP_PKEY_CTX_set_rsa_mgf1_md(context.get(), EVP_sha256()) == 1,
            "cannot set OAEP up");
    const std::size_t labelSize = identity.size() + 1;
    void* label = OPENSSL_memdup(identity.data(), labelSize);
    // On success the context owns the label.
    if (label == nullptr ||
        EVP_PKEY_CTX_set0_rsa_oaep_label(context.get(), label,
                                         static_cast<int>(labelSize)) != 1)
    {
        OPENSSL_free(label);
        throwCrypto("cannot set the label of OAEP");
    }
    std::size_t size = endorsement.modulus.size();
    out.encrypted.resize(size);
    require(EVP_PKEY_encrypt(context.get(), out.encrypted.data(), &size,
                             out.value.view().data(), out.value.size()) == 1,
            "cannot encrypt to the endorsement key");
    out.encrypted.resize(size);
    return out;
}

std::unique_ptr<X509_STORE, Free> storeOf(std::string_view authorities)
{
    std::unique_ptr<X509_STORE, Free> store(X509_STORE_new());
    std::unique_ptr<BIO, Free> bio(BIO_new_mem_buf(
        authorities.data(), static_cast<int>(authorities.size())));
    require(store && bio, "memory");
    unsigned count = 0;
    for (;; ++count)
    {
        std::unique_ptr<X509, Free> authority(
            PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
        if (!authority)
        {
            break;
        }
        require(X509_STORE_add_cert(store.get(), authority.get()) == 1,
                "cannot add an authority");
    }
    ERR_clear_error();
    if (count == 0)
    {
        throw Error("there is no certificate among the authorities for "
                    "endorsement keys");
    }
    // An intermediate that the site lists is as good as a root.
    X509_STORE_set_flags(store.get(), X509_V_FLAG_PARTIAL_CHAIN);
    return store;
}

/** An authority may issue more than endorsement certificates. Old ones do not
 * say what they are for. */
void requireEndorsementUse(const X509& certificate)
{
    constexpr const char* endorsementUse = "2.23.133.8.1";
    constexpr std::string_view where = "endorsement certificate";
    int found = 0;
    std::unique_ptr<EXTENDED_KEY_USAGE, Free> uses(
        static_cast<EXTENDED_KEY_USAGE*>(X509_get_ext_d2i(
            &certificate, NID_ext_key_usage, &found, nullptr)));
    constexpr int notThere = -1;
    if (!uses && found == notThere)
    {
        return;
    }
    std::unique_ptr<ASN1_OBJECT, Free> wanted(OBJ_txt2obj(endorsementUse, 1));
    require(wanted != nullptr, "memory");
    for (int i = 0; uses && i < sk_ASN1_OBJECT_num(uses.get()); ++i)
    {
        if (OBJ_cmp(sk_ASN1_OBJECT_value(uses.get(), i), wanted.get()) == 0)
        {
            return;
        }
    }
    ERR_clear_error();
    throw Refused(where, "is for another use");
}

} // namespace

Bytes Credential::marshal() const
{
    ByteWriter out;
    wire::writeSized(out, idObject);
    wire::writeSized(out, encryptedSecret);
    return out.release();
}

Credential Credential::parse(ByteView data, std::string_view where)
{
    ByteReader in(data, where);
    Credential out;
    ByteView idObject = wire::readSized(in, maxIdObject, "identity object");
    ByteView secret =
        wire::readSized(in, maxEncryptedSecret, "encrypted secret");
    wire::requireEnd(in);
    if (idObject.empty() || secret.empty())
    {
        throw Refused(where, "a part of the credential is empty");
    }
    out.idObject.assign(idObject.begin(), idObject.end());
    out.encryptedSecret.assign(secret.begin(), secret.end());
    return out;
}

wire::Public parentKey(ByteView publicArea, std::string_view where)
{
    wire::Public out = wire::Public::parse(publicArea, where);
    constexpr std::uint32_t needed = wire::fixedTpm | wire::fixedParent |
                                     wire::sensitiveDataOrigin |
                                     wire::restricted | wire::decrypt;
    if ((out.attributes & needed) != needed ||
        (out.attributes & wire::sign) != 0 || out.symmetric != wire::algAes ||
        out.scheme != wire::algNull)
    {
        throw Refused(where, "is no key that stays in its TPM and only "
                             "decrypts: " +
                                 wire::attributesText(out.attributes));
    }
    return out;
}

wire::Public endorsementKey(ByteView publicArea, std::string_view where)
{
    wire::Public out = parentKey(publicArea, where);
    constexpr std::uint32_t exact =
        wire::fixedTpm | wire::fixedParent | wire::sensitiveDataOrigin |
        wire::adminWithPolicy | wire::restricted | wire::decrypt;
    constexpr std::size_t coordinate = 32;
    constexpr std::uint16_t rsaBits = 2048;
    const bool fits =
        out.type == wire::algEcc
            ? out.x.size() == coordinate && out.y.size() == coordinate
            : out.keyBits == rsaBits && out.exponent == 0;
    // Any other area would be another identity of the same key.
    if (!fits || out.attributes != exact ||
        out.authPolicy !=
            Bytes(endorsementPolicy.begin(), endorsementPolicy.end()))
    {
        throw Refused(where, "is not as the TCG's template L-1 or L-2 has it");
    }
    return out;
}

Credential makeCredential(const wire::Public& endorsement, ByteView name,
                          const Secret& secret)
{
    if (secret.empty() || secret.size() > 32)
    {
        throw Error("the secret of a credential has 1 to 32 bytes");
    }
    const Seed seed = endorsement.type == wire::algEcc ? eccSeed(endorsement)
                                                       : rsaSeed(endorsement);
    const Secret encryption = kdfA(seed.value.view(), "STORAGE", name, {}, 16);
    const Secret integrity = kdfA(seed.value.view(), "INTEGRITY", {}, {}, 32);
    Secret plain(2 + secret.size()); // a TPM2B_DIGEST
    plain.bytes()[1] = static_cast<std::uint8_t>(secret.size());
    std::copy(secret.view().begin(), secret.view().end(),
              plain.bytes().begin() + 2);
    const Bytes encrypted = cfbEncrypt(encryption.view(), plain.view());
    ByteWriter idObject;
    wire::writeSized(idObject, hmacSha256(integrity.view(), {encrypted, name}));
    idObject.bytes(encrypted);
    return {idObject.release(), seed.encrypted};
}

void verifyEndorsementCertificate(ByteView der, const wire::Public& endorsement,
                                  std::string_view authorities)
{
    constexpr std::string_view where = "endorsement certificate";
    const unsigned char* at = der.data();
    std::unique_ptr<X509, Free> certificate(
        d2i_X509(nullptr, &at, static_cast<long>(der.size())));
    if (!certificate)
    {
        ERR_clear_error();
        throw Refused(where, "is no X.509 certificate");
    }
    std::unique_ptr<X509_STORE, Free> store = storeOf(authorities);
    std::unique_ptr<X509_STORE_CTX, Free> context(X509_STORE_CTX_new());
    require(context && X509_STORE_CTX_init(context.get(), store.get(),
                                           certificate.get(), nullptr) == 1,
            "cannot check a certificate");
    if (X509_verify_cert(context.get()) != 1)
    {
        const int reason = X509_STORE_CTX_get_error(context.get());
        ERR_clear_error();
        throw Refused(where, std::string("is not of a known authority: ") +
                                 X509_verify_cert_error_string(reason));
    }
    requireEndorsementUse(*certificate);
    const Key key = endorsement.key("endorsement key");
    EVP_PKEY* certified = X509_get0_pubkey(certificate.get());
    if (certified == nullptr || EVP_PKEY_eq(certified, key.get()) != 1)
    {
        ERR_clear_error();
        throw Refused(where, "is for another key");
    }
}

} // namespace airlock::trust
