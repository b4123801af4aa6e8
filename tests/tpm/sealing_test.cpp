#include "tests/tpm/tpm_fixture.hpp"
#include "trust/nv.hpp"

#include <openssl/evp.h>
#include <openssl/rsa.h>

#include <cstdlib>
#include <functional>

namespace airlock::trust
{
namespace
{

using test::errorOf;
using test::secretOf;
using test::textOf;
using testing::AllOf;
using testing::HasSubstr;

constexpr const char* theSecret = "02:11:22:33:44:55";

class SealingTest : public test::TpmTest
{
  protected:
    SealingTest()
    {
        enroll();
        boot("clean 1");
        clean = approve("clean 1");
        blob = seal(*tpm, policyKey, "clean", secretOf(theSecret));
    }

    /** The TPM's own words, without the checks in software. */
    std::string tpmRefuses(const SignedPolicy& policy, const PolicyKey& key)
    {
        try
        {
            UnsealSession session(*tpm, key, policy);
            session.unseal(blob, key);
            return "";
        }
        catch (const TpmError& error)
        {
            EXPECT_TRUE(error.policyFailed()) << error.what();
            return error.what();
        }
    }
    std::string tpmRefuses(const SignedPolicy& policy)
    {
        return tpmRefuses(policy, policyKey);
    }

