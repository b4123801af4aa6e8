#pragma once

#include "common/secret.hpp"
#include "trust/pcr.hpp"

#include <tss2/tss2_esys.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

struct TSS2_TCTI_OPAQUE_CONTEXT_BLOB;

namespace airlock::trust
{

/** The TPM, or the way to it, refused a command. The text has the words of the
 * TPM's own error and its number. */
class TpmError : public Error
{
  public:
    TpmError(const std::string& what, TSS2_RC code);

    TSS2_RC code() const { return code_; }

    /** The TPM answered, and its answer is that a policy does not hold: the
     * state is another one, or it has changed since the session began. */
    bool policyFailed() const;

    /** A PCR changed after a policy session looked at it. */
    bool pcrChanged() const;

  private:
    TSS2_RC code_;
};

/** Throws TpmError unless `code` is success. */
void check(TSS2_RC code, const std::string& what);

struct FreeTss
{
    void operator()(void* memory) const;
};
/** What an ESYS call allocated. */
template <typename T>
using TssPtr = std::unique_ptr<T, FreeTss>;

/** A connection to a TPM 2.0.
 *
 * `tcti` names the way: "device:/dev/tpmrm0" for a real one (with the kernel's
 * resource manager), "swtpm:path=SOCKET" for a software one, whose control
 * socket has to be SOCKET.ctrl. Not shared between threads; objects and
 * sessions that were made with it have to go before it.
 */
class Tpm
{
  public:
    explicit Tpm(const std::string& tcti);
    Tpm(const Tpm&) = delete;
    Tpm& operator=(const Tpm&) = delete;
    ~Tpm() = default;

    ESYS_CONTEXT* get() const { return esys_.get(); }

    PcrValues readPcrs(const PcrSelection& selection) const;
    /** A TPM2_PT_* value. */
    std::uint32_t property(TPM2_PT which) const;
    /** The handles in use of a kind, by the first of that kind, for example
     * TPM2_TRANSIENT_FIRST. */
    std::vector<TPM2_HANDLE> handles(TPM2_HANDLE first) const;
    bool has(TPM2_HANDLE handle) const;

  private:
    friend class Object;

    /** A reference of ESYS to something persistent. It gives the same one to
     * all who ask and drops it when the first of them does, so it is counted
     * here. */
    struct Reference
    {
        ESYS_TR handle = ESYS_TR_NONE;
        unsigned users = 0;
    };
    ESYS_TR acquire(TPM2_HANDLE handle) const;
    void release(TPM2_HANDLE handle) const noexcept;

    struct FreeTcti
    {
        void operator()(TSS2_TCTI_OPAQUE_CONTEXT_BLOB* tcti) const;
    };
    struct FreeEsys
    {
        void operator()(ESYS_CONTEXT* context) const;
    };

    std::unique_ptr<TSS2_TCTI_OPAQUE_CONTEXT_BLOB, FreeTcti> tcti_;
    std::unique_ptr<ESYS_CONTEXT, FreeEsys> esys_;
    mutable std::map<TPM2_HANDLE, Reference> references_;
};

/** Something loaded in the TPM, flushed at the end on every path; or a
 * reference to something that stays in it. Move only. */
class Object
{
  public:
    Object() = default;
    /** Takes a transient object. */
    static Object transient(const Tpm& tpm, ESYS_TR handle)
    {
        return {&tpm, handle, 0};
    }
    /** Refers to a persistent object or an NV index. TpmError when there is
     * none. */
    static Object persistent(const Tpm& tpm, TPM2_HANDLE handle);

    Object(Object&& other) noexcept
        : tpm_(other.tpm_), handle_(std::exchange(other.handle_, ESYS_TR_NONE)),
          persistent_(other.persistent_)
    {}
    Object& operator=(Object&& other) noexcept;
    ~Object() { release(); }

    ESYS_TR get() const { return handle_; }
    /** As the TPM gave it; ESYS has compared it with the public area. */
    Bytes name() const;

  private:
    Object(const Tpm* tpm, ESYS_TR handle, TPM2_HANDLE persistent)
        : tpm_(tpm), handle_(handle), persistent_(persistent)
    {}
    void release() noexcept;

    const Tpm* tpm_ = nullptr;
    ESYS_TR handle_ = ESYS_TR_NONE;
    TPM2_HANDLE persistent_ = 0; ///< 0: flushed at the end
};

/** An authorization session whose key only the TPM with the salt key can know:
 * commands and answers are authenticated, and their first parameter can be
 * encrypted. Flushed at the end. Move only. */
class Session
{
  public:
    enum class Kind
    {
        hmac,
        policy,
    };

    Session(const Tpm& tpm, const Object& saltKey, Kind kind = Kind::hmac);
    Session(Session&&) noexcept = default;
    Session& operator=(Session&&) noexcept = default;

    /** For a command that neither takes nor gives secrets. */
    ESYS_TR plain() const { return use(false, false); }
    /** For a command with something secret in its first parameter. */
    ESYS_TR encryptCommand() const { return use(true, false); }
    ESYS_TR encryptAnswer() const { return use(false, true); }
    ESYS_TR encryptBoth() const { return use(true, true); }

  private:
    ESYS_TR use(bool command, bool answer) const;

    const Tpm* tpm_;
    Object session_;
};

} // namespace airlock::trust
