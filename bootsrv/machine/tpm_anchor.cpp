#include "bootsrv/machine/tpm_anchor.hpp"

#include "common/error.hpp"
#include "trust/esys_types.hpp"
#include "trust/keys.hpp"

namespace airlock::machine
{

namespace
{

using trust::AuthInScope;
using trust::Object;
using trust::Session;
using trust::Tpm;

constexpr UINT16 numberBytes = 8;
/** authwrite, authread, no_da. */
constexpr TPMA_NV attributes =
    TPMA_NV_AUTHWRITE | TPMA_NV_AUTHREAD | TPMA_NV_NO_DA;

Secret authorizationOf(const Secret& keptKey)
{
    constexpr std::string_view label = "airlock anchor v1";
    Secret out(Secret::keySize);
    hkdf(keptKey, asBytes(label), out.bytes());
    return out;
}

void requireIndex(const Tpm& tpm)
{
    if (!tpm.has(anchorIndex))
    {
        throw trust::NotEnrolled(
            "the TPM does not know which state is the newest one: it was never "
            "enrolled, was cleared, or is another one");
    }
}

std::uint64_t read(const Tpm& tpm, const Secret& authorization)
{
    requireIndex(tpm);
    const Session session(tpm, trust::storageKey(tpm));
    const Object index = Object::persistent(tpm, anchorIndex);
    const AuthInScope use(tpm, index.get(), &authorization);
    TPM2B_MAX_NV_BUFFER* data = nullptr;
    trust::check(Esys_NV_Read(tpm.get(), index.get(), index.get(),
                              session.plain(), ESYS_TR_NONE, ESYS_TR_NONE,
                              numberBytes, 0, &data),
                 "cannot read the newest sequence number from the TPM");
    const trust::TssPtr<TPM2B_MAX_NV_BUFFER> owned(data);
    return ByteReader({data->buffer, data->size}, "TPM index").be64();
}

void write(const Tpm& tpm, const Secret& authorization, std::uint64_t number)
{
    const Session session(tpm, trust::storageKey(tpm));
    const Object index = Object::persistent(tpm, anchorIndex);
    const AuthInScope use(tpm, index.get(), &authorization);
    ByteWriter bytes;
    bytes.be64(number);
    const auto data = trust::sized<TPM2B_MAX_NV_BUFFER>(bytes.data());
    trust::check(Esys_NV_Write(tpm.get(), index.get(), index.get(),
                               session.encryptCommand(), ESYS_TR_NONE,
                               ESYS_TR_NONE, &data, 0),
                 "cannot note the newest sequence number in the TPM");
}

void undefine(const Tpm& tpm, const Session& session)
{
    ESYS_TR index = ESYS_TR_NONE;
    trust::check(Esys_TR_FromTPMPublic(tpm.get(), anchorIndex, ESYS_TR_NONE,
                                       ESYS_TR_NONE, ESYS_TR_NONE, &index),
                 "cannot look at the TPM's index");
    trust::check(Esys_NV_UndefineSpace(tpm.get(), ESYS_TR_RH_OWNER, index,
                                       session.plain(), ESYS_TR_NONE,
                                       ESYS_TR_NONE),
                 "cannot remove the TPM's old index");
}

} // namespace

TpmAnchor::TpmAnchor(std::shared_ptr<MachineTpm> tpm, const Secret& keptKey)
    : tpm_(std::move(tpm)), authorization_(authorizationOf(keptKey))
{}

std::uint64_t TpmAnchor::floor()
{
    return tpm_->use(
        [this](const Tpm& tpm) { return read(tpm, authorization_); });
}

void TpmAnchor::raise(std::uint64_t sequence)
{
    tpm_->use([&](const Tpm& tpm) {
        if (sequence < read(tpm, authorization_))
        {
            throw Error("the newest sequence number would fall");
        }
        write(tpm, authorization_, sequence);
    });
}

void TpmAnchor::define(const Tpm& tpm, const Secret& owner,
                       const Secret& keptKey)
{
    const Secret authorization = authorizationOf(keptKey);
    {
        const Session session(tpm, trust::storageKey(tpm));
        const AuthInScope own(tpm, ESYS_TR_RH_OWNER, &owner);
        if (tpm.has(anchorIndex))
        {
            undefine(tpm, session);
        }
        TPM2B_NV_PUBLIC area{};
        area.nvPublic.nvIndex = anchorIndex;
        area.nvPublic.nameAlg = TPM2_ALG_SHA256;
        area.nvPublic.attributes = attributes;
        area.nvPublic.dataSize = numberBytes;
        TPM2B_AUTH auth = trust::sized<TPM2B_AUTH>(authorization.view());
        const WipeAtEnd wiped(auth);
        ESYS_TR out = ESYS_TR_NONE;
        trust::check(Esys_NV_DefineSpace(tpm.get(), ESYS_TR_RH_OWNER,
                                         session.encryptCommand(), ESYS_TR_NONE,
                                         ESYS_TR_NONE, &auth, &area, &out),
                     "cannot define the TPM's index");
        Esys_TR_Close(tpm.get(), &out);
    }
    write(tpm, authorization, 0);
}

} // namespace airlock::machine
