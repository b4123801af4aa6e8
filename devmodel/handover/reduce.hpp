#pragma once

#include "devmodel/handover/section.hpp"

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace airlock::handover
{

/** A section that the production machine has no device for. */
struct DroppedSection
{
    SectionId id;
    std::string why;    ///< device class, or "migration bookkeeping"
    std::string device; ///< catalog id; empty for bookkeeping
    std::size_t bytes = 0;
};

/** What reduce() made of a machine's sections. */
struct Reduced
{
    std::vector<Section> kept; ///< REQUIRED devices, in the given order
    std::vector<DroppedSection> dropped;

    std::size_t keptBytes() const;
    std::size_t droppedBytes() const;
};

/** True for sections that describe the migration or the host's side and not a
 * device: "globalstate" (run state, migration/global_state.c), "slirp" (host
 * connections of a user-mode network back-end). */
bool isBookkeeping(const SectionId& id);

/** Drops the sections of all devices but the catalog's REQUIRED ones.
 *
 * The kept payloads are still the sender's: nothing may be loaded that has not
 * been admitted. Throws Refused on a section that the catalog does not know
 * and on duplicates.
 */
Reduced reduce(std::vector<Section> sections);

} // namespace airlock::handover
