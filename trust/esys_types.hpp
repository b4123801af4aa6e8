#pragma once

#include "trust/tpm.hpp"

#include <fmt/format.h>
#include <tss2/tss2_mu.h>

#include <algorithm>

/** Between the C structures of tpm2-tss and our bytes; for the .cpp files that
 * call ESYS. */
namespace airlock::trust
{

/** A TPM2B_* with a `buffer`. */
template <typename T>
T sized(ByteView data)
{
    T out{};
    if (data.size() > sizeof out.buffer)
    {
        throw Error(fmt::format("{} bytes do not fit into a buffer of the TPM",
                                data.size()));
    }
    out.size = static_cast<UINT16>(data.size());
    std::copy(data.begin(), data.end(), out.buffer);
    return out;
}

template <typename T>
Bytes bytesOf(const T& buffer)
{
    return {buffer.buffer, buffer.buffer + buffer.size};
}

template <typename T>
using MuMarshal = TSS2_RC (*)(const T*, std::uint8_t[], std::size_t,
                              std::size_t*);

template <typename T>
Bytes marshalled(MuMarshal<T> marshal, const T& value)
{
    Bytes out(sizeof(T) + 64);
    std::size_t size = 0;
    check(marshal(&value, out.data(), out.size(), &size),
          "cannot write a structure of the TPM");
    out.resize(size);
    return out;
}

inline TPML_PCR_SELECTION selectionOf(const PcrSelection& selection)
{
    TPML_PCR_SELECTION out{};
    const Bytes bytes = selection.marshal();
    std::size_t offset = 0;
    check(Tss2_MU_TPML_PCR_SELECTION_Unmarshal(bytes.data(), bytes.size(),
                                               &offset, &out),
          "cannot select PCRs");
    return out;
}

/** The authorization of a hierarchy or object for the commands of a scope;
 * ESYS forgets it at the end. */
class AuthInScope
{
  public:
    AuthInScope(const Tpm& tpm, ESYS_TR handle, const Secret* secret)
        : tpm_(tpm), handle_(handle)
    {
        set(secret != nullptr ? secret->view() : ByteView());
    }
    AuthInScope(const AuthInScope&) = delete;
    AuthInScope& operator=(const AuthInScope&) = delete;
    ~AuthInScope()
    {
        const TPM2B_AUTH none{};
        Esys_TR_SetAuth(tpm_.get(), handle_, &none);
    }

  private:
    void set(ByteView secret)
    {
        TPM2B_AUTH auth = sized<TPM2B_AUTH>(secret);
        WipeAtEnd wiped(auth);
        check(Esys_TR_SetAuth(tpm_.get(), handle_, &auth),
              "cannot use an authorization");
    }

    const Tpm& tpm_;
    ESYS_TR handle_;
};

} // namespace airlock::trust
