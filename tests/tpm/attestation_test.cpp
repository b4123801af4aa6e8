#include "tests/tpm/tpm_fixture.hpp"
#include "trust/event_log.hpp"
#include "trust/machine.hpp"

#include <tss2/tss2_mu.h>

namespace airlock::trust
{
namespace
{

using test::errorOf;
using testing::HasSubstr;

/** A boot host with an attestation key, and what a verifier expects of it. */
class QuoteTest : public test::TpmTest
{
  protected:
    QuoteTest()
    {
        machine = enroll();
        boot("clean 1");
        key.emplace(AttestationKey::parse(machine.attestation, "key"));
    }

    QuoteExpectation expect(const QuoteContext& about)
    {
        QuoteExpectation out;
        out.extraData = qualifyingData(about);
        out.pcrs = now();
        return out;
    }

    Quote quote(const QuoteContext& about)
    {
        return makeQuote(*tpm, selection, qualifyingData(about));
    }

    std::string refusal(const Quote& given, const QuoteExpectation& expected)
    {
        return errorOf<Error>([&] { verifyQuote(*key, given, expected); });
    }

    Machine machine;
    std::optional<AttestationKey> key;
    QuoteContext context{"boot-host", Bytes(32, 1), Bytes(32, 2), "port 1"};
};

TEST_F(QuoteTest, Verifies)
{
    const QuoteVerdict verdict =
        verifyQuote(*key, quote(context), expect(context));
    EXPECT_TRUE(verdict.clock.safe);
    EXPECT_GT(verdict.clock.resetCount, 0U);
    EXPECT_EQ(verdict.firmwareVersion >> 32,
              tpm->property(TPM2_PT_FIRMWARE_VERSION_1));
}

TEST_F(QuoteTest, SurvivesItsFile)
{
    const Quote made = quote(context);
    const Quote read = Quote::parse(dumpJson(made.toJson()), "quote");
    EXPECT_EQ(read.attest, made.attest);
    EXPECT_EQ(read.signature, made.signature);
    EXPECT_EQ(read.pcrs, made.pcrs);
    verifyQuote(*key, read, expect(context));
}

TEST_F(QuoteTest, ToolsOfOthersAcceptIt)
{
    const Quote made = quote(context);
    const std::filesystem::path& dir = swtpm.directory();
    writeFileAtomic(dir / "attest", made.attest);
    writeFileAtomic(dir / "signature", made.signature);
    writeFileAtomic(dir / "key.pem", key->pem());
    const auto arguments = [&](const Digest& extra) {
        return std::vector<std::string>{
            "tpm2_checkquote", "-u", "key.pem", "-m", "attest",    "-s",
            "signature",       "-g", "sha256",  "-q", toHex(extra)};
    };
    EXPECT_TRUE(swtpm.toolAccepts(arguments(qualifyingData(context))));
    EXPECT_FALSE(swtpm.toolAccepts(arguments(Digest{})));
    // And they read the same in it.
    tpm.reset();
    EXPECT_THAT(swtpm.tool({"tpm2_print", "-t", "TPMS_ATTEST", "attest"}),
                HasSubstr(toHex(qualifyingData(context))));
}

TEST_F(QuoteTest, AnswersOneQuestionOnly)
{
    const Quote made = quote(context);
    for (auto change : std::vector<void (*)(QuoteContext&)>{
             [](QuoteContext& c) { c.nonce[31] ^= 1; },
             [](QuoteContext& c) { c.nonce.pop_back(); },
             [](QuoteContext& c) { c.role = "switch"; }, // reflected
             [](QuoteContext& c) { c.channel[0] ^= 1; }, // relayed
             [](QuoteContext& c) { c.channel.clear(); },
             [](QuoteContext& c) { c.about = "port 2"; }})
    {
        QuoteContext other = context;
        change(other);
        EXPECT_THAT(refusal(made, expect(other)),
                    HasSubstr("not for this nonce and connection"));
    }
}

TEST_F(QuoteTest, OtherStateIsNamed)
{
    const QuoteExpectation expected = expect(context);
    boot("dirty 1");
    EXPECT_THAT(refusal(quote(context), expected), HasSubstr("PCR 4: have"));
    // A liar about its values does not get better.
    Quote lie = quote(context);
    lie.pcrs = expected.pcrs;
    EXPECT_THAT(refusal(lie, expected),
                HasSubstr("not of the values that were sent"));
}

TEST_F(QuoteTest, SelectionHasToBeTheOneAskedFor)
{
    const QuoteExpectation expected = expect(context);
    for (const PcrSelection& other :
         {PcrSelection{0}, PcrSelection{0, 2, 4, 7, 9, 11, 12},
          PcrSelection{0, 1, 2, 4, 7, 9, 11, 12, 13}})
    {
        const Quote made = makeQuote(*tpm, other, expected.extraData);
        EXPECT_THAT(refusal(made, expected), HasSubstr("was asked for"));
    }
}

TEST_F(QuoteTest, CapShowsInTheQuote)
{
    QuoteExpectation expected = expect(context);
    cap(*tpm);
    const Quote made = quote(context);
    EXPECT_THAT(refusal(made, expected), HasSubstr("PCR 11"));
    expected.pcrs = capped(expected.pcrs);
    EXPECT_EQ(refusal(made, expected), "");
}

TEST_F(QuoteTest, EndsWithTheBoot)
{
    QuoteExpectation expected = expect(context);
    expected.previous = verifyQuote(*key, quote(context), expected).clock;
    expected.sameBoot = true;
    EXPECT_EQ(refusal(quote(context), expected), "");
    boot("clean 1"); // the same image
    EXPECT_THAT(refusal(quote(context), expected),
                HasSubstr("was reset or restarted"));
    expected.sameBoot = false;
    EXPECT_EQ(refusal(quote(context), expected), "");
}

TEST_F(QuoteTest, RestoredTpmStateRunsBack)
{
    test::Swtpm backup;
    tpm.reset();
    swtpm.restart();
    backup.becomeCloneOf(swtpm);
    for (int i = 0; i < 4; ++i) // the copying costs two resets
    {
        boot("clean 1");
    }
    QuoteExpectation expected = expect(context);
    expected.previous = verifyQuote(*key, quote(context), expected).clock;
    // Later somebody puts the old state back.
    tpm.reset();
    swtpm.becomeCloneOf(backup);
    connect();
    measure(0, "firmware");
    measure(4, "clean 1");
    measure(11, "clean 1");
    expected.safeClock = false;
    EXPECT_THAT(refusal(quote(context), expected), HasSubstr("reset count"));
}

TEST_F(QuoteTest, ClockAfterALostPowerIsNotSafe)
{
    tpm.reset();
    swtpm.pullThePlug();
    connect();
    QuoteExpectation expected = expect(context);
    const Quote made = quote(context);
    EXPECT_THAT(refusal(made, expected), HasSubstr("clock: is not safe"));
    expected.safeClock = false;
    EXPECT_EQ(refusal(made, expected), "");
}

TEST_F(QuoteTest, AnotherTpmsKeyIsRefused)
{
    test::Swtpm second;
    Tpm other(second.tcti());
    createKeys(other, EndorsementType::eccP256, nullptr);
    QuoteExpectation expected = expect(context);
    expected.pcrs = other.readPcrs(selection);
    const Quote made = makeQuote(other, selection, expected.extraData);
    EXPECT_THAT(refusal(made, expected), HasSubstr("not of the enrolled key"));
}

TEST_F(QuoteTest, TpmDoesNotSignWhatItDidNotMake)
{
    // The restricted key refuses a digest from outside.
    const Object object = Object::persistent(*tpm, attestationHandle);
    TPM2B_DIGEST digest{};
    digest.size = 32;
    TPMT_SIG_SCHEME scheme{};
    scheme.scheme = TPM2_ALG_NULL;
    TPMT_TK_HASHCHECK ticket{};
    ticket.tag = TPM2_ST_HASHCHECK;
    ticket.hierarchy = TPM2_RH_NULL;
    TPMT_SIGNATURE* signature = nullptr;
    // It misses the ticket of a digest that the TPM made itself.
    EXPECT_EQ(Esys_Sign(tpm->get(), object.get(), ESYS_TR_PASSWORD,
                        ESYS_TR_NONE, ESYS_TR_NONE, &digest, &scheme, &ticket,
                        &signature),
              TPM2_RC_TICKET + TPM2_RC_P + TPM2_RC_3);
    Esys_Free(signature);
}

TEST_F(QuoteTest, ParsersAgreeWithTheTpmLibrarys)
{
    const Quote made = quote(context);
    TPMS_ATTEST theirs{};
    std::size_t offset = 0;
    ASSERT_EQ(Tss2_MU_TPMS_ATTEST_Unmarshal(
                  made.attest.data(), made.attest.size(), &offset, &theirs),
              TSS2_RC_SUCCESS);
    EXPECT_EQ(offset, made.attest.size());
    const wire::QuoteInfo ours = wire::QuoteInfo::parse(made.attest, "quote");
    EXPECT_EQ(ours.clock.clock, theirs.clockInfo.clock);
    EXPECT_EQ(ours.clock.resetCount, theirs.clockInfo.resetCount);
    EXPECT_EQ(ours.clock.restartCount, theirs.clockInfo.restartCount);
    EXPECT_EQ(ours.clock.safe, theirs.clockInfo.safe == TPM2_YES);
    EXPECT_EQ(ours.firmwareVersion, theirs.firmwareVersion);
    EXPECT_EQ(ours.selection, selection);
    EXPECT_EQ(wire::Public::parse(machine.attestation, "key").marshal(),
              machine.attestation);
    EXPECT_EQ(key->name(), Object::persistent(*tpm, attestationHandle).name());
}

/** Enrolment with a certificate, by both kinds of endorsement key. */
class CredentialTest : public test::TpmTest
{
  protected:
    CredentialTest() : TpmTest(test::Swtpm::Certificate::issued) {}