    SignedPolicy clean;
    SealedBlob blob;
};

TEST_F(SealingTest, ComesOutInTheApprovedStateAndAfterEachReboot)
{
    for (int i = 0; i < 2; ++i)
    {
        EXPECT_EQ(textOf(unseal(*tpm, blob, policyKey, {clean})), theSecret);
        boot("dirty 1");
        boot("clean 1");
    }
}

TEST_F(SealingTest, HoldsMoreThanATpmDoes)
{
    for (std::size_t size : {1U, 128U, 129U, 65536U})
    {
        const Secret large = Secret::random(size);
        const Bytes file = seal(*tpm, policyKey, "clean", large).marshal();
        EXPECT_TRUE(
            unseal(*tpm, SealedBlob::parse(file, "file"), policyKey, {clean})
                .equals(large.view()));
    }
    EXPECT_THROW(seal(*tpm, policyKey, "clean", Secret()), Error);
    EXPECT_THROW(seal(*tpm, policyKey, "clean", Secret(65537)), Error);
}

TEST_F(SealingTest, AnotherStateDoesNotUnseal)
{
    boot("dirty 1");
    EXPECT_THAT(errorOf<Error>([&] { unseal(*tpm, blob, policyKey, {clean}); }),
                AllOf(HasSubstr("clean 1"), HasSubstr("PCR 4: have"),
                      HasSubstr("PCR 11: have"),
                      testing::Not(HasSubstr("PCR 0:"))));
    EXPECT_THROW(unseal(*tpm, blob, policyKey, {clean}), StateNotApproved);
    EXPECT_THAT(tpmRefuses(clean), HasSubstr("another state"));
}

TEST_F(SealingTest, EachSelectedPcrCounts)
{
    for (unsigned pcr : selection.list())
    {
        boot("clean 1");
        EXPECT_EQ(tpmRefuses(clean), "");
        measure(pcr, "something more");
        EXPECT_NE(tpmRefuses(clean), "") << pcr;
    }
    boot("clean 1");
    measure(1, "a boot entry"); // not selected
    EXPECT_EQ(tpmRefuses(clean), "");
}

TEST_F(SealingTest, NewSignedImageNeedsNoNewSeal)
{
    boot("clean 2");
    EXPECT_THROW(unseal(*tpm, blob, policyKey, {clean}), StateNotApproved);
    const SignedPolicy updated = approve("clean 2");
    EXPECT_EQ(textOf(unseal(*tpm, blob, policyKey, {clean, updated})),
              theSecret);
    boot("clean 1"); // the old one still may
    EXPECT_EQ(textOf(unseal(*tpm, blob, policyKey, {clean, updated})),
              theSecret);
}

TEST_F(SealingTest, PolicyOfDirtyDoesNotUnsealWhatIsCleans)
{
    boot("dirty 1");
    const SignedPolicy dirty = approve("dirty 1", 1, "dirty");
    EXPECT_THAT(errorOf<Error>([&] { unseal(*tpm, blob, policyKey, {dirty}); }),
                HasSubstr("is for \"dirty\", not \"clean\""));
    // Its session is a good one, for other objects.
    EXPECT_THAT(tpmRefuses(dirty), HasSubstr("cannot unseal"));
    // Nor with another tag on it.
    SignedPolicy forged = dirty;
    forged.ref = "clean";
    EXPECT_THROW(UnsealSession(*tpm, policyKey, forged), TpmError);
    // Nor does a blob with the tag rewritten load.
    SealedBlob rewritten = blob;
    rewritten.ref = "dirty";
    EXPECT_THAT(
        errorOf<Error>([&] { unseal(*tpm, rewritten, policyKey, {dirty}); }),
        HasSubstr("not of this TPM, key and tag"));
}

TEST_F(SealingTest, OnlyTheSitesKeyApproves)
{
    boot("dirty 1");
    const Key other = makeKey();
    const PolicyKey otherKey = PolicyKey::of(other);
    const SignedPolicy forged =
        SignedPolicy::sign(other, {"dirty 1", 1, now()}, "clean");
    EXPECT_THAT(
        errorOf<Error>([&] { unseal(*tpm, blob, policyKey, {forged}); }),
        HasSubstr("not signed with this key"));
    EXPECT_THAT(errorOf<Error>([&] { UnsealSession(*tpm, policyKey, forged); }),
                HasSubstr("does not take the signature"));
    EXPECT_THROW(unseal(*tpm, blob, otherKey, {forged}), Refused);
    // The attacker's key and signature are consistent: another policy though.
    SealedBlob rewritten = blob;
    rewritten.policyKeyName = otherKey.name();
    EXPECT_THAT(
        errorOf<Error>([&] { unseal(*tpm, rewritten, otherKey, {forged}); }),
        HasSubstr("not of this TPM, key and tag"));
}

TEST_F(SealingTest, SignedValuesCannotBeChanged)
{
    boot("dirty 1");
    SignedPolicy changed = clean;
    changed.state.pcrs = now();
    EXPECT_THAT(
        errorOf<Error>([&] { unseal(*tpm, blob, policyKey, {changed}); }),
        HasSubstr("not signed with this key"));
    EXPECT_THROW(UnsealSession(*tpm, policyKey, changed), TpmError);
}

TEST_F(SealingTest, PolicyKeyMayBeRsa)
{
    const Key rsa(EVP_RSA_gen(2048));
    const PolicyKey key = PolicyKey::of(rsa);
    const SignedPolicy policy =
        SignedPolicy::sign(rsa, {"clean 1", 1, now()}, "clean");
    const SealedBlob sealed = seal(*tpm, key, "clean", secretOf(theSecret));
    EXPECT_EQ(textOf(unseal(*tpm, sealed, key, {policy})), theSecret);
    boot("dirty 1");
    EXPECT_THROW(unseal(*tpm, sealed, key, {policy}), StateNotApproved);
}

TEST_F(SealingTest, CapEndsItUntilTheNextBoot)
{
    EXPECT_EQ(textOf(unseal(*tpm, blob, policyKey, {clean})), theSecret);
    const PcrValues before = now();
    cap(*tpm);
    EXPECT_EQ(now(), capped(before));
    EXPECT_THROW(unseal(*tpm, blob, policyKey, {clean}), StateNotApproved);
    EXPECT_NE(tpmRefuses(clean), "");
    boot("clean 1");
    EXPECT_EQ(textOf(unseal(*tpm, blob, policyKey, {clean})), theSecret);
}

TEST_F(SealingTest, OpenSessionDiesWithTheCap)
{
    UnsealSession session(*tpm, policyKey, clean);
    cap(*tpm);
    try
    {
        session.unseal(blob, policyKey);
        ADD_FAILURE() << "unsealed after the cap";
    }
    catch (const TpmError& error)
    {
        EXPECT_TRUE(error.pcrChanged()) << error.what();
        EXPECT_TRUE(error.policyFailed());
    }
}

TEST_F(SealingTest, CappedPcrCannotBeReset)
{
    cap(*tpm);
    const TSS2_RC code =
        Esys_PCR_Reset(tpm->get(), ESYS_TR_PCR11, ESYS_TR_PASSWORD,
                       ESYS_TR_NONE, ESYS_TR_NONE);
    EXPECT_EQ(code, TPM2_RC_LOCALITY);
    EXPECT_NE(tpmRefuses(clean), "");
}

TEST_F(SealingTest, UnsealOnceCapsInEveryCase)
{
    EXPECT_EQ(textOf(unsealOnce(*tpm, blob, policyKey, {clean})), theSecret);
    EXPECT_THROW(unsealOnce(*tpm, blob, policyKey, {clean}), StateNotApproved);
    // Capped although it did not come out: the state that was approved later
    // is gone.
    boot("clean 2");
    const SignedPolicy late = approve("clean 2");
    EXPECT_THROW(unsealOnce(*tpm, blob, policyKey, {clean}), StateNotApproved);
    EXPECT_THROW(unseal(*tpm, blob, policyKey, {late}), StateNotApproved);
}

TEST_F(SealingTest, PcrsThatCanBeResetAreRefused)
{
    // Why: PCR 16 and 23 come back, and an open session does not notice.
    measure(23, "a state");
    trust::check(Esys_PCR_Reset(tpm->get(), ESYS_TR_PCR23, ESYS_TR_PASSWORD,
                                ESYS_TR_NONE, ESYS_TR_NONE),
                 "reset");
    EXPECT_EQ(tpm->readPcrs({23}).at(23), Digest{});
    for (unsigned pcr : {16U, 17U, 22U, 23U})
    {
        PcrValues values = now();
        values[pcr] = Digest{};
        EXPECT_THAT(errorOf<Error>([&] {
                        SignedPolicy::sign(siteKey, {"x", 1, values}, "clean");
                    }),
                    HasSubstr("can be reset"));
        EXPECT_THAT(errorOf<Error>([&] { cap(*tpm, pcr); }),
                    HasSubstr("can be reset"));
    }
}

TEST_F(SealingTest, OlderGenerationIsLockedOut)
{
    const SignedPolicy old = clean;
    boot("clean 2");
    const SignedPolicy next = approve("clean 2", 2);
    boot("clean 1");
    EXPECT_EQ(tpmRefuses(old), "");
    raiseGeneration(*tpm, Secret(), 2);
    EXPECT_EQ(generation(*tpm), 2U);
    EXPECT_THAT(errorOf<Error>([&] {
                    unseal(*tpm, blob, policyKey, {old, next});
                }),
                HasSubstr("is of generation 1, the oldest"));
    EXPECT_THAT(tpmRefuses(old), HasSubstr("too old"));
    // A higher number in the file is another policy than the one signed.
    SignedPolicy lifted = old;
    lifted.state.generation = 2;
    EXPECT_THROW(UnsealSession(*tpm, policyKey, lifted), TpmError);
    boot("clean 2");
    EXPECT_EQ(textOf(unseal(*tpm, blob, policyKey, {old, next})), theSecret);
    EXPECT_THAT(errorOf<Error>([&] { raiseGeneration(*tpm, Secret(), 1); }),
                HasSubstr("cannot become"));
}

TEST_F(SealingTest, ReplayedAndForeignBlobsAreNotTheOneInForce)
{
    EXPECT_THAT(errorOf<Error>([&] { requirePinned(*tpm, blob); }),
                HasSubstr("none was noted"));
    pin(*tpm, Secret(), blob);
    requirePinned(*tpm, blob);
    // Anybody can seal something for a policy: it takes public keys only.
    const SealedBlob foreign =
        seal(*tpm, policyKey, "clean", secretOf("known to the attacker"));
    EXPECT_EQ(textOf(unseal(*tpm, foreign, policyKey, {clean})),
              "known to the attacker");
    EXPECT_THAT(errorOf<Error>([&] { requirePinned(*tpm, foreign); }),
                HasSubstr("not the one that is in force"));
    // Rotation: the old blob still is one, and is refused.
    const SealedBlob next =
        seal(*tpm, policyKey, "clean", secretOf("02:66:77:88:99:aa"));
    pin(*tpm, Secret(), next);
    requirePinned(*tpm, next);
    EXPECT_THAT(errorOf<Error>([&] { requirePinned(*tpm, blob); }),
                HasSubstr("not the one that is in force"));
}

TEST_F(SealingTest, AnotherTpmDoesNotUnseal)
{
    test::Swtpm second;
    Tpm other(second.tcti());
    EXPECT_THROW(unseal(other, blob, policyKey, {clean}), NotEnrolled);
    createKeys(other, EndorsementType::eccP256, nullptr);
    EXPECT_THAT(
        errorOf<Error>([&] { unseal(other, blob, policyKey, {clean}); }),
        HasSubstr("another TPM"));
    // Its own storage key's name on it does not help.
    SealedBlob rewritten = blob;
    rewritten.storageName = storageKey(other).name();
    const SignedPolicy there = SignedPolicy::sign(
        siteKey, {"there", 1, other.readPcrs(selection)}, "clean");
    EXPECT_THAT(
        errorOf<Error>([&] { unseal(other, rewritten, policyKey, {there}); }),
        HasSubstr("not of this TPM"));
}

/** The name is that of the key in use, not of one that was looked at before. */
TEST_F(SealingTest, SessionsAreSaltedToTheKeyOfTheEnrolment)
{
    const Bytes name = storageKey(*tpm).name();
    Bytes other = name;
    other.back() ^= 1;
    EXPECT_EQ(textOf(UnsealSession(*tpm, policyKey, clean, name)
                         .unseal(blob, policyKey)),
              theSecret);
    EXPECT_THAT(
        errorOf<Error>([&] { UnsealSession(*tpm, policyKey, clean, other); }),
        HasSubstr("not the one of the enrolment"));
    const SealedBlob made =
        seal(*tpm, policyKey, "clean", secretOf(theSecret), name);
    EXPECT_EQ(made.storageName, name);
    EXPECT_THAT(errorOf<Error>([&] {
                    seal(*tpm, policyKey, "clean", secretOf(theSecret), other);
                }),
                HasSubstr("not the one of the enrolment"));
}

TEST_F(SealingTest, ClearedTpmSaysSo)
{
    trust::check(Esys_Clear(tpm->get(), ESYS_TR_RH_LOCKOUT, ESYS_TR_PASSWORD,
                            ESYS_TR_NONE, ESYS_TR_NONE),
                 "clear");
    EXPECT_THAT(errorOf<Error>([&] { unseal(*tpm, blob, policyKey, {clean}); }),
                HasSubstr("was cleared, or is another one"));
    enroll();
    EXPECT_THAT(errorOf<Error>([&] { unseal(*tpm, blob, policyKey, {clean}); }),
                HasSubstr("another TPM, or it was cleared"));
}

TEST_F(SealingTest, EveryChangedByteOfABlobIsRefused)
{
    const Bytes good = blob.marshal();
    for (std::size_t at = 0; at < good.size(); ++at)
    {
        Bytes bad = good;
        bad[at] ^= 0x20;
        EXPECT_THROW(
            unseal(*tpm, SealedBlob::parse(bad, "blob"), policyKey, {clean}),
            Error)
            << at;
    }
    // Each for that byte, and not because the TPM takes nothing any more.
    EXPECT_EQ(textOf(unseal(*tpm, SealedBlob::parse(good, "blob"), policyKey,
                            {clean})),
              theSecret);
    for (std::size_t size = 0; size < good.size(); ++size)
    {
        EXPECT_THROW(SealedBlob::parse(ByteView(good).first(size), "blob"),
                     Refused);
    }
    Bytes longer = good;
    longer.push_back(0);
    EXPECT_THAT(errorOf<Error>([&] { SealedBlob::parse(longer, "blob"); }),
                HasSubstr("left over"));
}

TEST_F(SealingTest, ErrorsHaveTheTpmsWords)
{
    const std::string text = errorOf<Error>([&] {
        trust::check(Esys_PCR_Reset(tpm->get(), ESYS_TR_PCR0, ESYS_TR_PASSWORD,
                                    ESYS_TR_NONE, ESYS_TR_NONE),
                     "cannot reset PCR 0");
    });
    EXPECT_THAT(text, AllOf(HasSubstr("cannot reset PCR 0: "),
                            HasSubstr("bad locality"), HasSubstr("0x907")));
    EXPECT_THAT(errorOf<Error>([] { Tpm missing("swtpm:path=/nowhere"); }),
                HasSubstr("cannot reach the TPM at swtpm:path=/nowhere"));
}

/** Everything that goes between us and the TPM, as a listener has it. */
class BusTest : public SealingTest
{
  protected:
    Bytes recorded(const std::function<void(const Tpm&)>& what)
    {
        tpm.reset();
        const std::filesystem::path file = swtpm.directory() / "bus.pcap";
        std::filesystem::remove(file);
        ::setenv("TCTI_PCAP_FILE", file.c_str(), 1);
        {
            const Tpm tapped("pcap:" + swtpm.tcti());
            what(tapped);
        }
        ::unsetenv("TCTI_PCAP_FILE");
        connect();
        return readFile(file, 64U << 20);
    }

