#include "common/error.hpp"
#include "error_of.hpp"
#include "quote_forger.hpp"
#include "tools/switchd/quote_verifier.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace airlock::sw
{
namespace
{

using test::errorOf;
using test::Forger;
using ::testing::HasSubstr;

class QuoteVerifierTest : public testing::Test
{
  protected:
    QuoteVerifierTest() { claim.nonce.fill(9); }

    trust::QuoteReference enrolment() const
    {
        return {
            trust::AttestationKey::parse(
                test::publicAreaOf(forger.key, test::goodAttributes), "key"),
            {{"clean 7", forger.pcrs}}};
    }

    /** The forger's own good quote of the claim. */
    Bytes proof()
    {
        Digest digest = claim.digest();
        forger.extraData.assign(digest.begin(), digest.end());
        return trust::pack(forger.quote());
    }

    std::string verdict(const ProofVerifier& verifier, ByteView proof)
    {
        return errorOf([&] { evidence = verifier.verify(claim, proof); });
    }

    Forger forger;
    Claim claim{"boot0", {{2, 0, 0, 0, 0, 7}}, {}};
    Evidence evidence;
};

TEST_F(QuoteVerifierTest, TakesAQuoteOfTheClaim)
{
    // As it is enrolled: through its text.
    auto verifier = makeVerifier(enrolment().toText());
    EXPECT_EQ(verdict(*verifier, proof()), "");
    EXPECT_EQ(evidence.bootCount, (3ULL << 32) | 1);
    Bytes good = proof();
    EXPECT_LE(good.size(), quarantine::maxProof);
    claim.port = "boot1";
    EXPECT_THAT(verdict(*verifier, good), HasSubstr("not for this nonce"));
    claim.port = "boot0";
    claim.address.bytes[5]++;
    EXPECT_THAT(verdict(*verifier, good), HasSubstr("not for this nonce"));
    claim.address.bytes[5]--;
    claim.nonce[0]++;
    EXPECT_THAT(verdict(*verifier, good), HasSubstr("not for this nonce"));
}

TEST_F(QuoteVerifierTest, TakesOnlyEnrolledStates)
{
    trust::QuoteReference two = enrolment();
    two.states.push_back({"clean 8", {{0, Digest{1}}, {4, Digest{2}}}});
    QuoteVerifier verifier(two);
    EXPECT_EQ(verdict(verifier, proof()), "");
    forger.pcrs = two.states[1].pcrs;
    EXPECT_EQ(verdict(verifier, proof()), "");
    forger.pcrs[4] = Digest{3}; // dirty
    EXPECT_THAT(verdict(verifier, proof()),
                AllOf(HasSubstr("clean 7: "), HasSubstr("clean 8: "),
                      HasSubstr("PCR")));
    // Fewer or more PCRs than were enrolled.
    forger.pcrs = {{0, Digest{1}}};
    forger.selection = trust::PcrSelection{0}.marshal();
    EXPECT_THAT(verdict(verifier, proof()), HasSubstr("was asked for"));
}

TEST_F(QuoteVerifierTest, TheBootIsTheEvidence)
{
    QuoteVerifier verifier(enrolment());
    EXPECT_EQ(verdict(verifier, proof()), "");
    std::uint64_t before = evidence.bootCount;
    forger.clock.resetCount++;
    forger.clock.clock = 0; // a TPM that lost its power
    forger.safe = 0;
    EXPECT_EQ(verdict(verifier, proof()), "");
    EXPECT_NE(evidence.bootCount, before);
    before = evidence.bootCount;
    forger.clock.restartCount++;
    EXPECT_EQ(verdict(verifier, proof()), "");
    EXPECT_NE(evidence.bootCount, before);
    // A copy of the TPM that is behind.
    forger.clock.resetCount--;
    EXPECT_THAT(verdict(verifier, proof()), HasSubstr("reset count"));
}

TEST_F(QuoteVerifierTest, WhatAnEarlierVerifierSawCounts)
{
    QuoteVerifier before(enrolment());
    EXPECT_EQ(verdict(before, proof()), "");
    ASSERT_TRUE(evidence.clock);
    const auto remembering = [&] {
        auto out = std::make_unique<QuoteVerifier>(enrolment());
        out->remember(*evidence.clock);
        return out;
    };
    const auto after = remembering();
    EXPECT_EQ(verdict(*after, proof()), "");
    forger.clock.resetCount--;
    EXPECT_THAT(verdict(*remembering(), proof()), HasSubstr("reset count"));
    forger.clock.resetCount++;
    forger.clock.clock--;
    EXPECT_NE(verdict(*remembering(), proof()), "");
}

TEST_F(QuoteVerifierTest, AnotherKeyIsRefused)
{
    QuoteVerifier verifier(enrolment());
    forger.key = trust::makeKey();
    EXPECT_THAT(verdict(verifier, proof()), HasSubstr("enrolled key"));
}

TEST_F(QuoteVerifierTest, EveryCutAndEveryChangedBitIsRefused)
{
    QuoteVerifier verifier(enrolment());
    Bytes good = proof();
    for (std::size_t size = 0; size < good.size(); size++)
    {
        EXPECT_NE(verdict(verifier, ByteView(good).first(size)), "");
    }
    for (std::size_t bit = 0; bit < good.size() * 8; bit += 3)
    {
        Bytes changed = good;
        changed[bit / 8] ^= static_cast<std::uint8_t>(1U << (bit % 8));
        EXPECT_NE(verdict(verifier, changed), "") << bit;
    }
    good.push_back(0);
    EXPECT_THAT(verdict(verifier, good), HasSubstr("goes on"));
}

TEST_F(QuoteVerifierTest, ProverIsItsKeyWhateverItsStates)
{
    trust::QuoteReference two = enrolment();
    two.states.push_back({"clean 8", {{0, Digest{1}}, {4, Digest{2}}}});
    EXPECT_TRUE(sameProver(enrolment().toText(), two.toText()));
    const std::string before = enrolment().toText();
    forger.key = trust::makeKey();
    EXPECT_FALSE(sameProver(before, enrolment().toText()));
    EXPECT_FALSE(sameProver(before, "a key"));
    EXPECT_TRUE(sameProver("a key", "a key"));
}

TEST_F(QuoteVerifierTest, WhatIsOfNoUseIsNotEnrolled)
{
    auto refusal = [](const std::string& text) {
        return errorOf([&] { makeVerifier(text); });
    };
    trust::QuoteReference wrong = enrolment();
    EXPECT_EQ(refusal(wrong.toText()), "");
    wrong.states.clear();
    EXPECT_THAT(refusal(wrong.toText()), HasSubstr("states: is empty"));
    wrong.states = {{"set back", {{16, Digest{}}}}};
    EXPECT_THAT(refusal(wrong.toText()), HasSubstr("16"));
    Json json = parseJson(enrolment().toText(), "key");
    json["attestation"] = toHex(test::publicAreaOf(
        forger.key, test::goodAttributes & ~trust::wire::restricted));
    EXPECT_THAT(refusal(dumpJson(json)), HasSubstr("restricted"));
    json["attestation"] = "xy";
    EXPECT_THAT(refusal(dumpJson(json)), HasSubstr("hexadecimal"));
    json["version"] = 2;
    EXPECT_THAT(refusal(dumpJson(json)), HasSubstr("version"));
    EXPECT_THAT(refusal("{"), HasSubstr("key"));
}

} // namespace
} // namespace airlock::sw
