#include "error_of.hpp"
#include "quote_forger.hpp"
#include "trust/machine.hpp"
#include "trust/policy.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <functional>
#include <memory>

namespace airlock::trust
{
namespace
{

using test::errorOf;
using test::Forger;
using test::goodAttributes;
using test::publicAreaOf;
using testing::HasSubstr;

class ForgedQuoteTest : public testing::Test
{
  protected:
    /** What the verifier, who wants the forger's own good quote, says. */
    std::string verdict(const Quote& quote)
    {
        const AttestationKey key = AttestationKey::parse(
            publicAreaOf(forger.key, goodAttributes), "attestation key");
        return errorOf([&] { verifyQuote(key, quote, expected); });
    }
    std::string verdict() { return verdict(forger.quote()); }

    Forger forger;
    QuoteExpectation expected{[] {
                                  Digest out{};
                                  out.fill(7);
                                  return out;
                              }(),
                              forger.pcrs, std::nullopt, false, true};
};

TEST_F(ForgedQuoteTest, GoodOneHolds)
{
    EXPECT_EQ(verdict(), "");
}

TEST_F(ForgedQuoteTest, MagicIsChecked) // CVE-2024-29038, CVE-2024-29040
{
    forger.magic = 0x12345678;
    EXPECT_THAT(verdict(), HasSubstr("no TPM made this"));
}

TEST_F(ForgedQuoteTest, TypeIsChecked)
{
    for (std::uint16_t type :
         std::vector<std::uint16_t>{0x8017, 0x8019, 0x801a, 0x8014})
    {
        forger.type = type;
        EXPECT_THAT(verdict(), HasSubstr("quote: type is"));
    }
}

TEST_F(ForgedQuoteTest, NonceIsChecked) // tpm2-tss issue 2255
{
    for (const Bytes& wrong :
         {Bytes(), Bytes(31, 7), Bytes(33, 7), Bytes(32, 8)})
    {
        forger.extraData = wrong;
        EXPECT_THAT(verdict(), HasSubstr("not for this nonce"));
    }
}

TEST_F(ForgedQuoteTest, SelectionIsChecked) // CVE-2024-29039
{
    for (const PcrSelection& wrong :
         {PcrSelection{}, PcrSelection{4}, PcrSelection{0, 4, 16}})
    {
        forger.selection = wrong.marshal();
        EXPECT_THAT(verdict(), HasSubstr("was asked for"));
    }
}

TEST_F(ForgedQuoteTest, OneBankOfSha256Only)
{
    ByteWriter none;
    none.be32(0);
    forger.selection = none.release();
    EXPECT_THAT(verdict(), HasSubstr("0 PCR banks"));
    ByteWriter two;
    two.be32(2);
    for (int i = 0; i < 2; ++i)
    {
        two.bytes(ByteView(PcrSelection{0, 4}.marshal()).subspan(4));
    }
    forger.selection = two.release();
    EXPECT_THAT(verdict(), HasSubstr("2 PCR banks"));
    forger.selection = PcrSelection{0, 4}.marshal();
    forger.selection[5] = 0x04; // SHA-1
    EXPECT_THAT(verdict(), HasSubstr("PCR bank is 0x0004"));
    ByteWriter wide;
    wide.be32(1);
    wide.be16(wire::algSha256);
    wide.u8(4);
    wide.bytes(Bytes{0x11, 0, 0, 1}); // PCR 24
    forger.selection = wide.release();
    EXPECT_THAT(verdict(), HasSubstr("24 is no PCR"));
}

TEST_F(ForgedQuoteTest, DigestIsChecked)
{
    forger.digest = Bytes(32, 1);
    EXPECT_THAT(verdict(), HasSubstr("digest is not of the values"));
    forger.digest = Bytes(20, 1);
    EXPECT_THAT(verdict(), HasSubstr("none of SHA-256"));
    forger.digest.clear();
    forger.pcrs[4] = Digest{};
    EXPECT_THAT(verdict(), HasSubstr("PCR 4: have 0000"));
}

TEST_F(ForgedQuoteTest, NothingIsLeftOver)
{
    forger.tail = Bytes(1);
    EXPECT_THAT(verdict(), HasSubstr("1 bytes are left over"));
    forger.tail.clear();
    Quote quote = forger.quote();
    quote.signature.push_back(0);
    EXPECT_THAT(verdict(quote), HasSubstr("left over"));
}

TEST_F(ForgedQuoteTest, EveryCutIsRefused)
{
    const Quote good = forger.quote();
    for (std::size_t size = 0; size < good.attest.size(); ++size)
    {
        Quote cut = good;
        cut.attest.resize(size);
        cut.signature = Forger::signatureOf(forger.key, cut.attest);
        EXPECT_NE(verdict(cut), "") << size;
    }
    for (std::size_t size = 0; size < good.signature.size(); ++size)
    {
        Quote cut = good;
        cut.signature.resize(size);
        EXPECT_NE(verdict(cut), "") << size;
    }
}

TEST_F(ForgedQuoteTest, EveryChangedBitIsRefused)
{
    const Quote good = forger.quote();
    for (std::size_t bit = 0; bit < good.attest.size() * 8; ++bit)
    {
        Quote changed = good;
        changed.attest[bit / 8] ^= static_cast<std::uint8_t>(1U << bit % 8);
        EXPECT_THAT(verdict(changed), HasSubstr("quote signature")) << bit;
    }
}

TEST_F(ForgedQuoteTest, SignatureIsOfTheEnrolledKeyAndItsAlgorithm)
{
    Quote quote = forger.quote();
    quote.signature = Forger::signatureOf(makeKey(), quote.attest);
    EXPECT_THAT(verdict(quote), HasSubstr("not of the enrolled key"));
    quote = forger.quote();
    quote.signature[3] = 0x04; // SHA-1
    EXPECT_THAT(verdict(quote), HasSubstr("hash is 0x0004"));
    quote.signature[3] = 0x0b;
    quote.signature[1] = 0x14; // RSASSA
    EXPECT_NE(verdict(quote), "");
    ByteWriter rsa;
    rsa.be16(wire::algRsaSsa);
    rsa.be16(wire::algSha256);
    wire::writeSized(rsa, Bytes(256, 1));
    quote.signature = rsa.release();
    EXPECT_THAT(verdict(quote), HasSubstr("the enrolled key has"));
    ByteWriter hmac;
    hmac.be16(0x0005);
    hmac.be16(wire::algSha256);
    hmac.bytes(Bytes(32));
    quote.signature = hmac.release();
    EXPECT_THAT(verdict(quote), HasSubstr("algorithm 0x0005"));
}

TEST_F(ForgedQuoteTest, ClockDoesNotRunBack)
{
    struct Case
    {
        wire::ClockInfo before;
        bool sameBoot;
        const char* says;
    };
    for (const Case& it : std::vector<Case>{
             {{1000, 3, 1, true}, true, ""},
             {{900, 2, 9, true}, false, ""},
             {{5000, 2, 1, true}, false, ""}, // killed, started anew
             {{1001, 3, 1, true}, false, "1000 ms after 1001"},
             {{1, 4, 0, true}, false, "reset count 3 after 4"},
             {{1, 3, 2, true}, false, "restart count 1 after 2"},
             {{900, 2, 1, true}, true, "was reset or restarted"},
             {{900, 3, 0, true}, true, "was reset or restarted"}})
    {
        expected.previous = it.before;
        expected.sameBoot = it.sameBoot;
        const std::string says = verdict();
        EXPECT_THAT(says, HasSubstr(it.says));
        EXPECT_EQ(says.empty(), std::string_view(it.says).empty()) << says;
    }
    expected.previous.reset();
    forger.safe = 0;
    EXPECT_THAT(verdict(), HasSubstr("is not safe"));
    forger.safe = 2;
    EXPECT_THAT(verdict(), HasSubstr("neither yes nor no"));
}

TEST_F(ForgedQuoteTest, ExpectingNothingIsAnError)
{
    const AttestationKey key = AttestationKey::parse(
        publicAreaOf(forger.key, goodAttributes), "attestation key");
    expected.pcrs.clear();
    EXPECT_THROW(verifyQuote(key, forger.quote(), expected), Error);
}

TEST(AttestationKeyTest, EachAttributeCounts)
{
    const Key key = makeKey();
    auto verdict = [&](std::uint32_t attributes) {
        return errorOf([&] {
            AttestationKey::parse(publicAreaOf(key, attributes), "key");
        });
    };
    EXPECT_EQ(verdict(goodAttributes), "");
    for (auto [bit, name] : std::vector<std::pair<std::uint32_t, const char*>>{
             {wire::restricted, "is not restricted"},
             {wire::sign, "is not sign"},
             {wire::fixedTpm, "is not fixedtpm"},
             {wire::fixedParent, "is not fixedparent"},
             {wire::sensitiveDataOrigin, "is not sensitivedataorigin"}})
    {
        EXPECT_THAT(verdict(goodAttributes & ~bit), HasSubstr(name));
    }
    EXPECT_THAT(verdict(goodAttributes | wire::decrypt),
                HasSubstr("also decrypts"));
}

TEST(AttestationKeyTest, NameFollowsFromThePublicArea)
{
    const Key key = makeKey();
    const Bytes area = publicAreaOf(key, goodAttributes);
    ByteWriter name;
    name.be16(wire::algSha256);
    name.bytes(sha256(area));
    EXPECT_EQ(AttestationKey::parse(area, "key").name(), name.data());
}

TEST(AttestationKeyTest, BadKeysAreRefused)
{
    const Key key = makeKey();
    const Bytes good = publicAreaOf(key, goodAttributes);
    wire::Public area = wire::Public::parse(good, "key");
    area.scheme = wire::algNull;
    EXPECT_THAT(errorOf([&] { AttestationKey::parse(area.marshal(), "key"); }),
                HasSubstr("no fixed scheme"));
    area = wire::Public::parse(good, "key");
    area.y[31] ^= 1; // off the curve
    EXPECT_THAT(errorOf([&] { AttestationKey::parse(area.marshal(), "key"); }),
                HasSubstr("public key"));
    area = wire::Public::parse(good, "key");
    area.scheme = wire::algRsaSsa;
    EXPECT_THAT(errorOf([&] { AttestationKey::parse(area.marshal(), "key"); }),
                HasSubstr("do not belong together"));
    Bytes longer = good;
    longer.push_back(0);
    EXPECT_THAT(errorOf([&] { AttestationKey::parse(longer, "key"); }),
                HasSubstr("left over"));
    for (std::size_t size = 0; size < good.size(); ++size)
    {
        EXPECT_NE(errorOf([&] {
                      AttestationKey::parse(ByteView(good).first(size), "key");
                  }),
                  "")
            << size;
    }
}

TEST(QualifyingDataTest, EveryPartCounts)
{
    const QuoteContext base{"boot-host", Bytes(32, 1), Bytes(32, 2), "a"};
    std::set<Digest> seen{qualifyingData(base)};
    for (const std::function<void(QuoteContext&)>& change :
         std::vector<std::function<void(QuoteContext&)>>{
             [](QuoteContext& c) { c.role = "boot-hos"; },
             [](QuoteContext& c) { c.nonce.resize(31); },
             [](QuoteContext& c) { c.channel.resize(31); },
             [](QuoteContext& c) { c.about.clear(); },
             // The same bytes, divided otherwise.
             [](QuoteContext& c) {
                 c.nonce.push_back(2);
                 c.channel.pop_back();
             },
             [](QuoteContext& c) {
                 c.about = "";
                 c.channel.push_back('a');
             }})
    {
        QuoteContext other = base;
        change(other);
        EXPECT_TRUE(seen.insert(qualifyingData(other)).second);
    }
    EXPECT_THROW(qualifyingData({"r", Bytes(15), {}, ""}), Refused);
    EXPECT_THROW(qualifyingData({"r", Bytes(65), {}, ""}), Refused);
    EXPECT_THROW(qualifyingData({"", Bytes(32), {}, ""}), Refused);
}

class NonceBookTest : public testing::Test
{
  protected:
    NonceBook::Clock::time_point now{};
    NonceBook book{std::chrono::seconds(10), 3, [this] { return now; }};
};

TEST_F(NonceBookTest, EachIsGoodOnceAndNotForLong)
{
    const Bytes first = book.issue();
    const Bytes second = book.issue();
    EXPECT_EQ(first.size(), 32U);
    EXPECT_NE(first, second);
    book.take(first);
    EXPECT_THROW(book.take(first), Refused);
    now += std::chrono::seconds(10);
    book.take(second);
    const Bytes third = book.issue();
    now += std::chrono::seconds(11);
    EXPECT_THROW(book.take(third), Refused);
    EXPECT_THROW(book.take(Bytes(32)), Refused);
    EXPECT_THROW(book.take({}), Refused);
}

TEST_F(NonceBookTest, AskingAloneFillsNoMemory)
{
    for (int i = 0; i < 3; ++i)
    {
        book.issue();
    }
    EXPECT_THROW(book.issue(), Refused);
    now += std::chrono::seconds(11);
    book.issue();
}

/** An endorsement key in software: the test is the TPM. */
wire::Public endorsementAreaOf(const Key& key)
{
    wire::Public out = wire::Public::parse(publicAreaOf(key, 0), "key");
    out.scheme = wire::algNull;
    out.symmetric = wire::algAes;
    out.attributes = wire::fixedTpm | wire::fixedParent |
                     wire::sensitiveDataOrigin | wire::adminWithPolicy |
                     wire::restricted | wire::decrypt;
    out.authPolicy.assign(endorsementPolicy.begin(), endorsementPolicy.end());
    return out;
}

/** Otherwise one TPM could be enrolled under many names. */
TEST(EndorsementKeyTest, HasOneFormOnly)
{
    Key key = makeKey();
    while (endorsementAreaOf(key).x[0] != 0) // one with a leading zero
    {
        key = makeKey();
    }
    const wire::Public ecc = endorsementAreaOf(key);
    const Key rsaKey(EVP_RSA_gen(2048));
    const wire::Public rsa = endorsementAreaOf(rsaKey);
    for (const wire::Public& good : {ecc, rsa})
    {
        EXPECT_EQ(endorsementKey(good.marshal(), "key").marshal(),
                  good.marshal());
        for (auto change : std::vector<std::function<void(wire::Public&)>>{
                 [](wire::Public& k) { k.attributes |= wire::userWithAuth; },
                 [](wire::Public& k) { k.attributes |= wire::noDa; },
                 [](wire::Public& k) { k.attributes |= 1U << 30; },
                 [](wire::Public& k) {
                     k.attributes &= ~wire::adminWithPolicy;
                 },
                 [](wire::Public& k) { k.authPolicy.clear(); },
                 [](wire::Public& k) { k.authPolicy[31] ^= 1; },
                 [](wire::Public& k) {
                     k.exponent = 65537; // what 0 means
                     if (k.type == wire::algEcc)
                     {
                         k.x.erase(k.x.begin());
                     }
                 }})
        {
            wire::Public other = good;
            change(other);
            ASSERT_NE(other.marshal(), good.marshal());
            EXPECT_THAT(
                errorOf([&] { endorsementKey(other.marshal(), "key"); }),
                HasSubstr("template L-1 or L-2"));
        }
    }
}

/** A certificate that its own key signed, for a use. */
Bytes certificateFor(const Key& key, const char* use)
{
    const std::unique_ptr<X509, void (*)(X509*)> made(X509_new(), X509_free);
    X509_set_version(made.get(), X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(made.get()), 1);
    X509_gmtime_adj(X509_getm_notBefore(made.get()), -60);
    X509_gmtime_adj(X509_getm_notAfter(made.get()), 60 * 60);
    X509_set_pubkey(made.get(), key.get());
    if (use != nullptr)
    {
        const std::unique_ptr<X509_EXTENSION, void (*)(X509_EXTENSION*)> wanted(
            X509V3_EXT_conf_nid(nullptr, nullptr, NID_ext_key_usage, use),
            X509_EXTENSION_free);
        X509_add_ext(made.get(), wanted.get(), -1);
    }
    X509_sign(made.get(), key.get(), EVP_sha256());
    unsigned char* der = nullptr;
    const int size = i2d_X509(made.get(), &der);
    Bytes out(der, der + size);
    OPENSSL_free(der);
    return out;
}

std::string pemOf(const Bytes& der)
{
    const unsigned char* at = der.data();
    const std::unique_ptr<X509, void (*)(X509*)> read(
        d2i_X509(nullptr, &at, static_cast<long>(der.size())), X509_free);
    const std::unique_ptr<BIO, int (*)(BIO*)> bio(BIO_new(BIO_s_mem()),
                                                  BIO_free);
    PEM_write_bio_X509(bio.get(), read.get());
    char* text = nullptr;
    const long size = BIO_get_mem_data(bio.get(), &text);
    return {text, static_cast<std::size_t>(size)};
}

TEST(EndorsementKeyTest, CertificateIsNotForAnotherUse)
{
    const Key key = makeKey();
    const wire::Public area = endorsementAreaOf(key);
    auto refusal = [&](const char* use) {
        const Bytes certificate = certificateFor(key, use);
        return errorOf([&] {
            verifyEndorsementCertificate(certificate, area, pemOf(certificate));
        });
    };
    EXPECT_EQ(refusal(nullptr), "");
    EXPECT_EQ(refusal("2.23.133.8.1"), "");
    EXPECT_EQ(refusal("clientAuth, 2.23.133.8.1"), "");
    EXPECT_THAT(refusal("clientAuth"), HasSubstr("is for another use"));
    EXPECT_THAT(refusal("2.23.133.8.3"), HasSubstr("is for another use"));
}

TEST(CandidateTest, KeysAreOfTheRightKind)
{
    const wire::Public area = endorsementAreaOf(makeKey());
    Machine machine;
    machine.endorsement = area.marshal();
    machine.attestation = publicAreaOf(makeKey(), goodAttributes);
    const EndorsementTrust trust{"", {sha256(machine.endorsement)}};
    Candidate candidate(machine, trust);
    EXPECT_THAT(errorOf([&] { candidate.requireAnswer({}); }),
                HasSubstr("is not its secret"));
    EXPECT_FALSE(candidate.answered());
    // A signing key is no endorsement key.
    machine.endorsement = machine.attestation;
    EXPECT_THAT(errorOf([&] {
                    Candidate(machine, {"", {sha256(machine.endorsement)}});
                }),
                HasSubstr("is no key that stays in its TPM"));
    // And two keys of different kinds do not pass for each other.
    machine.endorsement = area.marshal();
    machine.attestation = area.marshal();
    EXPECT_THAT(errorOf([&] { Candidate(machine, trust); }),
                HasSubstr("is not sign"));
}

} // namespace
} // namespace airlock::trust
