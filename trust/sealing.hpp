#pragma once

#include "trust/keys.hpp"
#include "trust/sealed_blob.hpp"

#include <functional>
#include <optional>

namespace airlock::trust
{

/** Seals for whatever `key` approves under `ref`. Needs no signed policy yet
 * and no authorization. With the name of the storage key from the enrolment
 * (Machine::storageName), a TPM that shows another one is Refused and gets to
 * know nothing. */
SealedBlob seal(const Tpm& tpm, const PolicyKey& key, std::string_view ref,
                const Secret& secret,
                std::optional<ByteView> storageName = std::nullopt);

/** No policy at hand fits the machine's present state. */
class StateNotApproved : public Refused
{
  public:
    using Refused::Refused;
};

/** Unseals with the policy, of those given, that fits. StateNotApproved names
 * for each one what differs; TpmError with policyFailed() when the TPM does not
 * agree. A blob of another TPM is Refused. */
Secret unseal(const Tpm& tpm, const SealedBlob& blob, const PolicyKey& key,
              const std::vector<SignedPolicy>& policies);

/** StateNotApproved unless one of the policies would open what is sealed under
 * `ref` now, with `oldest` as the oldest generation that may. */
void requirePolicy(const Tpm& tpm, const PolicyKey& key, std::string_view ref,
                   std::uint64_t oldest,
                   const std::vector<SignedPolicy>& policies);

/** Does what is to be done for a secret, files and all, and then cap() whether
 * it worked or not: until the next restart nobody gets the secret again, nor
 * the one that did not come out. */
Secret unsealOnce(const Tpm& tpm, const std::function<Secret()>& unsealing);
/** The same for unseal(). */
Secret unsealOnce(const Tpm& tpm, const SealedBlob& blob, const PolicyKey& key,
                  const std::vector<SignedPolicy>& policies);

/** Extends a PCR by a fixed value, which no image is measured as. */
void cap(const Tpm& tpm, unsigned pcr = capPcr);

/** One attempt by steps, in the TPM alone: unseal() without its software
 * checks, for what wants to see the TPM refuse. */
class UnsealSession
{
  public:
    /** Satisfies the policy. TpmError when the TPM does not take it. With the
     * name of the storage key, the sessions are salted to no other one. */
    UnsealSession(const Tpm& tpm, const PolicyKey& key,
                  const SignedPolicy& policy,
                  std::optional<ByteView> storageName = std::nullopt);
    /** Once. */
    Secret unseal(const SealedBlob& blob, const PolicyKey& key);

  private:
    const Tpm& tpm_;
    Object storage_;
    Session session_;
};

/** Notes in the TPM which blob is the one in force: an older one, or one that
 * somebody else sealed for the same policy, is then Refused by requirePinned().
 * Needs the owner's authorization. */
void pin(const Tpm& tpm, const Secret& owner, const SealedBlob& blob);
void requirePinned(const Tpm& tpm, const SealedBlob& blob);
/** What the TPM has noted: the digest of a blob; nothing when none was. */
std::optional<Digest> pinned(const Tpm& tpm);

} // namespace airlock::trust
