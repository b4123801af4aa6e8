#include "bootsrv/machine/sealed_identity.hpp"
#include "tests/tpm/tpm_fixture.hpp"

#include <fcntl.h>
#include <unistd.h>

namespace airlock::machine
{
namespace
{

using test::errorOf;
using testing::HasSubstr;

/** A boot host with a TPM and a seal partition, that has started once. */
class IdentityTest : public test::TpmTest
{
  protected:
    IdentityTest()
    {
        UniqueFd disk = openFile(home.path() / "seal", O_RDWR | O_CREAT);
        EXPECT_EQ(::ftruncate(disk.get(), SealStore::size), 0);
        start();
        SealRecord record;
        noteTarget(*tpm, store, record);
        record.policies = {approve("clean 1")};
        record.request = signedRequest(siteKey, *record.target);
        store.write(record);
    }

    void start() { boot("clean 1"); }

    static EnrolmentRequest plainRequest(std::uint8_t root = 1)
    {
        EnrolmentRequest out;
        out.name = "boot1";
        out.addressRoot = Secret(ByteView(Bytes(32, root)));
        out.site = WipedJson(Json{{"listen", "0.0.0.0"}});
        return out;
    }

    static EnrolmentRequest signedRequest(const trust::Key& key,
                                          const Digest& target,
                                          std::uint8_t root = 1)
    {
        EnrolmentRequest out = plainRequest(root);
        out.sign(key, 1, target);
        return out;
    }

    void enrol()
    {
        const auto shared = std::make_shared<MachineTpm>(
            std::shared_ptr<const trust::Tpm>(&*tpm, [](const auto*) {}));
        enrollIdentity(shared, store, policyKey,
                       [this](const auto&, const auto&, const auto&,
                              const auto&) { steps++; });
    }

    /** With this in the place of the request. */
    std::string enrolWith(EnrolmentRequest request)
    {
        SealRecord record = store.read();
        record.request = std::move(request);
        store.write(record);
        return errorOf<Error>([&] { enrol(); });
    }

    /** First bytes of both secrets; the root's is what the request said. */
    std::pair<int, Bytes> unsealed()
    {
        const SealedIdentity out =
            unsealIdentity(*tpm, store.read(), policyKey);
        return {out.addressRoot.view()[0],
                Bytes(out.keptKey.view().begin(), out.keptKey.view().end())};
    }

