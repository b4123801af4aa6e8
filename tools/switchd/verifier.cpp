#include "tools/switchd/verifier.hpp"

#include "tools/switchd/quote_verifier.hpp"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

namespace airlock::sw
{

namespace
{

struct FreeBio
{
    void operator()(BIO* bio) const { BIO_free(bio); }
};
struct FreeKey
{
    void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
struct FreeContext
{
    void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

} // namespace

struct SignatureVerifier::Key
{
    std::unique_ptr<EVP_PKEY, FreeKey> key;
};

SignatureVerifier::SignatureVerifier(const std::string& pem)
    : key_(std::make_unique<Key>())
{
    std::unique_ptr<BIO, FreeBio> bio(
        BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
    key_->key.reset(PEM_read_bio_PUBKEY(bio.get(), nullptr, nullptr, nullptr));
    ERR_clear_error();
    if (!key_->key || EVP_PKEY_get_id(key_->key.get()) != EVP_PKEY_ED25519)
    {
        throw Refused("key", "is no public Ed25519 key in PEM");
    }
}

SignatureVerifier::~SignatureVerifier() = default;

Evidence SignatureVerifier::verify(const Claim& claim, ByteView proof) const
{
    std::unique_ptr<EVP_MD_CTX, FreeContext> context(EVP_MD_CTX_new());
    Digest digest = claim.digest();
    bool good = context &&
                EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr,
                                     key_->key.get()) == 1 &&
                EVP_DigestVerify(context.get(), proof.data(), proof.size(),
                                 digest.data(), digest.size()) == 1;
    ERR_clear_error();
    if (!good)
    {
        throw Refused("proof", "its signature does not match");
    }
    return {};
}

std::unique_ptr<ProofVerifier> makeVerifier(const std::string& enrolled)
{
    if (enrolled.starts_with('{'))
    {
        return std::make_unique<QuoteVerifier>(
            trust::QuoteReference::parse(enrolled));
    }
    return std::make_unique<SignatureVerifier>(enrolled);
}

bool sameProver(const std::string& one, const std::string& other)
{
    if (one == other)
    {
        return true;
    }
    if (!one.starts_with('{') || !other.starts_with('{'))
    {
        return false;
    }
    return trust::QuoteReference::parse(one).key.publicArea() ==
           trust::QuoteReference::parse(other).key.publicArea();
}

} // namespace airlock::sw
