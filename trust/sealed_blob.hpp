#pragma once

#include "trust/policy.hpp"

namespace airlock::trust
{

/** What the capped PCR is extended with: fixed, and no image is measured as
 * it, so a verifier knows the value afterwards. */
Digest capValue();
/** The values of a machine that was capped: what its quote has to show, and
 * then the secret cannot come out any more. Refused when the PCR is not among
 * them, for then they show nothing of it. */
PcrValues capped(PcrValues values, unsigned pcr = capPcr);

/** A secret that comes out only in one TPM, in a state that the policy key
 * approved. The TPM holds a key of 32 bytes; the secret itself, of up to 64
 * KiB, is encrypted under it.
 *
 * The public half of the TPM's object is not in here: it follows from policy
 * key and tag, so a file that was tampered with cannot ask for another policy.
 */
struct SealedBlob
{
    static constexpr std::size_t maxSecret = 64U << 10;
    static constexpr std::size_t maxSize = maxSecret + 2048;

    Bytes storageName;   ///< of the TPM's storage key, 34 bytes
    Bytes policyKeyName; ///< 34 bytes
    std::string ref;     ///< policy tag
    Digest unique{};     ///< of the object's public area
    Bytes privatePart;   ///< encrypted by the TPM
    GcmBox box;

    Bytes marshal() const;
    /** All but the encrypted secret, which is authenticated with it. */
    Bytes header() const;
    /** Refused naming `where` and the field; nothing may be left over. */
    static SealedBlob parse(ByteView data, std::string_view where);
};

} // namespace airlock::trust