    TempDirectory home;
    SealStore store{home.path() / "seal"};
    int steps = 0;
};

TEST_F(IdentityTest, SignedRequestEnrolsOnce)
{
    enrol();
    EXPECT_EQ(steps, 1);
    EXPECT_FALSE(store.read().request);
    EXPECT_EQ(store.read().target, enrolmentTarget(*tpm));
    EXPECT_EQ(unsealed().first, 1);
}

TEST_F(IdentityTest, RequestCountsOnlyAsItWasSigned)
{
    const Digest target = *store.read().target;
    const auto refused = [&](EnrolmentRequest request) {
        const std::string why = enrolWith(std::move(request));
        EXPECT_THAT(why, HasSubstr("was not signed"));
    };
    refused(plainRequest());
    refused(signedRequest(trust::makeKey(), target));
    EnrolmentRequest changed = signedRequest(siteKey, target);
    changed.name = "boot2";
    refused(std::move(changed));
    changed = signedRequest(siteKey, target);
    changed.addressRoot = Secret(32);
    refused(std::move(changed));
    changed = signedRequest(siteKey, target);
    changed.site.json["listen"] = "192.0.2.1";
    refused(std::move(changed));
    changed = signedRequest(siteKey, target);
    changed.generation = 2;
    refused(std::move(changed));
    changed = signedRequest(siteKey, Digest{});
    changed.target = target;
    refused(std::move(changed));
    // A signature of the site's that is another one's.
    changed = signedRequest(siteKey, target);
    changed.signature = store.read().policies.at(0).signature;
    refused(std::move(changed));
    // Nothing was done.
    EXPECT_TRUE(trust::hardening(*tpm).none());
    EXPECT_EQ(steps, 0);
    EXPECT_EQ(enrolWith(signedRequest(siteKey, target)), "");
}

TEST_F(IdentityTest, RequestIsForOneTpm)
{
    test::Swtpm other;
    trust::Tpm otherTpm(other.tcti());
    SealRecord record;
    TempDirectory place;
    UniqueFd disk = openFile(place.path() / "seal", O_RDWR | O_CREAT);
    ASSERT_EQ(::ftruncate(disk.get(), SealStore::size), 0);
    noteTarget(otherTpm, SealStore(place.path() / "seal"), record);
    EXPECT_THAT(enrolWith(signedRequest(siteKey, *record.target)),
                HasSubstr("is for another TPM"));
    EXPECT_EQ(steps, 0);
}

TEST_F(IdentityTest, RequestOfAnotherGenerationThanThePolicyIsRefused)
{
    EnrolmentRequest request = plainRequest();
    request.sign(siteKey, 2, *store.read().target);
    EXPECT_THAT(enrolWith(std::move(request)),
                HasSubstr("another generation than the request"));
    EXPECT_EQ(steps, 0);
}

TEST_F(IdentityTest, EnrolledMachineKeepsItsIdentity)
{
    const Digest target = *store.read().target;
    enrol();
    const auto identity = unsealed();
    EnrolmentRequest requests[] = {
        plainRequest(9), signedRequest(trust::makeKey(), *store.read().target),
        // The one that it was enrolled by, from somebody's copy of the disk.
        signedRequest(siteKey, target)};
    for (EnrolmentRequest& request : requests)
    {
        start();
        EXPECT_NE(enrolWith(std::move(request)), "");
        SealRecord record = store.read();
        EXPECT_NE(dropUnwanted(*tpm, store, record, policyKey), "");
        EXPECT_FALSE(store.read().request);
        EXPECT_EQ(unsealed(), identity);
    }
    EXPECT_EQ(steps, 1);
}

TEST_F(IdentityTest, SiteMayEnrolAgain)
{
    enrol();
    const auto before = unsealed();
    start();
    SealRecord record = store.read();
    record.request = signedRequest(siteKey, *record.target, 7);
    store.write(record);
    EXPECT_EQ(dropUnwanted(*tpm, store, record, policyKey), "");
    enrol();
    const auto after = unsealed();
    EXPECT_EQ(after.first, 7);
    EXPECT_NE(after.second, before.second);
}

TEST_F(IdentityTest, EnrolmentThatTheTpmHasNotedIsFinished)
{
    const EnrolmentRequest request =
        signedRequest(siteKey, *store.read().target);
    enrol();
    const auto identity = unsealed();
    // The disk as it was before the last of all writes.
    SealRecord record = store.read();
    record.next = std::move(record.blob);
    record.blob.reset();
    record.request = signedRequest(siteKey, request.target);
    store.write(record);
    start();
    EXPECT_EQ(dropUnwanted(*tpm, store, record, policyKey), "");
    enrol();
    EXPECT_EQ(steps, 1);
    EXPECT_FALSE(store.read().request);
    EXPECT_EQ(unsealed(), identity);
}

/** An enrolled machine whose site wants it to have a new root. */
class RotationTest : public IdentityTest
{
  protected:
    RotationTest()
    {
        enrol();
        start();
        keptKey = unsealed().second;
        start();
    }

    void ask(const trust::Key& key)
    {
        leave(RotationRequest::sign(key, *store.read().target));
    }
    void leave(RotationRequest request)
    {
        SealRecord record = store.read();
        record.rotation = std::move(request);
        store.write(record);
    }

    std::string rotate(const MayRotate& may = {})
    {
        SealRecord record = store.read();
        return rotateRoot(*tpm, store, record, policyKey, may);
    }

    /** That the identity is what it was, but for the root. */
    void expectRoots(const std::function<void(const SealedIdentity&)>& check)
    {
        const SealedIdentity now =
            unsealIdentity(*tpm, store.read(), policyKey);
        EXPECT_TRUE(now.keptKey.equals(keptKey));
        check(now);
        start();
    }

