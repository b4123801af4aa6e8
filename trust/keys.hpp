#pragma once

#include "trust/machine.hpp"
#include "trust/policy.hpp"
#include "trust/tpm.hpp"

#include <optional>

namespace airlock::trust
{

/** Where our keys stay in a TPM. */
inline constexpr TPM2_HANDLE storageHandle = 0x810a1001;
inline constexpr TPM2_HANDLE endorsementHandle = 0x810a1002;
inline constexpr TPM2_HANDLE attestationHandle = 0x810a1003;

/** There is no key of ours in the TPM: it was never enrolled, was cleared, or
 * is another one. */
class NotEnrolled : public Error
{
  public:
    using Error::Error;
};

/** The authorizations of a TPM's hierarchies. Who has none of them can neither
 * clear the TPM nor take away or change what we put in it. */
struct Authorizations
{
    static constexpr std::size_t size = 32;

    Secret owner;
    Secret endorsement;
    Secret lockout;

    static Authorizations random();
    /** For sealing: one after the other. */
    Secret join() const;
    static Authorizations split(const Secret& joined);
};

/** The key under which things are sealed, and to which sessions are salted.
 * With `expected`, its name: Refused when the TPM has another one. NotEnrolled
 * when it has none. */
Object storageKey(const Tpm& tpm, std::optional<ByteView> expected = {});

/** The templates of the TCG's EK profile that TPMs come with certificates
 * for: L-1 and L-2. */
enum class EndorsementType
{
    rsa2048,
    eccP256,
};

/** Makes the three keys where they are missing, and the NV index with the
 * oldest generation (0 at first). What is there stays, so it can be repeated
 * after a power cut. `authorizations`: used for the hierarchies that have one
 * set; nullptr while none has. */
Machine createKeys(const Tpm& tpm, EndorsementType type,
                   const Authorizations* authorizations);

/** Describes what createKeys() left. NotEnrolled when something is missing. */
Machine readMachine(const Tpm& tpm);

/** Sets the authorizations of owner, endorsement and lockout where none is set,
 * then forbids clearing and sets the parameters against guessing. Can be
 * repeated. The caller has stored the values before: nobody gets them back. */
void harden(const Tpm& tpm, const Authorizations& authorizations);

/** What harden() did, as the TPM says it. */
struct Hardening
{
    bool ownerSet = false;
    bool endorsementSet = false;
    bool lockoutSet = false;
    bool clearDisabled = false;

    bool all() const
    {
        return ownerSet && endorsementSet && lockoutSet && clearDisabled;
    }
    bool none() const { return !ownerSet && !endorsementSet && !lockoutSet; }
};
Hardening hardening(const Tpm& tpm);

/** The oldest generation of images that may still unseal. */
std::uint64_t generation(const Tpm& tpm);
/** Raises it: images signed for an older one cannot unseal any more, however
 * valid their signature. Refused when it would fall. */
void raiseGeneration(const Tpm& tpm, const Secret& owner, std::uint64_t value);

/** Gets the secret of a credential out: only in the TPM with the endorsement
 * key and our attestation key. `endorsement`: authorization of that hierarchy,
 * empty when none is set. */
Secret activateCredential(const Tpm& tpm, const Credential& credential,
                          const Secret& endorsement);

/** A quote by the attestation key, with the values beside it. A PCR that
 * changes in between gives a quote that does not verify: then quote again. */
Quote makeQuote(const Tpm& tpm, const PcrSelection& selection,
                const Digest& extraData);

} // namespace airlock::trust
