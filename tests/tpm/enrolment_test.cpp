#include "tests/tpm/tpm_fixture.hpp"
#include "trust/enroll.hpp"

namespace airlock::trust
{
namespace
{

using test::errorOf;
using testing::HasSubstr;
using testing::Not;

class EnrolmentTest : public test::TpmTest
{
  protected:
    TSS2_RC clearBy(ESYS_TR who)
    {
        return Esys_Clear(tpm->get(), who, ESYS_TR_PASSWORD, ESYS_TR_NONE,
                          ESYS_TR_NONE);
    }

    /** As somebody without authorization. */
    bool outsiderCan(std::vector<std::string> argv)
    {
        tpm.reset();
        const bool can = swtpm.toolAccepts(std::move(argv));
        connect();
        return can;
    }

    Authorizations values = Authorizations::random();
};

TEST_F(EnrolmentTest, CanBeRepeated)
{
    const Machine first = enroll();
    const Machine again = enroll();
    EXPECT_EQ(first.toJson(), again.toJson());
    harden(*tpm, values);
    EXPECT_TRUE(hardening(*tpm).all());
    harden(*tpm, values);
    EXPECT_EQ(createKeys(*tpm, EndorsementType::eccP256, &values).toJson(),
              first.toJson());
    EXPECT_EQ(generation(*tpm), 0U);
}

TEST_F(EnrolmentTest, CompletesWhatAPowerCutLeft)
{
    const Machine first = enroll();
    // The attestation key and the authorizations were not there yet.
    {
        const Object key = Object::persistent(*tpm, attestationHandle);
        ESYS_TR gone = ESYS_TR_NONE;
        check(Esys_EvictControl(tpm->get(), ESYS_TR_RH_OWNER, key.get(),
                                ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE,
                                attestationHandle, &gone),
              "evict");
    }
    EXPECT_THROW(readMachine(*tpm), NotEnrolled);
    TPM2B_AUTH owner{};
    owner.size = Authorizations::size;
    std::copy(values.owner.view().begin(), values.owner.view().end(),
              owner.buffer);
    check(Esys_HierarchyChangeAuth(tpm->get(), ESYS_TR_RH_OWNER,
                                   ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE,
                                   &owner),
          "owner");
    const Machine second = createKeys(*tpm, EndorsementType::eccP256, &values);
    EXPECT_EQ(second.storageName, first.storageName);
    EXPECT_EQ(second.endorsement, first.endorsement);
    EXPECT_NE(second.attestation, first.attestation);
    harden(*tpm, values);
    EXPECT_TRUE(hardening(*tpm).all());
}

/** The oldest generation, and which blob is in force. */
TEST_F(EnrolmentTest, WithoutAuthorizationNobodyWritesTheIndices)
{
    enroll();
    pin(*tpm, Secret(), seal(*tpm, policyKey, "clean", test::secretOf("x")));
    auto write = [&](const std::string& index, std::size_t size,
                     const std::string& as) {
        writeFileAtomic(swtpm.directory() / "data", Bytes(size, 0));
        return outsiderCan({"tpm2_nvwrite", index, "-C", as, "-i", "data"});
    };
    // While nothing is set, anybody does.
    EXPECT_TRUE(write("0x018a1001", 8, "o"));
    EXPECT_TRUE(write("0x018a1002", 32, "o"));
    harden(*tpm, values);
    EXPECT_FALSE(write("0x018a1001", 8, "o"));
    EXPECT_FALSE(write("0x018a1002", 32, "o"));
    // Nor with the index's own authorization, which is empty: it reads only.
    EXPECT_FALSE(write("0x018a1001", 8, "0x018a1001"));
    EXPECT_FALSE(write("0x018a1002", 32, "0x018a1002"));
    EXPECT_TRUE(outsiderCan({"tpm2_nvread", "0x018a1002"}));
}

TEST_F(EnrolmentTest, WithoutAuthorizationNothingCanBeTakenAway)
{
    enroll();
    harden(*tpm, values);
    EXPECT_NE(clearBy(ESYS_TR_RH_LOCKOUT), TSS2_RC_SUCCESS);
    {
        // Nor over the connection that set them: ESYS has forgotten them.
        const Object key = Object::persistent(*tpm, storageHandle);
        ESYS_TR gone = ESYS_TR_NONE;
        EXPECT_NE(Esys_EvictControl(tpm->get(), ESYS_TR_RH_OWNER, key.get(),
                                    ESYS_TR_PASSWORD, ESYS_TR_NONE,
                                    ESYS_TR_NONE, storageHandle, &gone),
                  TSS2_RC_SUCCESS);
    }
    // The same commands work on a TPM that nobody has hardened.
    test::Swtpm open;
    {
        const Tpm other(open.tcti());
        createKeys(other, EndorsementType::eccP256, nullptr);
    }
    for (const std::vector<std::string>& command :
         {std::vector<std::string>{"tpm2_createprimary", "-C", "o"},
          {"tpm2_flushcontext", "-t"},
          {"tpm2_createprimary", "-C", "e"},
          {"tpm2_flushcontext", "-t"},
          {"tpm2_evictcontrol", "-c", "0x810a1001"},
          {"tpm2_nvundefine", "0x018a1001"},
          {"tpm2_clear"}})
    {
        EXPECT_TRUE(open.toolAccepts(command)) << command.front();
        if (command.front() != "tpm2_flushcontext")
        {
            EXPECT_FALSE(outsiderCan(command)) << command.front();
        }
    }
    // Reading what is public is no harm.
    EXPECT_TRUE(outsiderCan({"tpm2_nvread", "0x018a1001"}));
    EXPECT_THROW(raiseGeneration(*tpm, Secret(), 1), TpmError);
    EXPECT_THROW(raiseGeneration(*tpm, values.endorsement, 1), TpmError);
    raiseGeneration(*tpm, values.owner, 1);
    EXPECT_EQ(generation(*tpm), 1U);
    EXPECT_EQ(hardening(*tpm).all(), true);
}

TEST_F(EnrolmentTest, ClearIsForbiddenEvenWithTheLockoutAuthorization)
{
    enroll();
    harden(*tpm, values);
    const std::string lockout = "hex:" + toHex(values.lockout.view());
    EXPECT_FALSE(outsiderCan({"tpm2_clear", lockout}));
    // Only the platform hierarchy, which firmware closes before it starts an
    // image, can allow it again; a decommissioned TPM then says what it is.
    EXPECT_TRUE(outsiderCan({"tpm2_clearcontrol", "-C", "p", "c"}));
    EXPECT_TRUE(outsiderCan({"tpm2_clear", lockout}));
    EXPECT_THROW(readMachine(*tpm), NotEnrolled);
}

TEST_F(EnrolmentTest, AttestationGoesOnAfterwards)
{
    const Machine machine = enroll();
    harden(*tpm, values);
    Candidate candidate(machine, {"", {sha256(machine.endorsement)}});
    EXPECT_THROW(activateCredential(*tpm, candidate.credential(), Secret()),
                 TpmError);
    candidate.requireAnswer(
        activateCredential(*tpm, candidate.credential(), values.endorsement)
            .view());
    QuoteExpectation expected;
    expected.pcrs = tpm->readPcrs(selection);
    verifyQuote(AttestationKey::parse(machine.attestation, "key"),
                makeQuote(*tpm, selection, expected.extraData), expected);
}

TEST_F(EnrolmentTest, AuthorizationsSurviveBeingSealed)
{
    const Authorizations back = Authorizations::split(values.join());
    EXPECT_TRUE(back.owner.equals(values.owner.view()));
    EXPECT_TRUE(back.endorsement.equals(values.endorsement.view()));
    EXPECT_TRUE(back.lockout.equals(values.lockout.view()));
    EXPECT_THROW(Authorizations::split(Secret(95)), Refused);
}

/** A place of ours, and what is said of a foreign key in it. */
struct Place
{
    const char* handle;
    const char* beforeEnrolment;
    const char* afterwards;
};

/** Somebody puts a key there that may leave its TPM. */
class StrangerTest : public EnrolmentTest,
                     public testing::WithParamInterface<Place>
{
  protected:
    void putForeignKey()
    {
        tpm.reset();
        swtpm.tool({"tpm2_createprimary", "-C", "o", "-G", "ecc", "-a",
                    "restricted|decrypt|sensitivedataorigin|userwithauth", "-c",
                    "p.ctx"});
        swtpm.tool({"tpm2_evictcontrol", "-c", "p.ctx", GetParam().handle});
        swtpm.tool({"tpm2_flushcontext", "-t"});
        connect();
    }
};

TEST_P(StrangerTest, WhoWasHereBeforeUsIsNoticed)
{
    putForeignKey();
    EXPECT_THAT(errorOf<Error>([&] { enroll(); }),
                HasSubstr(GetParam().beforeEnrolment));
}

TEST_P(StrangerTest, WhoReplacesOurKeyIsNoticed)
{
    enroll();
    tpm.reset();
    swtpm.tool({"tpm2_evictcontrol", "-c", GetParam().handle});
    putForeignKey();
    EXPECT_THAT(errorOf([&] { readMachine(*tpm); }),
                HasSubstr(GetParam().afterwards));
}

INSTANTIATE_TEST_SUITE_P(
    EachPlace, StrangerTest,
    testing::Values(
        Place{"0x810a1001",
              "storage key of the TPM: is no key that stays in its TPM",
              "storage key of the TPM: is no key that stays in its TPM"},
        // Its own TPM does not let it be used as one.
        Place{"0x810a1002", "a policy check failed",
              "endorsement key of the TPM: is no key that stays in its TPM"},
        Place{"0x810a1003",
              "attestation key of the TPM: the attestation key is not fixedtpm",
              "attestation key of the TPM: the attestation key is not "
              "fixedtpm"}),
    [](const auto& place) { return std::string(place.param.handle); });

/** A secret that is sealed, with the power going at any time. Nothing is in
 * force yet. */
class FirstSealTest : public EnrolmentTest
{
  protected:
    FirstSealTest()
    {
        enroll();
        boot("clean 1");
        policy.policies = {approve("clean 1")};
    }