    void expectOldRoot()
    {
        expectRoots([](const SealedIdentity& now) {
            EXPECT_TRUE(now.addressRoot.equals(Bytes(32, 1)));
            EXPECT_TRUE(now.previousRoot.empty());
        });
    }

    void expectNewRoot()
    {
        expectRoots([](const SealedIdentity& now) {
            EXPECT_FALSE(now.addressRoot.equals(Bytes(32, 1)));
            EXPECT_TRUE(now.previousRoot.equals(Bytes(32, 1)));
        });
    }

    Bytes keptKey;
};

TEST_F(RotationTest, SignedRequestGivesOneNewRoot)
{
    EXPECT_EQ(rotate(), "");
    expectOldRoot();
    ask(siteKey);
    const RotationRequest request = *store.read().rotation;
    EXPECT_EQ(rotate(), "");
    EXPECT_FALSE(store.read().rotation);
    EXPECT_EQ(store.read().target, enrolmentTarget(*tpm));
    expectNewRoot();
    // Somebody had a copy of it.
    leave(request);
    EXPECT_THAT(rotate(), HasSubstr("was followed before"));
    EXPECT_FALSE(store.read().rotation);
    expectNewRoot();
}

TEST_F(RotationTest, WhatTheSiteDidNotSignDoesNotCount)
{
    ask(trust::makeKey());
    EXPECT_THAT(rotate(), HasSubstr("was not signed"));
    EXPECT_FALSE(store.read().rotation);
    leave(RotationRequest::sign(siteKey, Digest{1}));
    EXPECT_THAT(rotate(), HasSubstr("another TPM"));
    // Nor what it signed for something else.
    const Digest target = *store.read().target;
    leave({target, signedRequest(siteKey, target).signature});
    EXPECT_THAT(rotate(), HasSubstr("was not signed"));
    leave({target, store.read().policies.at(0).signature});
    EXPECT_THAT(rotate(), HasSubstr("was not signed"));
    expectOldRoot();
}

TEST_F(RotationTest, WaitsUntilTheSwitchHasTheRootBefore)
{
    ask(siteKey);
    EXPECT_THAT(
        rotate([](const trust::Tpm&, const SealedIdentity&) { return false; }),
        HasSubstr("it waits"));
    EXPECT_TRUE(store.read().rotation);
    EXPECT_EQ(rotate([](const trust::Tpm&, const SealedIdentity& now) {
                  return now.addressRoot.equals(Bytes(32, 1));
              }),
              "");
    expectNewRoot();
}

TEST_F(RotationTest, PowerCutBeforeTheTpmHasNotedItLeavesTheOldRoot)
{
    ask(siteKey);
    SealRecord record = store.read();
    record.next = trust::seal(*tpm, policyKey, cleanRef, Secret::random(96));
    store.write(record);
    expectOldRoot();
    // And the next start goes through with it.
    EXPECT_EQ(rotate(), "");
    EXPECT_FALSE(store.read().next);
    expectNewRoot();
}

TEST_F(RotationTest, PowerCutAfterTheTpmHasNotedItLeavesTheNewRoot)
{
    ask(siteKey);
    SealRecord before = store.read();
    EXPECT_EQ(rotate(), "");
    // The disk as it was before the last of all writes.
    before.next = store.read().blob;
    store.write(before);
    expectNewRoot();
    EXPECT_EQ(rotate(), "");
    EXPECT_FALSE(store.read().rotation);
    EXPECT_FALSE(store.read().next);
    expectNewRoot();
}

TEST_F(RotationTest, CopyOfWhatIsInForceIsNoNewRoot)
{
    ask(siteKey);
    SealRecord record = store.read();
    record.next = record.blob;
    store.write(record);
    EXPECT_EQ(rotate(), "");
    EXPECT_FALSE(store.read().rotation);
    expectNewRoot();
}

TEST_F(RotationTest, AnotherStateGetsNothing)
{
    ask(siteKey);
    boot("dirty");
    EXPECT_THAT(rotate(), HasSubstr("no policy fits"));
    EXPECT_TRUE(store.read().rotation);
    start();
    expectOldRoot();
}

} // namespace
} // namespace airlock::machine
