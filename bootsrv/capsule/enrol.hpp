#pragma once

#include "bootsrv/capsule/capsule.hpp"
#include "bootsrv/machine/seal_store.hpp"

/** Enrolment and new images, from the outside: the site's side of what
 * machine::cleanInit() does. */
namespace airlock::capsule
{

/** Certificates in a site's directory. */
SecureBootKeys keysIn(const std::filesystem::path& site);
/** From the files that the site has for a machine. `addressRoot` has 64
 * hexadecimal digits; it is made when it is not there: the switch agent reads
 * it too. `config`: JSON, what clean mode has to know. */
machine::EnrolmentRequest requestFrom(const std::string& name,
                                      const std::filesystem::path& addressRoot,
                                      const std::filesystem::path& config);

/** The seal record of a capsule that is not running. */
machine::SealStore sealStoreOf(const Capsule& capsule);

/** The site approves what this log shows: the state of the boot that wrote
 * it. Dirty mode may have left the log, so it has to be of a boot of the site's
 * own image of clean mode; Refused when it is not. */
trust::SignedPolicy approveLog(const trust::Key& siteKey, ByteView log,
                               const std::filesystem::path& cleanImage,
                               const std::string& name,
                               std::uint64_t generation);

/** What the site has its machines enrolled with. */
struct Approval
{
    const trust::Key& siteKey;
    std::filesystem::path cleanImage; ///< that has measured itself
    std::uint64_t generation = 1;
};

/** The site asks the machine of this record, as it was when it noted it, to
 * enrol: the policy for the state that its log shows, and the request, signed
 * for its TPM. Refused when the record says nothing of the machine, or its log
 * is of another image. */
void approveEnrolment(machine::SealRecord& record, const Approval& approval,
                      machine::EnrolmentRequest request);

/** The site asks the machine of this record, as it was when it noted it, for a
 * new root of its addresses. Refused when it is not enrolled. */
machine::RotationRequest askForRotation(const machine::SealRecord& record,
                                        const trust::Key& siteKey);

/** The site approves the state that the machine of this log will be in with
 * another clean image. */
trust::SignedPolicy approveUpdate(const trust::Key& siteKey, ByteView log,
                                  const std::filesystem::path& before,
                                  const std::filesystem::path& after,
                                  const std::string& name,
                                  std::uint64_t generation);

/** Two boots: one to measure, one in which clean mode makes the TPM its own.
 * Throws Error with the console's last words when either does not end as it
 * should. */
void enrollCapsule(Capsule& capsule, const CapsuleOptions& options,
                   const Approval& approval, machine::EnrolmentRequest request,
                   Milliseconds bootTime);

} // namespace airlock::capsule
