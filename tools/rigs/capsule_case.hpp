#pragma once

#include "bootsrv/capsule/capsule.hpp"
#include "bootsrv/machine/enrolment_request.hpp"
#include "common/deadline.hpp"
#include "trust/crypto.hpp"

#include <cstdint>
#include <filesystem>

namespace airlock::rig
{

/** What a capsule is made from: clean.efi, dirty.efi and the keys of their
 * site, in "site", of one directory. Error when they are not there. */
capsule::CapsuleParts partsOf(const std::filesystem::path& images,
                              std::uint64_t stagingSize);
/** The site's key that approves boot states. */
trust::Key policyKeyOf(const std::filesystem::path& images);

/** Has a capsule that was made from them measure itself and enrol, in two
 * starts. */
void enrol(capsule::Capsule& capsule, const capsule::CapsuleOptions& options,
           const std::filesystem::path& images,
           machine::EnrolmentRequest request, Milliseconds bootTime);

} // namespace airlock::rig