    Machine enrollAs(EndorsementType type)
    {
        return createKeys(*tpm, type, nullptr);
    }

    /** The whole exchange. */
    void answer(Candidate& candidate, const Tpm& by)
    {
        const Credential sent =
            Credential::parse(candidate.credential().marshal(), "credential");
        candidate.requireAnswer(activateCredential(by, sent, Secret()).view());
    }

    static EndorsementTrust listed(const Machine& machine)
    {
        return {"", {sha256(machine.endorsement)}};
    }
};

TEST_F(CredentialTest, CertificateAndActivationOfAnRsaKey)
{
    const Machine machine = enrollAs(EndorsementType::rsa2048);
    EXPECT_FALSE(machine.endorsementCertificate.empty());
    Candidate candidate(Machine::parse(JsonField(machine.toJson(), "machine")),
                        {swtpm.authorities(), {}});
    answer(candidate, *tpm);
    EXPECT_TRUE(candidate.answered());
}

TEST_F(CredentialTest, ActivationOfAnEccKey)
{
    // swtpm certifies a P-384 key instead; this one is listed by hand.
    const Machine machine = enrollAs(EndorsementType::eccP256);
    EXPECT_TRUE(machine.endorsementCertificate.empty());
    Candidate candidate(machine, listed(machine));
    answer(candidate, *tpm);
    EXPECT_TRUE(candidate.answered());
}

TEST_F(CredentialTest, UnknownEndorsementKeyIsRefused)
{
    Machine machine = enrollAs(EndorsementType::rsa2048);
    test::Swtpm stranger(test::Swtpm::Certificate::issued);
    EXPECT_THAT(errorOf<Error>([&] {
                    Candidate(machine, {stranger.authorities(), {}});
                }),
                HasSubstr("not of a known authority"));
    EXPECT_THAT(errorOf<Error>([&] { Candidate(machine, EndorsementTrust{}); }),
                HasSubstr("no authority to check"));
    // A good certificate, of another TPM.
    Tpm other(stranger.tcti());
    const Machine foreign =
        createKeys(other, EndorsementType::rsa2048, nullptr);
    machine.endorsementCertificate = foreign.endorsementCertificate;
    EXPECT_THAT(errorOf<Error>([&] {
                    Candidate(machine, {stranger.authorities(), {}});
                }),
                HasSubstr("is for another key"));
    machine.endorsementCertificate.clear();
    EXPECT_THAT(errorOf<Error>([&] {
                    Candidate(machine, {swtpm.authorities(), {}});
                }),
                HasSubstr("no certificate and is not on the list"));
}

TEST_F(CredentialTest, AWrongAnswerIsTheLastOne)
{
    const Machine machine = enrollAs(EndorsementType::eccP256);
    Candidate candidate(machine, listed(machine));
    const Secret right =
        activateCredential(*tpm, candidate.credential(), Secret());
    Bytes wrong(right.view().begin(), right.view().end());
    wrong[0] ^= 1;
    EXPECT_THROW(candidate.requireAnswer(wrong), Refused);
    EXPECT_THROW(candidate.requireAnswer(right.view()), Refused);
    EXPECT_FALSE(candidate.answered());
}

TEST_F(CredentialTest, KeysOfTwoTpmsDoNotBelongTogether)
{
    test::Swtpm second;
    Tpm other(second.tcti());
    const Machine here = enrollAs(EndorsementType::eccP256);
    const Machine there = createKeys(other, EndorsementType::eccP256, nullptr);
    Machine mixed = here;
    mixed.attestation = there.attestation;
    Candidate candidate(mixed, listed(here));
    // Neither of the two gets the secret out.
    for (const Tpm* by : {&*tpm, &other})
    {
        EXPECT_THROW(activateCredential(*by, candidate.credential(), Secret()),
                     TpmError);
    }
    Inventory inventory;
    EXPECT_THAT(errorOf<Error>([&] { inventory.enroll("host", candidate); }),
                HasSubstr("has not shown"));
}

TEST_F(CredentialTest, ChangedCredentialIsRefused)
{
    const Machine machine = enrollAs(EndorsementType::eccP256);
    const Candidate candidate(machine, listed(machine));
    const Bytes good = candidate.credential().marshal();
    for (std::size_t at = 0; at < good.size(); at += 7)
    {
        Bytes bad = good;
        bad[at] ^= 1;
        EXPECT_THROW(activateCredential(
                         *tpm, Credential::parse(bad, "credential"), Secret()),
                     Error)
            << at;
    }
    // Each for that byte, and not because the TPM takes nothing any more.
    EXPECT_NO_THROW(activateCredential(
        *tpm, Credential::parse(good, "credential"), Secret()));
}

TEST_F(CredentialTest, MakerAgreesWithTheTpms)
{
    // What the tools make without a TPM of ours, ours can open as well.
    const Machine machine = enrollAs(EndorsementType::rsa2048);
    ByteWriter publicArea;
    wire::writeSized(publicArea, machine.endorsement);
    writeFileAtomic(swtpm.directory() / "ek.pub", publicArea.data());
    writeFileAtomic(swtpm.directory() / "secret",
                    std::string_view("sesame of others"));
    const AttestationKey key =
        AttestationKey::parse(machine.attestation, "key");
    swtpm.tool({"tpm2_makecredential", "-T", "none", "-u", "ek.pub", "-s",
                "secret", "-n", toHex(key.name()), "-o", "out"});
    // Their file: magic and version, then the two parts.
    const Bytes file = readFile(swtpm.directory() / "out", 4096);
    const Credential theirs =
        Credential::parse(ByteView(file).subspan(8), "credential");
    EXPECT_EQ(test::textOf(activateCredential(*tpm, theirs, Secret())),
              "sesame of others");
}

TEST_F(CredentialTest, InventoryKnowsMachinesForLife)
{
    const Machine machine = enrollAs(EndorsementType::eccP256);
    Candidate candidate(machine, listed(machine));
    answer(candidate, *tpm);
    Inventory inventory;
    inventory.enroll("host", candidate);
    QuoteExpectation expected;
    expected.pcrs = tpm->readPcrs(selection);
    const Quote made = makeQuote(*tpm, selection, expected.extraData);
    inventory.verify("host", made, expected);
    // From its file again.
    Inventory loaded =
        Inventory::parse(JsonField(inventory.toJson(), "inventory"));
    EXPECT_EQ(loaded.find("host").lastQuote, inventory.find("host").lastQuote);

    // The same name with another TPM.
    test::Swtpm second;
    Tpm other(second.tcti());
    const Machine there = createKeys(other, EndorsementType::eccP256, nullptr);
    Candidate thief(there, listed(there));
    thief.requireAnswer(
        activateCredential(other, thief.credential(), Secret()).view());
    EXPECT_THAT(errorOf<Error>([&] { loaded.enroll("host", thief); }),
                HasSubstr("is another TPM"));
    EXPECT_THAT(errorOf<Error>([&] { loaded.enroll("host2", candidate); }),
                HasSubstr("is enrolled as host"));
    loaded.remove("host");
    EXPECT_THAT(errorOf<Error>([&] { loaded.verify("host", made, expected); }),
                HasSubstr("there is no \"host\""));
    loaded.enroll("host", thief);
}

/** Logs as firmware writes them. */
class MeasuredLogTest : public test::TpmTest
{
  protected:
    static void le16(ByteWriter& out, unsigned value)
    {
        out.u8(static_cast<std::uint8_t>(value));
        out.u8(static_cast<std::uint8_t>(value >> 8));
    }
    static void le32(ByteWriter& out, std::uint32_t value)
    {
        le16(out, value & 0xffff);
        le16(out, value >> 16);
    }

