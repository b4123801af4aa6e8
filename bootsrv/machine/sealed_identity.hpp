#pragma once

#include "bootsrv/machine/machine_tpm.hpp"
#include "bootsrv/machine/seal_store.hpp"
#include "common/secret.hpp"

#include <functional>
#include <memory>

namespace airlock::machine
{

/** The PCRs that a boot host's secrets are sealed to: docs/trust.md says why
 * these. */
trust::PcrSelection sealedPcrs();

/** The tag of clean mode's policies. */
inline constexpr const char* cleanRef = "clean";

/** All that a boot host has to keep from its dirty mode. */
struct SealedIdentity
{
    Secret addressRoot; ///< of its addresses at the switch
    Secret keptKey;     ///< of what clean mode keeps on the disk
    /** The root before this one, for as long as the switch may know that one
     * only; empty: there was none. */
    Secret previousRoot;
};

/** Unseals, once: after it nothing comes out until the next restart, whatever
 * this threw. */
SealedIdentity unsealIdentity(const trust::Tpm& tpm, const SealRecord& record,
                              const trust::PolicyKey& key);

/** Steps that an enrolment does with the owner's authorization before the
 * secrets are sealed, for parts that keep something in the TPM or on the
 * disk. */
using EnrolmentStep = std::function<void(
    const std::shared_ptr<MachineTpm>& tpm, const Secret& owner,
    const EnrolmentRequest& request, const SealedIdentity& identity)>;

/** What a request to enrol has to be signed for: this TPM, with what is in
 * force in it. Neither another TPM has it, nor this one once it was cleared or
 * an enrolment is done: a request is good for one. */
Digest enrolmentTarget(const trust::Tpm& tpm);
/** Has the record say it, for the site to sign. In a TPM that nobody owns the
 * keys are made that it takes. It is only written when it changed. */
void noteTarget(const trust::Tpm& tpm, const SealStore& store,
                SealRecord& record);

/** Refused unless the site asked this machine, as it is now, to enrol. */
void requireWanted(const trust::Tpm& tpm, const EnrolmentRequest& request,
                   const trust::PolicyKey& key);
/** A machine that has an identity keeps it when somebody leaves it a request
 * that does not count: takes it off the disk and says why. Else "". */
std::string dropUnwanted(const trust::Tpm& tpm, const SealStore& store,
                         SealRecord& record, const trust::PolicyKey& key);

/** Makes the TPM ours and seals a new identity, as the request in the store
 * says. Each step is on the disk before the TPM holds to it, so that it can be
 * begun again after a power cut. In the end the request is gone.
 *
 * Refused when the request does not count (requireWanted()) or no policy fits
 * this boot: then nothing was done. */
void enrollIdentity(const std::shared_ptr<MachineTpm>& tpm,
                    const SealStore& store, const trust::PolicyKey& key,
                    const EnrolmentStep& step);

/** Whether an identity may be given another root: not while the switch may
 * know only the one before it, which would be forgotten. */
using MayRotate =
    std::function<bool(const trust::Tpm& tpm, const SealedIdentity& now)>;

/** Before unsealIdentity(): seals a new root beside the present one, when the
 * record has a request for it that counts. At any time the TPM holds to one of
 * both blobs, and each has all that the switch may know; so it can be begun
 * again after a power cut. In the end the request is gone.
 *
 * "" when there was nothing to do, or it was done; else why not: then the
 * machine goes on as it is. A request that does not count is gone too. */
std::string rotateRoot(const trust::Tpm& tpm, const SealStore& store,
                       SealRecord& record, const trust::PolicyKey& key,
                       const MayRotate& may);

/** The firmware's log of this boot. Empty when the kernel has none. */
Bytes measuredBoot();

} // namespace airlock::machine
