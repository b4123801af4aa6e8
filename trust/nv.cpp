#include "trust/nv.hpp"

#include "trust/esys_types.hpp"
#include "trust/policy.hpp"

namespace airlock::trust
{

void defineIndex(const Tpm& tpm, const Session& session, TPM2_HANDLE handle,
                 std::uint16_t size)
{
    TPM2B_NV_PUBLIC area{};
    area.nvPublic.nvIndex = handle;
    area.nvPublic.nameAlg = TPM2_ALG_SHA256;
    area.nvPublic.attributes = indexAttributes;
    area.nvPublic.dataSize = size;
    const TPM2B_AUTH none{};
    ESYS_TR out = ESYS_TR_NONE;
    check(Esys_NV_DefineSpace(tpm.get(), ESYS_TR_RH_OWNER,
                              session.encryptCommand(), ESYS_TR_NONE,
                              ESYS_TR_NONE, &none, &area, &out),
          fmt::format("cannot define index {:#x} in the TPM", handle));
    Esys_TR_Close(tpm.get(), &out);
}

void writeIndex(const Tpm& tpm, const Session& session, TPM2_HANDLE handle,
                ByteView data)
{
    const Object index = Object::persistent(tpm, handle);
    const auto buffer = sized<TPM2B_MAX_NV_BUFFER>(data);
    check(Esys_NV_Write(tpm.get(), ESYS_TR_RH_OWNER, index.get(),
                        session.encryptCommand(), ESYS_TR_NONE, ESYS_TR_NONE,
                        &buffer, 0),
          fmt::format("cannot write index {:#x} of the TPM", handle));
}

Bytes readIndex(const Tpm& tpm, const Session& session, TPM2_HANDLE handle,
                std::size_t size)
{
    constexpr std::size_t piece = 512; // every TPM takes that much
    const Object index = Object::persistent(tpm, handle);
    Bytes out;
    while (out.size() < size)
    {
        const std::size_t now = std::min(piece, size - out.size());
        TPM2B_MAX_NV_BUFFER* data = nullptr;
        check(Esys_NV_Read(tpm.get(), index.get(), index.get(), session.plain(),
                           ESYS_TR_NONE, ESYS_TR_NONE, static_cast<UINT16>(now),
                           static_cast<UINT16>(out.size()), &data),
              fmt::format("cannot read index {:#x} of the TPM", handle));
        TssPtr<TPM2B_MAX_NV_BUFFER> owned(data);
        if (data->size != now)
        {
            throw Error("the TPM gave less of an index than it has");
        }
        out.insert(out.end(), data->buffer, data->buffer + data->size);
    }
    return out;
}

std::size_t indexSize(const Tpm& tpm, TPM2_HANDLE handle)
{
    const Object index = Object::persistent(tpm, handle);
    TPM2B_NV_PUBLIC* area = nullptr;
    check(Esys_NV_ReadPublic(tpm.get(), index.get(), ESYS_TR_NONE, ESYS_TR_NONE,
                             ESYS_TR_NONE, &area, nullptr),
          fmt::format("cannot look at index {:#x} of the TPM", handle));
    TssPtr<TPM2B_NV_PUBLIC> owned(area);
    return area->nvPublic.dataSize;
}

bool isWritten(const Tpm& tpm, TPM2_HANDLE handle, std::uint16_t size)
{
    return tpm.has(handle) && Object::persistent(tpm, handle).name() ==
                                  writtenIndexName(handle, size);
}

} // namespace airlock::trust
