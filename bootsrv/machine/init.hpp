#pragma once

#include "bootsrv/machine/modes.hpp"
#include "bootsrv/machine/sealed_identity.hpp"
#include "bootsrv/machine/system.hpp"

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

/** PID 1 of both images: all that comes before and after the work of a mode.
 * The work is a callback, so that tests can have images of their own. */
namespace airlock::machine
{

/** Labels of a boot host's partitions. */
inline constexpr const char* sealLabel = "airlock-seal";
inline constexpr const char* keptLabel = "airlock-kept";
inline constexpr const char* stagingLabel = "airlock-staging";

/** Files of the image. */
inline constexpr const char* moduleDirectory = "/modules";
inline constexpr const char* policyKeyFile = "/etc/airlock/policy.pem";
/** "off" or "reboot"; power-off when it is missing. */
inline constexpr const char* powerCycleFile = "/etc/airlock/power-cycle";

/** What clean mode's work is given. */
struct CleanParts
{
    std::shared_ptr<MachineTpm> tpm;
    SealedIdentity identity;
    std::filesystem::path kept;
    std::filesystem::path staging;
    std::string nic; ///< with the generic address, down; may be empty
    /** Has firmware start that mode next, with no memory of this one. */
    std::function<void(Mode next)> powerCycle;
};

/** Clean mode from the first instruction (steps 618 to 622 of FIG. 6): boot
 * order, kernel, measurements; unseal and cap; then the work. A machine that is
 * not enrolled notes its measurements, or enrols itself when it was asked to,
 * and powers off.
 *
 * Does not return: whatever goes wrong is said on the console, and the machine
 * powers off without having sent a frame.
 */
[[noreturn]] void cleanInit(const EnrolmentStep& enrol,
                            const std::function<void(CleanParts&)>& work,
                            const MayRotate& mayRotate = {});

/** Dirty mode (steps 612 to 616): the work, then the way back, which needs no
 * choice. After `limit` the machine ends whatever the work does. */
[[noreturn]] void dirtyInit(
    std::chrono::seconds limit,
    const std::function<void(const std::filesystem::path& staging)>& work);

} // namespace airlock::machine
