#include "trust/keys.hpp"

#include "trust/esys_types.hpp"
#include "trust/nv.hpp"

namespace airlock::trust
{

namespace
{

constexpr TPMA_OBJECT primaryAttributes =
    TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT |
    TPMA_OBJECT_SENSITIVEDATAORIGIN | TPMA_OBJECT_RESTRICTED |
    TPMA_OBJECT_DECRYPT;
constexpr TPM2_HANDLE rsaCertificateIndex = 0x01c00002;
constexpr TPM2_HANDLE eccCertificateIndex = 0x01c0000a;
constexpr std::size_t maxCertificate = 4096;

TPM2B_PUBLIC eccTemplate(TPMA_OBJECT attributes)
{
    TPM2B_PUBLIC out{};
    TPMT_PUBLIC& area = out.publicArea;
    area.type = TPM2_ALG_ECC;
    area.nameAlg = TPM2_ALG_SHA256;
    area.objectAttributes = attributes;
    TPMS_ECC_PARMS& ecc = area.parameters.eccDetail;
    ecc.symmetric.algorithm = TPM2_ALG_AES;
    ecc.symmetric.keyBits.aes = 128;
    ecc.symmetric.mode.aes = TPM2_ALG_CFB;
    ecc.scheme.scheme = TPM2_ALG_NULL;
    ecc.curveID = TPM2_ECC_NIST_P256;
    ecc.kdf.scheme = TPM2_ALG_NULL;
    return out;
}

TPM2B_PUBLIC storageTemplate()
{
    return eccTemplate(primaryAttributes | TPMA_OBJECT_USERWITHAUTH |
                       TPMA_OBJECT_NODA);
}

TPM2B_PUBLIC endorsementTemplate(EndorsementType type)
{
    TPM2B_PUBLIC out =
        eccTemplate(primaryAttributes | TPMA_OBJECT_ADMINWITHPOLICY);
    TPMT_PUBLIC& area = out.publicArea;
    area.authPolicy = sized<TPM2B_DIGEST>(endorsementPolicy);
    if (type == EndorsementType::eccP256)
    {
        area.unique.ecc.x.size = 32; // zeros
        area.unique.ecc.y.size = 32;
        return out;
    }
    area.type = TPM2_ALG_RSA;
    area.parameters = {};
    TPMS_RSA_PARMS& rsa = area.parameters.rsaDetail;
    rsa.symmetric.algorithm = TPM2_ALG_AES;
    rsa.symmetric.keyBits.aes = 128;
    rsa.symmetric.mode.aes = TPM2_ALG_CFB;
    rsa.scheme.scheme = TPM2_ALG_NULL;
    rsa.keyBits = 2048;
    area.unique = {};
    area.unique.rsa.size = 256; // zeros
    return out;
}

TPM2B_PUBLIC attestationTemplate()
{
    TPM2B_PUBLIC out = eccTemplate(
        TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT |
        TPMA_OBJECT_SENSITIVEDATAORIGIN | TPMA_OBJECT_USERWITHAUTH |
        TPMA_OBJECT_NODA | TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_SIGN_ENCRYPT);
    TPMS_ECC_PARMS& ecc = out.publicArea.parameters.eccDetail;
    ecc.symmetric = {};
    ecc.symmetric.algorithm = TPM2_ALG_NULL;
    ecc.scheme.scheme = TPM2_ALG_ECDSA;
    ecc.scheme.details.ecdsa.hashAlg = TPM2_ALG_SHA256;
    return out;
}

Object createPrimary(const Tpm& tpm, ESYS_TR hierarchy, ESYS_TR session,
                     const TPM2B_PUBLIC& wanted)
{
    const TPM2B_SENSITIVE_CREATE sensitive{};
    const TPM2B_DATA outside{};
    const TPML_PCR_SELECTION pcrs{};
    ESYS_TR out = ESYS_TR_NONE;
    check(Esys_CreatePrimary(tpm.get(), hierarchy, session, ESYS_TR_NONE,
                             ESYS_TR_NONE, &sensitive, &wanted, &outside, &pcrs,
                             &out, nullptr, nullptr, nullptr, nullptr),
          "cannot make a primary key");
    return Object::transient(tpm, out);
}

/** A key of no lasting hierarchy, to salt the sessions that make the others:
 * keeps the authorizations from who only listens. */
Object temporarySaltKey(const Tpm& tpm)
{
    return createPrimary(tpm, ESYS_TR_RH_NULL, ESYS_TR_PASSWORD,
                         storageTemplate());
}

void makePersistent(const Tpm& tpm, const Session& session,
                    const Object& object, TPM2_HANDLE handle)
{
    ESYS_TR out = ESYS_TR_NONE;
    check(Esys_EvictControl(tpm.get(), ESYS_TR_RH_OWNER, object.get(),
                            session.plain(), ESYS_TR_NONE, ESYS_TR_NONE, handle,
                            &out),
          "cannot keep a key in the TPM");
    Esys_TR_Close(tpm.get(), &out);
}

/** A session that may use the EK. The authorization of the endorsement
 * hierarchy has to be in force. */
Session endorsementSession(const Tpm& tpm, const Object& saltKey,
                           const Session& authorization)
{
    Session out(tpm, saltKey, Session::Kind::policy);
    check(Esys_PolicySecret(tpm.get(), ESYS_TR_RH_ENDORSEMENT, out.plain(),
                            authorization.plain(), ESYS_TR_NONE, ESYS_TR_NONE,
                            nullptr, nullptr, nullptr, 0, nullptr, nullptr),
          "cannot get at the endorsement key");
    return out;
}

void createAttestationKey(const Tpm& tpm, const Object& saltKey,
                          const Session& authorization)
{
    const Object endorsement = Object::persistent(tpm, endorsementHandle);
    const TPM2B_PUBLIC wanted = attestationTemplate();
    const TPM2B_SENSITIVE_CREATE sensitive{};
    const TPM2B_DATA outside{};
    const TPML_PCR_SELECTION pcrs{};
    TPM2B_PRIVATE* privatePart = nullptr;
    TPM2B_PUBLIC* publicPart = nullptr;
    {
        Session session = endorsementSession(tpm, saltKey, authorization);
        check(Esys_Create(tpm.get(), endorsement.get(), session.encryptBoth(),
                          ESYS_TR_NONE, ESYS_TR_NONE, &sensitive, &wanted,
                          &outside, &pcrs, &privatePart, &publicPart, nullptr,
                          nullptr, nullptr),
              "cannot make the attestation key");
    }
    TssPtr<TPM2B_PRIVATE> ownedPrivate(privatePart);
    TssPtr<TPM2B_PUBLIC> ownedPublic(publicPart);
    // A policy session is good for one command.
    Session session = endorsementSession(tpm, saltKey, authorization);
    ESYS_TR out = ESYS_TR_NONE;
    check(Esys_Load(tpm.get(), endorsement.get(), session.encryptCommand(),
                    ESYS_TR_NONE, ESYS_TR_NONE, privatePart, publicPart, &out),
          "cannot load the attestation key");
    makePersistent(tpm, authorization, Object::transient(tpm, out),
                   attestationHandle);
}

void writeGeneration(const Tpm& tpm, const Session& session,
                     std::uint64_t value)
{
    ByteWriter data;
    data.be64(value);
    writeIndex(tpm, session, generationIndex, data.data());
}

Bytes publicArea(const Tpm& tpm, TPM2_HANDLE handle)
{
    const Object object = Object::persistent(tpm, handle);
    TPM2B_PUBLIC* area = nullptr;
    check(Esys_ReadPublic(tpm.get(), object.get(), ESYS_TR_NONE, ESYS_TR_NONE,
                          ESYS_TR_NONE, &area, nullptr, nullptr),
          "cannot read a public key");
    TssPtr<TPM2B_PUBLIC> owned(area);
    return marshalled<TPMT_PUBLIC>(Tss2_MU_TPMT_PUBLIC_Marshal,
                                   area->publicArea);
}

Bytes readCertificate(const Tpm& tpm, bool rsa)
{
    const TPM2_HANDLE handle = rsa ? rsaCertificateIndex : eccCertificateIndex;
    if (!tpm.has(handle))
    {
        return {};
    }
    const std::size_t size = indexSize(tpm, handle);
    if (size > maxCertificate)
    {
        throw Error(
            fmt::format("the endorsement certificate has {} bytes", size));
    }
    const Object saltKey = storageKey(tpm);
    return readIndex(tpm, Session(tpm, saltKey), handle, size);
}

void setAuthorization(const Tpm& tpm, const Session& session, ESYS_TR hierarchy,
                      const Secret& value)
{
    // ESYS would remember the new value.
    const AuthInScope none(tpm, hierarchy, nullptr);
    TPM2B_AUTH auth = sized<TPM2B_AUTH>(value.view());
    WipeAtEnd wiped(auth);
    check(Esys_HierarchyChangeAuth(tpm.get(), hierarchy,
                                   session.encryptCommand(), ESYS_TR_NONE,
                                   ESYS_TR_NONE, &auth),
          "cannot set an authorization");
}

} // namespace

Authorizations Authorizations::random()
{
    return {Secret::random(size), Secret::random(size), Secret::random(size)};
}

Secret Authorizations::join() const
{
    return Secret::join({&owner, &endorsement, &lockout}, size);
}

Authorizations Authorizations::split(const Secret& joined)
{
    if (joined.size() != 3 * size)
    {
        throw Refused("authorizations", "have another size than written");
    }
    ByteView view = joined.view();
    return {Secret(view.first(size)), Secret(view.subspan(size, size)),
            Secret(view.last(size))};
}

Object storageKey(const Tpm& tpm, std::optional<ByteView> expected)
{
    if (!tpm.has(storageHandle))
    {
        throw NotEnrolled("there is no storage key of Airlock in this TPM: it "
                          "was never enrolled, was cleared, or is another one; "
                          "run airlock-tpm enroll");
    }
    Object out = Object::persistent(tpm, storageHandle);
    if (expected && !equalConstantTime(out.name(), *expected))
    {
        throw Refused("storage key",
                      "is not the one of the enrolment: this is another TPM, "
                      "or it was cleared and enrolled anew");
    }
    return out;
}

Machine createKeys(const Tpm& tpm, EndorsementType type,
                   const Authorizations* authorizations)
{
    const Hardening set = hardening(tpm);
    const auto inForce = [&](bool isSet, const Secret Authorizations::*which) {
        return authorizations && isSet ? &(authorizations->*which) : nullptr;
    };
    const AuthInScope owner(tpm, ESYS_TR_RH_OWNER,
                            inForce(set.ownerSet, &Authorizations::owner));
    const AuthInScope endorsement(
        tpm, ESYS_TR_RH_ENDORSEMENT,
        inForce(set.endorsementSet, &Authorizations::endorsement));
    {
        const Object saltKey = temporarySaltKey(tpm);
        const Session session(tpm, saltKey);
        if (!tpm.has(storageHandle))
        {
            makePersistent(tpm, session,
                           createPrimary(tpm, ESYS_TR_RH_OWNER,
                                         session.encryptBoth(),
                                         storageTemplate()),
                           storageHandle);
        }
        if (!tpm.has(endorsementHandle))
        {
            makePersistent(tpm, session,
                           createPrimary(tpm, ESYS_TR_RH_ENDORSEMENT,
                                         session.encryptBoth(),
                                         endorsementTemplate(type)),
                           endorsementHandle);
        }
        if (!tpm.has(generationIndex))
        {
            defineIndex(tpm, session, generationIndex, 8);
        }
        if (!isWritten(tpm, generationIndex, 8))
        {
            writeGeneration(tpm, session, 0);
        }
    }
    if (!tpm.has(attestationHandle))
    {
        const Object saltKey = storageKey(tpm);
        createAttestationKey(tpm, saltKey, Session(tpm, saltKey));
    }
    return readMachine(tpm);
}

Machine readMachine(const Tpm& tpm)
{
    Machine out;
    out.storageName = storageKey(tpm).name();
    for (TPM2_HANDLE handle : {endorsementHandle, attestationHandle})
    {
        if (!tpm.has(handle))
        {
            throw NotEnrolled(fmt::format("key {:#x} is not in this TPM; run "
                                          "airlock-tpm enroll",
                                          handle));
        }
    }
    // A key that may leave its TPM protects nothing; somebody may have been
    // here before us.
    static_cast<void>(
        parentKey(publicArea(tpm, storageHandle), "storage key of the TPM"));
    out.endorsement = publicArea(tpm, endorsementHandle);
    out.attestation = publicArea(tpm, attestationHandle);
    const wire::Public key =
        endorsementKey(out.endorsement, "endorsement key of the TPM");
    out.endorsementCertificate = readCertificate(tpm, key.type == wire::algRsa);
    static_cast<void>(
        AttestationKey::parse(out.attestation, "attestation key of the TPM"));
    return out;
}

Hardening hardening(const Tpm& tpm)
{
    const std::uint32_t flags = tpm.property(TPM2_PT_PERMANENT);
    return {(flags & TPMA_PERMANENT_OWNERAUTHSET) != 0,
            (flags & TPMA_PERMANENT_ENDORSEMENTAUTHSET) != 0,
            (flags & TPMA_PERMANENT_LOCKOUTAUTHSET) != 0,
            (flags & TPMA_PERMANENT_DISABLECLEAR) != 0};
}

void harden(const Tpm& tpm, const Authorizations& authorizations)
{
    const Object saltKey = storageKey(tpm);
    const Session session(tpm, saltKey);
    const Hardening done = hardening(tpm);
    if (!done.ownerSet)
    {
        setAuthorization(tpm, session, ESYS_TR_RH_OWNER, authorizations.owner);
    }
    if (!done.endorsementSet)
    {
        setAuthorization(tpm, session, ESYS_TR_RH_ENDORSEMENT,
                         authorizations.endorsement);
    }
    if (!done.lockoutSet)
    {
        setAuthorization(tpm, session, ESYS_TR_RH_LOCKOUT,
                         authorizations.lockout);
    }
    const AuthInScope lockout(tpm, ESYS_TR_RH_LOCKOUT, &authorizations.lockout);
    // Nothing of ours is open to guessing (noDA); this is for what others put
    // there. A wrong lockout authorization locks for a day.
    constexpr UINT32 tries = 32;
    constexpr UINT32 recovery = 600;
    constexpr UINT32 lockoutRecovery = 86400;
    check(Esys_DictionaryAttackParameters(
              tpm.get(), ESYS_TR_RH_LOCKOUT, session.plain(), ESYS_TR_NONE,
              ESYS_TR_NONE, tries, recovery, lockoutRecovery),
          "cannot set the limits against guessing");
    check(Esys_ClearControl(tpm.get(), ESYS_TR_RH_LOCKOUT, session.plain(),
                            ESYS_TR_NONE, ESYS_TR_NONE, TPM2_YES),
          "cannot forbid clearing the TPM");
}

std::uint64_t generation(const Tpm& tpm)
{
    const Object saltKey = storageKey(tpm);
    if (!isWritten(tpm, generationIndex, 8))
    {
        throw NotEnrolled("the TPM has no generation of ours; run airlock-tpm "
                          "enroll");
    }
    const Bytes data =
        readIndex(tpm, Session(tpm, saltKey), generationIndex, 8);
    return ByteReader(data, "generation").be64();
}

void raiseGeneration(const Tpm& tpm, const Secret& owner, std::uint64_t value)
{
    const std::uint64_t now = generation(tpm);
    if (value < now)
    {
        throw Refused("generation",
                      fmt::format("is {} and cannot become {}", now, value));
    }
    const AuthInScope authorization(tpm, ESYS_TR_RH_OWNER, &owner);
    const Object saltKey = storageKey(tpm);
    writeGeneration(tpm, Session(tpm, saltKey), value);
}

Secret activateCredential(const Tpm& tpm, const Credential& credential,
                          const Secret& endorsement)
{
    const AuthInScope authorization(tpm, ESYS_TR_RH_ENDORSEMENT, &endorsement);
    const Object saltKey = storageKey(tpm);
    const Object key = Object::persistent(tpm, endorsementHandle);
    const Object attestation = Object::persistent(tpm, attestationHandle);
    const Session forKey(tpm, saltKey);
    const Session forEndorsement =
        endorsementSession(tpm, saltKey, Session(tpm, saltKey));
    TPM2B_ID_OBJECT blob{};
    TPM2B_ENCRYPTED_SECRET secret{};
    const Bytes& idObject = credential.idObject;
    const Bytes& encryptedSecret = credential.encryptedSecret;
    if (idObject.size() > sizeof blob.credential ||
        encryptedSecret.size() > sizeof secret.secret)
    {
        throw Refused("credential", "is larger than a TPM takes");
    }
    blob.size = static_cast<UINT16>(idObject.size());
    std::copy(idObject.begin(), idObject.end(), blob.credential);
    secret.size = static_cast<UINT16>(encryptedSecret.size());
    std::copy(encryptedSecret.begin(), encryptedSecret.end(), secret.secret);
    TPM2B_DIGEST* out = nullptr;
    check(Esys_ActivateCredential(
              tpm.get(), attestation.get(), key.get(), forKey.encryptAnswer(),
              forEndorsement.plain(), ESYS_TR_NONE, &blob, &secret, &out),
          "the credential is not for this TPM and this attestation key");
    TssPtr<TPM2B_DIGEST> owned(out);
    WipeAtEnd wiped(*out);
    return Secret(ByteView(out->buffer, out->size));
}

Quote makeQuote(const Tpm& tpm, const PcrSelection& selection,
                const Digest& extraData)
{
    const Object saltKey = storageKey(tpm);
    if (!tpm.has(attestationHandle))
    {
        throw NotEnrolled("the TPM has no attestation key; run airlock-tpm "
                          "enroll");
    }
    const Object key = Object::persistent(tpm, attestationHandle);
    const Session session(tpm, saltKey);
    TPMT_SIG_SCHEME scheme{};
    scheme.scheme = TPM2_ALG_NULL; // the key's own
    const TPML_PCR_SELECTION pcrs = selectionOf(selection);
    const auto extra = sized<TPM2B_DATA>(extraData);
    TPM2B_ATTEST* attest = nullptr;
    TPMT_SIGNATURE* signature = nullptr;
    check(Esys_Quote(tpm.get(), key.get(), session.plain(), ESYS_TR_NONE,
                     ESYS_TR_NONE, &extra, &scheme, &pcrs, &attest, &signature),
          "cannot quote");
    TssPtr<TPM2B_ATTEST> ownedAttest(attest);
    TssPtr<TPMT_SIGNATURE> ownedSignature(signature);
    Quote out;
    out.attest.assign(attest->attestationData,
                      attest->attestationData + attest->size);
    out.signature =
        marshalled<TPMT_SIGNATURE>(Tss2_MU_TPMT_SIGNATURE_Marshal, *signature);
    out.pcrs = tpm.readPcrs(selection);
    return out;
}

} // namespace airlock::trust
