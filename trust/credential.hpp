#pragma once

#include "trust/quote.hpp"

#include <string>
#include <vector>

namespace airlock::trust
{

/** A secret for the TPM that has both an endorsement key (EK) and an
 * attestation key with a certain name. */
struct Credential
{
    Bytes idObject;        ///< contents of a TPM2B_ID_OBJECT
    Bytes encryptedSecret; ///< contents of a TPM2B_ENCRYPTED_SECRET

    Bytes marshal() const;
    /** Refused naming `where`; nothing may be left over. */
    static Credential parse(ByteView data, std::string_view where);
};

/** The public area of an endorsement key, with its attributes checked: fixed in
 * its TPM, restricted, decrypting, and as the TCG's templates have it. */
wire::Public endorsementKey(ByteView publicArea, std::string_view where);

/** What TPM2_MakeCredential does, without a TPM: `secret` (1 to 32 bytes) comes
 * out of TPM2_ActivateCredential only where the EK is, and only while an object
 * of that name is loaded beside it. */
Credential makeCredential(const wire::Public& endorsement, ByteView name,
                          const Secret& secret);

/** Checks an EK certificate: one of the authorities (PEM) issued it, and it is
 * for this key. Refused saying which does not hold. Manufacturers pad the
 * certificate in the TPM; bytes after it are ignored. */
void verifyEndorsementCertificate(ByteView der, const wire::Public& endorsement,
                                  std::string_view authorities);

} // namespace airlock::trust
