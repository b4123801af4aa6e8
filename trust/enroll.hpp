#pragma once

#include "trust/sealing.hpp"

#include <filesystem>
#include <optional>

namespace airlock::trust
{

/** What a machine needs to unseal: whose policies, for which use, and those
 * that were signed so far. */
struct PolicySet
{
    PolicyKey key;
    std::string ref;
    std::vector<SignedPolicy> policies;
};

/** Makes a TPM ours, in an order that a power cut cannot spoil: keys; random
 * authorizations, sealed to the policy and on the disk; only then set in the
 * TPM, clearing forbidden.
 *
 * With signed policies, one of them has to fit now: the authorizations are
 * unsealed once before they are set. Without, nobody has tried.
 *
 * Leaves "machine.json" and "authorizations.sealed" in the directory. Can be
 * repeated; where authorizations are set already it has to unseal them, so it
 * needs a state that a policy approves. Refused when somebody else has set
 * them.
 */
Machine enrollMachine(const Tpm& tpm, const std::filesystem::path& directory,
                      const PolicySet& policy, EndorsementType type);

/** The authorizations that enrollMachine() left. */
Authorizations readAuthorizations(const Tpm& tpm,
                                  const std::filesystem::path& directory,
                                  const PolicySet& policy);

/** Raises the oldest generation that may unseal. One of the policies has to fit
 * now and be of no older one, or this machine would lock itself out:
 * StateNotApproved. */
void raiseGeneration(const Tpm& tpm, const std::filesystem::path& directory,
                     const PolicySet& policy, std::uint64_t value);

/** Seals and puts the blob into force, in an order that a power cut cannot
 * spoil: the new blob is on the disk beside the old one, then the TPM notes it,
 * then the old one goes. At each moment loadPinned() finds the one in force.
 * `storageName` as in seal(). */
SealedBlob storePinned(const Tpm& tpm, const std::filesystem::path& path,
                       const PolicySet& policy, const Secret& owner,
                       const Secret& secret,
                       std::optional<ByteView> storageName = std::nullopt);

/** The machine.json that enrollMachine() left. */
Machine readMachineFile(const std::filesystem::path& directory);

/** The blob in force: the file, or the one beside it that was not renamed yet.
 * Refused when neither is. */
SealedBlob loadPinned(const Tpm& tpm, const std::filesystem::path& path);

SealedBlob readBlob(const std::filesystem::path& path);
void writeBlob(const std::filesystem::path& path, const SealedBlob& blob);

} // namespace airlock::trust
