#pragma once

#include "common/error.hpp"

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace airlock::host
{

/** Where the packages put the production QEMU. */
inline constexpr std::string_view defaultEmulator =
    "/usr/lib/airlock/production/qemu-system-x86_64";

struct AdoptOptions
{
    /** The production QEMU; without it an adopted domain keeps its own and a
     * new one gets defaultEmulator. */
    std::optional<std::string> emulator;
    /** Use this CPU model instead of the domain's. */
    std::optional<std::string> cpuModel;
    /** Make virtio devices of disks and NICs that are none: for guests that
     * have the drivers. */
    bool forceVirtio = false;
    /** Kept for revert() instead of the XML itself: the same without secrets.
     * Metadata can be read by whoever may only look. */
    std::optional<std::string> original;
    /** Settings for the metadata; what is missing stays as it is. */
    std::optional<std::string> booted;
    std::optional<std::string> tenant;
    std::optional<std::chrono::seconds> limit;
};

/** Something that was changed. */
struct AdoptNote
{
    std::string where; ///< element: "devices/sound"
    std::string text;  ///< what became of it, and what that means
};

/** Something that cannot be adopted. */
struct AdoptRefusal
{
    std::string where;
    std::string reason;
    std::string advice; ///< what to change
};

struct AdoptResult
{
    std::string xml; ///< empty when there are refusals
    std::vector<AdoptNote> notes;
    std::vector<AdoptRefusal> refusals;
    bool changed = false;

    bool ok() const { return refusals.empty(); }
};

/** Turns the XML of a libvirt domain into that of an airlock domain.
 *
 * Adopting the result again changes nothing; neither does what libvirt makes
 * of it (virsh define, dumpxml). All that stands in the way is found at once.
 * The XML from before is kept in the domain's metadata, as text: there it goes
 * where the domain goes (migration, another host, a backup of the XML) and is
 * gone when the domain is; a file beside it would do neither.
 *
 * Throws Refused when the text is no domain XML at all.
 */
AdoptResult adopt(std::string_view xml, const AdoptOptions& options = {});

/** The XML that adopt() kept, to the byte, but with the name that the
 * domain has now. Throws Refused when it is not there or is another domain's
 * (by UUID). */
std::string revert(std::string_view xml);

/** XML as adopt() formats it, with the kept original left out: for a diff. */
std::string readableXml(std::string_view xml);

} // namespace airlock::host