    std::string inForce()
    {
        return test::textOf(
            unseal(*tpm, loadPinned(*tpm, path), policy.key, policy.policies));
    }

    /** The TPM has noted it, its file has not its name yet. */
    SealedBlob noted(std::string_view text)
    {
        SealedBlob blob = seal(*tpm, policyKey, "clean", test::secretOf(text));
        writeBlob(next, blob);
        pin(*tpm, Secret(), blob);
        return blob;
    }

    /** Another one is begun, and the TPM does not note it: it refuses an
     * authorization that is not set. */
    void breakOff()
    {
        EXPECT_THROW(storePinned(*tpm, path, policy, values.owner,
                                 test::secretOf("another")),
                     TpmError);
    }

    std::filesystem::path path = swtpm.directory() / "mac";
    std::filesystem::path next = swtpm.directory() / "mac.next";
    PolicySet policy{policyKey, "clean", {}};
};

/** The same with one that is replaced. */
class RotationTest : public FirstSealTest
{
  protected:
    RotationTest()
    {
        storePinned(*tpm, path, policy, Secret(), test::secretOf("first"));
    }
};

TEST_F(RotationTest, OneIsInForceAtEachMoment)
{
    EXPECT_EQ(inForce(), "first");
    const SealedBlob blob =
        seal(*tpm, policyKey, "clean", test::secretOf("second"));
    writeBlob(next, blob); // cut here
    EXPECT_EQ(inForce(), "first");
    pin(*tpm, Secret(), blob); // and here
    EXPECT_EQ(inForce(), "second");
    // The next rotation finds what the one before left.
    storePinned(*tpm, path, policy, Secret(), test::secretOf("third"));
    EXPECT_EQ(inForce(), "third");
    EXPECT_FALSE(std::filesystem::exists(next));
}

TEST_F(RotationTest, InterruptedOneIsNotLostByTheNext)
{
    noted("second");
    breakOff();
    EXPECT_EQ(inForce(), "second");
}

TEST_F(FirstSealTest, CanBeRepeatedWhereverItWasCut)
{
    // Before the TPM noted it; a disk may have kept a part of it only.
    for (const Bytes& left :
         {seal(*tpm, policyKey, "clean", test::secretOf("lost")).marshal(),
          Bytes{'A', 'I', 'R', 'L'}, Bytes{}})
    {
        std::filesystem::remove(path);
        writeFileAtomic(next, left);
        EXPECT_THAT(errorOf<Error>([&] { loadPinned(*tpm, path); }), Not(""));
        storePinned(*tpm, path, policy, Secret(), test::secretOf("kept"));
        EXPECT_EQ(inForce(), "kept");
        EXPECT_FALSE(std::filesystem::exists(next));
    }
}

TEST_F(FirstSealTest, IsNotLostWhenItWasNotedOnly)
{
    const SealedBlob blob = noted("noted");
    breakOff();
    EXPECT_EQ(loadPinned(*tpm, path).marshal(), blob.marshal());
}

TEST_F(RotationTest, OldHalfAndMissingFilesAreRefused)
{
    std::filesystem::copy(path, swtpm.directory() / "old");
    storePinned(*tpm, path, policy, Secret(), test::secretOf("second"));
    std::filesystem::rename(swtpm.directory() / "old", path);
    EXPECT_THAT(errorOf<Error>([&] { inForce(); }),
                HasSubstr("mac is not the one that is in force"));
    writeFileAtomic(path, std::string_view("AIRLSEAL"));
    EXPECT_THROW(inForce(), Refused);
    std::filesystem::remove(path);
    EXPECT_THAT(errorOf<Error>([&] { inForce(); }), HasSubstr("is missing"));
}

} // namespace
} // namespace airlock::trust