    static bool contains(const Bytes& all, ByteView part)
    {
        return std::search(all.begin(), all.end(), part.begin(), part.end()) !=
               all.end();
    }

    /** Whether some 32 bytes in there are the key of the blob. */
    static bool opens(const Bytes& bus, const SealedBlob& blob)
    {
        const Bytes header = blob.header();
        for (std::size_t at = 0; at + 32 <= bus.size(); ++at)
        {
            try
            {
                gcmOpen(Secret(ByteView(bus).subspan(at, 32)), header, blob.box,
                        "blob");
                return true;
            }
            catch (const Refused&)
            {}
        }
        return false;
    }
};

TEST_F(BusTest, ListenerDoesNotLearnTheSecret)
{
    const Bytes bus = recorded([&](const Tpm& tapped) {
        EXPECT_EQ(textOf(unseal(tapped, blob, policyKey, {clean})), theSecret);
    });
    // It does listen: the encrypted object passed by.
    EXPECT_TRUE(contains(bus, blob.privatePart));
    EXPECT_FALSE(opens(bus, blob));

    SealedBlob made;
    const Bytes sealing = recorded([&](const Tpm& tapped) {
        made = seal(tapped, policyKey, "clean", secretOf(theSecret));
    });
    EXPECT_TRUE(contains(sealing, made.unique));
    EXPECT_FALSE(opens(sealing, made));
}

/** The same commands without encryption: shows that the listener hears. */
TEST_F(BusTest, ListenerWouldLearnItFromPlainSessions)
{
    const Secret inner = Secret::random(32);
    SealedBlob plain = blob;
    plain.box = gcmSeal(inner, blob.header(), secretOf(theSecret).view());
    const Bytes bus = recorded([&](const Tpm& tapped) {
        const Object storage = storageKey(tapped);
        const Session session(tapped, storage);
        TPM2B_PUBLIC wanted{};
        wanted.publicArea.type = TPM2_ALG_KEYEDHASH;
        wanted.publicArea.nameAlg = TPM2_ALG_SHA256;
        wanted.publicArea.objectAttributes =
            TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT |
            TPMA_OBJECT_USERWITHAUTH | TPMA_OBJECT_NODA;
        wanted.publicArea.parameters.keyedHashDetail.scheme.scheme =
            TPM2_ALG_NULL;
        TPM2B_SENSITIVE_CREATE sensitive{};
        sensitive.sensitive.data.size = 32;
        std::copy(inner.view().begin(), inner.view().end(),
                  sensitive.sensitive.data.buffer);
        const TPM2B_DATA outside{};
        const TPML_PCR_SELECTION pcrs{};
        TPM2B_PRIVATE* privatePart = nullptr;
        TPM2B_PUBLIC* publicPart = nullptr;
        trust::check(Esys_Create(tapped.get(), storage.get(), session.plain(),
                                 ESYS_TR_NONE, ESYS_TR_NONE, &sensitive,
                                 &wanted, &outside, &pcrs, &privatePart,
                                 &publicPart, nullptr, nullptr, nullptr),
                     "create");
        Esys_Free(privatePart);
        Esys_Free(publicPart);
    });
    EXPECT_TRUE(opens(bus, plain));
}

TEST_F(BusTest, ListenerDoesNotLearnTheAuthorizations)
{
    const Authorizations values = Authorizations::random();
    const Bytes bus = recorded([&](const Tpm& tapped) {
        harden(tapped, values);
        raiseGeneration(tapped, values.owner, 1);
    });
    EXPECT_GT(bus.size(), 1000U);
    for (const Secret* part :
         {&values.owner, &values.endorsement, &values.lockout})
    {
        EXPECT_FALSE(contains(bus, part->view()));
    }
}

TEST_F(BusTest, ListenerWouldLearnAnAuthorizationFromAPassword)
{
    const Authorizations values = Authorizations::random();
    const Bytes bus = recorded([&](const Tpm& tapped) {
        TPM2B_AUTH auth{};
        auth.size = Authorizations::size;
        std::copy(values.owner.view().begin(), values.owner.view().end(),
                  auth.buffer);
        trust::check(Esys_HierarchyChangeAuth(tapped.get(), ESYS_TR_RH_OWNER,
                                              ESYS_TR_PASSWORD, ESYS_TR_NONE,
                                              ESYS_TR_NONE, &auth),
                     "owner");
    });
    EXPECT_TRUE(contains(bus, values.owner.view()));
}

} // namespace
} // namespace airlock::trust
