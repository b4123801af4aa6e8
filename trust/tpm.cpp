#include "trust/tpm.hpp"

#include <fmt/format.h>
#include <tss2/tss2_rc.h>
#include <tss2/tss2_tctildr.h>

#include <algorithm>

namespace airlock::trust
{

namespace
{

std::string textOf(const std::string& what, TSS2_RC code)
{
    return fmt::format("{}: {} ({:#x})", what, Tss2_RC_Decode(code), code);
}

/** A response code of the TPM itself, without the number of the handle,
 * parameter or session that it is about. */
TSS2_RC base(TSS2_RC code)
{
    if ((code & TSS2_RC_LAYER_MASK) != TSS2_TPM_RC_LAYER)
    {
        return code;
    }
    constexpr TSS2_RC formatOne = TPM2_RC_FMT1;
    return (code & formatOne) != 0 ? code & (formatOne | 0x3fU) : code;
}

TSS2_TCTI_CONTEXT* openTcti(const std::string& name)
{
    TSS2_TCTI_CONTEXT* out = nullptr;
    check(Tss2_TctiLdr_Initialize(name.c_str(), &out),
          "cannot reach the TPM at " + name);
    return out;
}

ESYS_CONTEXT* openEsys(TSS2_TCTI_CONTEXT* tcti)
{
    ESYS_CONTEXT* out = nullptr;
    check(Esys_Initialize(&out, tcti, nullptr), "cannot talk to the TPM");
    return out;
}

TPML_PCR_SELECTION selectionOf(const std::vector<unsigned>& numbers)
{
    TPML_PCR_SELECTION out{};
    out.count = 1;
    out.pcrSelections[0].hash = TPM2_ALG_SHA256;
    out.pcrSelections[0].sizeofSelect = 3;
    for (unsigned number : numbers)
    {
        auto& byte = out.pcrSelections[0].pcrSelect[number / 8];
        byte = static_cast<BYTE>(byte | (1U << (number % 8)));
    }
    return out;
}

/** At most eight PCRs fit into one answer. */
void readSome(const Tpm& tpm, const std::vector<unsigned>& numbers,
              PcrValues& out)
{
    const TPML_PCR_SELECTION want = selectionOf(numbers);
    TPML_PCR_SELECTION* got = nullptr;
    TPML_DIGEST* values = nullptr;
    UINT32 counter = 0;
    check(Esys_PCR_Read(tpm.get(), ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                        &want, &counter, &got, &values),
          "cannot read PCRs");
    TssPtr<TPML_PCR_SELECTION> ownedSelection(got);
    TssPtr<TPML_DIGEST> ownedValues(values);
    if (values->count != numbers.size())
    {
        throw Error("the TPM has no SHA-256 bank of PCRs");
    }
    for (std::size_t i = 0; i < numbers.size(); ++i)
    {
        const TPM2B_DIGEST& value = values->digests[i];
        Digest& digest = out[numbers[i]];
        if (value.size != digest.size())
        {
            throw Error("the TPM gave a PCR of another size");
        }
        std::copy_n(value.buffer, digest.size(), digest.begin());
    }
}

ESYS_TR startSession(const Tpm& tpm, const Object& saltKey, Session::Kind kind)
{
    TPMT_SYM_DEF symmetric{};
    symmetric.algorithm = TPM2_ALG_AES;
    symmetric.keyBits.aes = 128;
    symmetric.mode.aes = TPM2_ALG_CFB;
    const TPM2_SE type =
        kind == Session::Kind::policy ? TPM2_SE_POLICY : TPM2_SE_HMAC;
    ESYS_TR out = ESYS_TR_NONE;
    check(Esys_StartAuthSession(tpm.get(), saltKey.get(), ESYS_TR_NONE,
                                ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                nullptr, type, &symmetric, TPM2_ALG_SHA256,
                                &out),
          "cannot start a session with the TPM");
    return out;
}

} // namespace

TpmError::TpmError(const std::string& what, TSS2_RC code)
    : Error(textOf(what, code)), code_(code)
{}

bool TpmError::policyFailed() const
{
    switch (base(code_))
    {
    case TPM2_RC_POLICY_FAIL:
    case TPM2_RC_POLICY:
    case TPM2_RC_PCR_CHANGED:
    case TPM2_RC_VALUE: // of PolicyPCR and PolicyAuthorize
        return true;
    default:
        return false;
    }
}

bool TpmError::pcrChanged() const
{
    return base(code_) == TPM2_RC_PCR_CHANGED;
}

void check(TSS2_RC code, const std::string& what)
{
    if (code != TSS2_RC_SUCCESS)
    {
        throw TpmError(what, code);
    }
}

void FreeTss::operator()(void* memory) const
{
    Esys_Free(memory);
}

void Tpm::FreeTcti::operator()(TSS2_TCTI_CONTEXT* tcti) const
{
    Tss2_TctiLdr_Finalize(&tcti);
}

void Tpm::FreeEsys::operator()(ESYS_CONTEXT* context) const
{
    Esys_Finalize(&context);
}

Tpm::Tpm(const std::string& tcti)
    : tcti_(openTcti(tcti)), esys_(openEsys(tcti_.get()))
{}

PcrValues Tpm::readPcrs(const PcrSelection& selection) const
{
    const std::vector<unsigned> all = selection.list();
    PcrValues out;
    for (std::size_t at = 0; at < all.size(); at += 8)
    {
        auto begin = all.begin() + static_cast<std::ptrdiff_t>(at);
        auto end = begin + static_cast<std::ptrdiff_t>(
                               std::min<std::size_t>(8, all.size() - at));
        readSome(*this, {begin, end}, out);
    }
    return out;
}

std::uint32_t Tpm::property(TPM2_PT which) const
{
    TPMI_YES_NO more = 0;
    TPMS_CAPABILITY_DATA* data = nullptr;
    check(Esys_GetCapability(get(), ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                             TPM2_CAP_TPM_PROPERTIES, which, 1, &more, &data),
          "cannot ask for a property of the TPM");
    TssPtr<TPMS_CAPABILITY_DATA> owned(data);
    const TPML_TAGGED_TPM_PROPERTY& list = data->data.tpmProperties;
    if (list.count == 0 || list.tpmProperty[0].property != which)
    {
        throw Error(fmt::format("the TPM has no property {:#x}", which));
    }
    return list.tpmProperty[0].value;
}

std::vector<TPM2_HANDLE> Tpm::handles(TPM2_HANDLE first) const
{
    TPMI_YES_NO more = 0;
    TPMS_CAPABILITY_DATA* data = nullptr;
    check(Esys_GetCapability(get(), ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                             TPM2_CAP_HANDLES, first, TPM2_MAX_CAP_HANDLES,
                             &more, &data),
          "cannot list the TPM's handles");
    TssPtr<TPMS_CAPABILITY_DATA> owned(data);
    const TPML_HANDLE& list = data->data.handles;
    std::vector<TPM2_HANDLE> out;
    for (UINT32 i = 0; i < list.count; ++i)
    {
        // The list goes on with the next kind.
        if ((list.handle[i] & TPM2_HR_RANGE_MASK) ==
            (first & TPM2_HR_RANGE_MASK))
        {
            out.push_back(list.handle[i]);
        }
    }
    return out;
}

bool Tpm::has(TPM2_HANDLE handle) const
{
    const std::vector<TPM2_HANDLE> list = handles(handle);
    return std::find(list.begin(), list.end(), handle) != list.end();
}

ESYS_TR Tpm::acquire(TPM2_HANDLE handle) const
{
    Reference& reference = references_[handle];
    if (reference.users == 0)
    {
        check(Esys_TR_FromTPMPublic(get(), handle, ESYS_TR_NONE, ESYS_TR_NONE,
                                    ESYS_TR_NONE, &reference.handle),
              fmt::format("cannot use {:#x} of the TPM", handle));
    }
    ++reference.users;
    return reference.handle;
}

void Tpm::release(TPM2_HANDLE handle) const noexcept
{
    auto found = references_.find(handle);
    if (found != references_.end() && --found->second.users == 0)
    {
        Esys_TR_Close(get(), &found->second.handle);
        references_.erase(found);
    }
}

Object Object::persistent(const Tpm& tpm, TPM2_HANDLE handle)
{
    return {&tpm, tpm.acquire(handle), handle};
}

Object& Object::operator=(Object&& other) noexcept
{
    if (this != &other)
    {
        release();
        tpm_ = other.tpm_;
        handle_ = std::exchange(other.handle_, ESYS_TR_NONE);
        persistent_ = other.persistent_;
    }
    return *this;
}

Bytes Object::name() const
{
    TPM2B_NAME* name = nullptr;
    check(Esys_TR_GetName(tpm_->get(), handle_, &name),
          "cannot get the name of an object");
    TssPtr<TPM2B_NAME> owned(name);
    return {name->name, name->name + name->size};
}

void Object::release() noexcept
{
    if (handle_ == ESYS_TR_NONE)
    {
        return;
    }
    if (persistent_ != 0)
    {
        tpm_->release(persistent_);
    }
    // Nothing can be done when it fails; a session that the TPM ended by
    // itself is gone already.
    else if (Esys_FlushContext(tpm_->get(), handle_) != TSS2_RC_SUCCESS)
    {
        Esys_TR_Close(tpm_->get(), &handle_);
    }
    handle_ = ESYS_TR_NONE;
}

Session::Session(const Tpm& tpm, const Object& saltKey, Kind kind)
    : tpm_(&tpm),
      session_(Object::transient(tpm, startSession(tpm, saltKey, kind)))
{}

ESYS_TR Session::use(bool command, bool answer) const
{
    const unsigned flags = TPMA_SESSION_CONTINUESESSION |
                           (command ? TPMA_SESSION_DECRYPT : 0U) |
                           (answer ? TPMA_SESSION_ENCRYPT : 0U);
    check(Esys_TRSess_SetAttributes(tpm_->get(), session_.get(),
                                    static_cast<TPMA_SESSION>(flags), 0xff),
          "cannot set the attributes of a session");
    return session_.get();
}

} // namespace airlock::trust