    static ByteWriter header()
    {
        ByteWriter spec;
        spec.text(std::string_view("Spec ID Event03\0", 16));
        le32(spec, 0); // platform
        spec.u8(0);    // version 2.00
        spec.u8(2);
        spec.u8(0);
        spec.u8(2); // 64 bits
        le32(spec, 1);
        le16(spec, wire::algSha256);
        le16(spec, 32);
        spec.u8(0); // vendor
        ByteWriter out;
        le32(out, 0);
        le32(out, 3);
        out.bytes(Bytes(20));
        le32(out, static_cast<std::uint32_t>(spec.size()));
        out.bytes(spec.data());
        return out;
    }

    static void addEvent(ByteWriter& out, unsigned pcr, std::uint32_t type,
                         std::string_view data)
    {
        le32(out, pcr);
        le32(out, type);
        le32(out, 1);
        le16(out, wire::algSha256);
        out.bytes(sha256(asBytes(data)));
        le32(out, static_cast<std::uint32_t>(data.size()));
        out.text(data);
    }
};

TEST_F(MeasuredLogTest, ReplayIsWhatTheTpmHas)
{
    constexpr std::uint32_t ipl = 0x0d;
    ByteWriter log = header();
    for (auto [pcr, text] :
         std::vector<std::pair<unsigned, const char*>>{{0, "firmware"},
                                                       {4, "loader"},
                                                       {4, "kernel"},
                                                       {7, "keys"},
                                                       {11, ".linux"},
                                                       {11, "..."}})
    {
        measure(pcr, text);
        addEvent(log, pcr, ipl, text);
    }
    const EventLog parsed = EventLog::parse(log.data());
    EXPECT_EQ(parsed.replay(), tpm->readPcrs({0, 4, 7, 11}));
    // And what others make of the same log.
    writeFileAtomic(swtpm.directory() / "log", log.data());
    const std::string theirs = swtpm.tool({"tpm2_eventlog", "log"});
    for (const auto& [pcr, value] : parsed.replay())
    {
        EXPECT_THAT(theirs, HasSubstr("0x" + toHex(value))) << pcr;
    }
}

} // namespace
} // namespace airlock::trust
