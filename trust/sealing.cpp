#include "trust/sealing.hpp"

#include "trust/esys_types.hpp"
#include "trust/nv.hpp"

namespace airlock::trust
{

namespace
{

constexpr std::size_t nameSize = 34;
constexpr TPM2_HANDLE pinIndex = 0x018a1002;

/** Satisfied by policy alone, not counted as guesses, never leaves this TPM. */
constexpr TPMA_OBJECT sealedAttributes =
    TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT |
    TPMA_OBJECT_ADMINWITHPOLICY | TPMA_OBJECT_NODA;

TPM2B_PUBLIC sealedTemplate(const PolicyKey& key, std::string_view ref)
{
    TPM2B_PUBLIC out{};
    TPMT_PUBLIC& area = out.publicArea;
    area.type = TPM2_ALG_KEYEDHASH;
    area.nameAlg = TPM2_ALG_SHA256;
    area.objectAttributes = sealedAttributes;
    area.authPolicy = sized<TPM2B_DIGEST>(authorizedPolicy(key, ref));
    area.parameters.keyedHashDetail.scheme.scheme = TPM2_ALG_NULL;
    return out;
}

TPMT_SIGNATURE tpmSignature(const PolicyKey& key, const Bytes& signature)
{
    constexpr std::string_view where = "policy signature";
    TPMT_SIGNATURE out{};
    const wire::Public area = wire::Public::parse(key.publicArea(), where);
    if (area.type == wire::algEcc)
    {
        const wire::EcdsaParts parts = wire::ecdsaParts(signature, where);
        out.sigAlg = TPM2_ALG_ECDSA;
        out.signature.ecdsa.hash = TPM2_ALG_SHA256;
        out.signature.ecdsa.signatureR = sized<TPM2B_ECC_PARAMETER>(parts.r);
        out.signature.ecdsa.signatureS = sized<TPM2B_ECC_PARAMETER>(parts.s);
        return out;
    }
    out.sigAlg = TPM2_ALG_RSASSA;
    out.signature.rsassa.hash = TPM2_ALG_SHA256;
    out.signature.rsassa.sig = sized<TPM2B_PUBLIC_KEY_RSA>(signature);
    return out;
}

/** In the owner's hierarchy: a ticket of no hierarchy authorizes nothing. */
Object loadPolicyKey(const Tpm& tpm, const PolicyKey& key)
{
    TPM2B_PUBLIC area{};
    std::size_t offset = 0;
    check(Tss2_MU_TPMT_PUBLIC_Unmarshal(key.publicArea().data(),
                                        key.publicArea().size(), &offset,
                                        &area.publicArea),
          "cannot use the policy key");
    ESYS_TR out = ESYS_TR_NONE;
    check(Esys_LoadExternal(tpm.get(), ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                            nullptr, &area, ESYS_TR_RH_OWNER, &out),
          "the TPM does not take the policy key");
    return Object::transient(tpm, out);
}

TssPtr<TPMT_TK_VERIFIED> ticketFor(const Tpm& tpm, const PolicyKey& key,
                                   const SignedPolicy& policy)
{
    const Object loaded = loadPolicyKey(tpm, key);
    const auto digest = sized<TPM2B_DIGEST>(signedDigest(policy));
    const TPMT_SIGNATURE signature = tpmSignature(key, policy.signature);
    TPMT_TK_VERIFIED* out = nullptr;
    check(Esys_VerifySignature(tpm.get(), loaded.get(), ESYS_TR_NONE,
                               ESYS_TR_NONE, ESYS_TR_NONE, &digest, &signature,
                               &out),
          "the TPM does not take the signature of policy " +
              printable(policy.state.name));
    return TssPtr<TPMT_TK_VERIFIED>(out);
}

/** The stored oldest generation must not be above this policy's. */
void satisfyGeneration(const Tpm& tpm, const Session& policySession,
                       const Session& session, std::uint64_t generation)
{
    const Object index = Object::persistent(tpm, generationIndex);
    ByteWriter data;
    data.be64(generation);
    const auto operand = sized<TPM2B_OPERAND>(data.data());
    check(Esys_PolicyNV(tpm.get(), index.get(), index.get(),
                        policySession.plain(), session.plain(), ESYS_TR_NONE,
                        ESYS_TR_NONE, &operand, 0, TPM2_EO_UNSIGNED_LE),
          "this image's generation is too old");
}

void satisfyPcrs(const Tpm& tpm, const Session& policySession,
                 const PcrValues& values)
{
    const PcrSelection selection = PcrSelection::of(values);
    const TPML_PCR_SELECTION pcrs = selectionOf(selection);
    const auto digest = sized<TPM2B_DIGEST>(compositeDigest(selection, values));
    check(Esys_PolicyPCR(tpm.get(), policySession.plain(), ESYS_TR_NONE,
                         ESYS_TR_NONE, ESYS_TR_NONE, &digest, &pcrs),
          "the machine is in another state than the policy has");
}

void satisfyAuthorize(const Tpm& tpm, const Session& policySession,
                      const PolicyKey& key, const SignedPolicy& policy,
                      const TPMT_TK_VERIFIED& ticket)
{
    const auto approved = sized<TPM2B_DIGEST>(policy.state.approvedPolicy());
    const auto ref = sized<TPM2B_NONCE>(asBytes(policy.ref));
    TPM2B_NAME name{};
    name.size = static_cast<UINT16>(key.name().size());
    std::copy(key.name().begin(), key.name().end(), name.name);
    check(Esys_PolicyAuthorize(tpm.get(), policySession.plain(), ESYS_TR_NONE,
                               ESYS_TR_NONE, ESYS_TR_NONE, &approved, &ref,
                               &name, &ticket),
          "the TPM does not take policy " + printable(policy.state.name));
}

/** Why a policy does not fit, "" when it does. */
std::string misfit(const SignedPolicy& policy, const PolicyKey& key,
                   std::string_view ref, std::uint64_t oldest,
                   const PcrValues& now)
{
    if (policy.ref != ref)
    {
        return "is for " + printable(policy.ref) + ", not " + printable(ref);
    }
    if (policy.state.generation < oldest)
    {
        return fmt::format("is of generation {}, the oldest that may unseal is "
                           "{}",
                           policy.state.generation, oldest);
    }
    try
    {
        policy.verify(key);
    }
    catch (const Refused& refused)
    {
        return refused.reason();
    }
    return differences(now, policy.state.pcrs);
}

PcrValues valuesFor(const Tpm& tpm, const std::vector<SignedPolicy>& policies)
{
    PcrSelection all;
    for (const SignedPolicy& policy : policies)
    {
        for (const auto& [number, value] : policy.state.pcrs)
        {
            all.add(number);
        }
    }
    return tpm.readPcrs(all);
}

const SignedPolicy& choose(const Tpm& tpm, const PolicyKey& key,
                           std::string_view ref, std::uint64_t oldest,
                           const std::vector<SignedPolicy>& policies)
{
    const PcrValues now = valuesFor(tpm, policies);
    std::string why;
    for (const SignedPolicy& policy : policies)
    {
        const std::string reason = misfit(policy, key, ref, oldest, now);
        if (reason.empty())
        {
            return policy;
        }
        why += (why.empty() ? "" : ". ") + printable(policy.state.name) + " " +
               reason;
    }
    throw StateNotApproved("unseal", why.empty() ? "there is no signed policy"
                                                 : "no policy fits: " + why);
}

Digest pinOf(const SealedBlob& blob)
{
    return sha256(blob.marshal());
}

void requireKey(const SealedBlob& blob, const PolicyKey& key)
{
    if (blob.policyKeyName != key.name())
    {
        throw Refused("sealed blob", "is for another policy key");
    }
}

} // namespace

SealedBlob seal(const Tpm& tpm, const PolicyKey& key, std::string_view ref,
                const Secret& secret, std::optional<ByteView> storageName)
{
    if (secret.empty() || secret.size() > SealedBlob::maxSecret)
    {
        throw Error("a secret has 1 to 65536 bytes");
    }
    const Object storage = storageKey(tpm, storageName);
    const Session session(tpm, storage);
    const Secret inner = Secret::random(GcmBox::keySize);
    const TPM2B_PUBLIC wanted = sealedTemplate(key, ref);
    TPM2B_SENSITIVE_CREATE sensitive{};
    WipeAtEnd wiped(sensitive);
    sensitive.sensitive.data = sized<TPM2B_SENSITIVE_DATA>(inner.view());
    const TPM2B_DATA outside{};
    const TPML_PCR_SELECTION pcrs{};
    TPM2B_PRIVATE* privatePart = nullptr;
    TPM2B_PUBLIC* publicPart = nullptr;
    check(Esys_Create(tpm.get(), storage.get(), session.encryptBoth(),
                      ESYS_TR_NONE, ESYS_TR_NONE, &sensitive, &wanted, &outside,
                      &pcrs, &privatePart, &publicPart, nullptr, nullptr,
                      nullptr),
          "cannot seal");
    TssPtr<TPM2B_PRIVATE> ownedPrivate(privatePart);
    TssPtr<TPM2B_PUBLIC> ownedPublic(publicPart);
    SealedBlob out;
    out.storageName = storage.name();
    out.policyKeyName = key.name();
    out.ref = ref;
    const Bytes unique = bytesOf(publicPart->publicArea.unique.keyedHash);
    if (unique.size() != out.unique.size() ||
        out.storageName.size() != nameSize)
    {
        throw Error("the TPM made an object of another kind");
    }
    std::copy(unique.begin(), unique.end(), out.unique.begin());
    out.privatePart = bytesOf(*privatePart);
    out.box = gcmSeal(inner, out.header(), secret.view());
    return out;
}

UnsealSession::UnsealSession(const Tpm& tpm, const PolicyKey& key,
                             const SignedPolicy& policy,
                             std::optional<ByteView> storageName)
    : tpm_(tpm), storage_(storageKey(tpm, storageName)),
      session_(tpm, storage_, Session::Kind::policy)
{
    const TssPtr<TPMT_TK_VERIFIED> ticket = ticketFor(tpm, key, policy);
    satisfyGeneration(tpm, session_, Session(tpm, storage_),
                      policy.state.generation);
    satisfyPcrs(tpm, session_, policy.state.pcrs);
    satisfyAuthorize(tpm, session_, key, policy, *ticket);
}

Secret UnsealSession::unseal(const SealedBlob& blob, const PolicyKey& key)
{
    TPM2B_PUBLIC publicPart = sealedTemplate(key, blob.ref);
    publicPart.publicArea.unique.keyedHash = sized<TPM2B_DIGEST>(blob.unique);
    const auto privatePart = sized<TPM2B_PRIVATE>(blob.privatePart);
    ESYS_TR handle = ESYS_TR_NONE;
    {
        const Session session(tpm_, storage_);
        check(Esys_Load(tpm_.get(), storage_.get(), session.plain(),
                        ESYS_TR_NONE, ESYS_TR_NONE, &privatePart, &publicPart,
                        &handle),
              "the sealed object is not of this TPM, key and tag");
    }
    const Object sealed = Object::transient(tpm_, handle);
    TPM2B_SENSITIVE_DATA* data = nullptr;
    check(Esys_Unseal(tpm_.get(), sealed.get(), session_.encryptAnswer(),
                      ESYS_TR_NONE, ESYS_TR_NONE, &data),
          "cannot unseal");
    TssPtr<TPM2B_SENSITIVE_DATA> owned(data);
    WipeAtEnd wiped(*data);
    const Secret inner(ByteView(data->buffer, data->size));
    return gcmOpen(inner, blob.header(), blob.box, "sealed blob");
}

Secret unseal(const Tpm& tpm, const SealedBlob& blob, const PolicyKey& key,
              const std::vector<SignedPolicy>& policies)
{
    requireKey(blob, key);
    static_cast<void>(storageKey(tpm, blob.storageName));
    const SignedPolicy& policy =
        choose(tpm, key, blob.ref, generation(tpm), policies);
    return UnsealSession(tpm, key, policy, blob.storageName).unseal(blob, key);
}

void requirePolicy(const Tpm& tpm, const PolicyKey& key, std::string_view ref,
                   std::uint64_t oldest,
                   const std::vector<SignedPolicy>& policies)
{
    static_cast<void>(choose(tpm, key, ref, oldest, policies));
}

Secret unsealOnce(const Tpm& tpm, const std::function<Secret()>& unsealing)
{
    Secret out;
    try
    {
        out = unsealing();
    }
    catch (const std::exception&)
    {
        cap(tpm);
        throw;
    }
    cap(tpm);
    return out;
}

Secret unsealOnce(const Tpm& tpm, const SealedBlob& blob, const PolicyKey& key,
                  const std::vector<SignedPolicy>& policies)
{
    return unsealOnce(tpm, [&] { return unseal(tpm, blob, key, policies); });
}

void cap(const Tpm& tpm, unsigned pcr)
{
    PcrSelection{pcr}.requireSealable("cap");
    TPML_DIGEST_VALUES values{};
    values.count = 1;
    values.digests[0].hashAlg = TPM2_ALG_SHA256;
    const Digest value = capValue();
    std::copy(value.begin(), value.end(), values.digests[0].digest.sha256);
    // The session's answer proves that the TPM did it, not something between.
    const Object storage = storageKey(tpm);
    const Session session(tpm, storage);
    check(Esys_PCR_Extend(tpm.get(), ESYS_TR_PCR0 + pcr, session.plain(),
                          ESYS_TR_NONE, ESYS_TR_NONE, &values),
          fmt::format("cannot cap PCR {}", pcr));
}

void pin(const Tpm& tpm, const Secret& owner, const SealedBlob& blob)
{
    const AuthInScope authorization(tpm, ESYS_TR_RH_OWNER, &owner);
    const Object storage = storageKey(tpm, blob.storageName);
    const Session session(tpm, storage);
    if (!tpm.has(pinIndex))
    {
        defineIndex(tpm, session, pinIndex, 32);
    }
    writeIndex(tpm, session, pinIndex, pinOf(blob));
}

std::optional<Digest> pinned(const Tpm& tpm)
{
    const Object storage = storageKey(tpm);
    if (!isWritten(tpm, pinIndex, 32))
    {
        return std::nullopt;
    }
    Digest out{};
    const Bytes have =
        readIndex(tpm, Session(tpm, storage), pinIndex, out.size());
    std::copy(have.begin(), have.end(), out.begin());
    return out;
}

void requirePinned(const Tpm& tpm, const SealedBlob& blob)
{
    const std::optional<Digest> have = pinned(tpm);
    if (!have)
    {
        throw Refused("sealed blob", "none was noted in this TPM");
    }
    if (!equalConstantTime(*have, pinOf(blob)))
    {
        throw Refused("sealed blob", "is not the one that is in force in this "
                                     "TPM: an older one, or another's");
    }
}

} // namespace airlock::trust
