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

/** PolicySecret of the endorsement hierarchy: who may use an endorsement key,
 * by the TCG's templates L-1 and L-2. */
inline constexpr Digest endorsementPolicy = {
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc,
    0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52,
    0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa};

/** The public area of a key that can be a parent: fixed in its TPM, restricted,
 * decrypting. */
wire::Public parentKey(ByteView publicArea, std::string_view where);

/** The public area of an endorsement key, exactly as the TCG's template L-1
 * (RSA 2048) or L-2 (P-256) makes it: each key has one such area, so that its
 * digest can be a machine's identity. */
wire::Public endorsementKey(ByteView publicArea, std::string_view where);

/** What TPM2_MakeCredential does, without a TPM: `secret` (1 to 32 bytes) comes
 * out of TPM2_ActivateCredential only where the EK is, and only while an object
 * of that name is loaded beside it. */
Credential makeCredential(const wire::Public& endorsement, ByteView name,
                          const Secret& secret);

/** Checks an EK certificate: one of the authorities (PEM) issued it, for an
 * endorsement key where it says what for, and it is for this key. Refused
 * saying which does not hold. Manufacturers pad the certificate in the TPM;
 * bytes after it are ignored. */
void verifyEndorsementCertificate(ByteView der, const wire::Public& endorsement,
                                  std::string_view authorities);

} // namespace airlock::trust
