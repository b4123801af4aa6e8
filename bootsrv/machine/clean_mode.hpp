#pragma once

#include "bootsrv/machine/modes.hpp"
#include "bootsrv/qemu_facts.hpp"
#include "common/secret.hpp"
#include "common/sha256.hpp"

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace airlock::machine
{

/** Where the newest sequence number of what clean mode keeps is noted, out of
 * dirty mode's reach: tpm_anchor.hpp. */
class SequenceAnchor
{
  public:
    virtual ~SequenceAnchor() = default;

    /** The number that was noted last; 0 at first. */
    virtual std::uint64_t floor() = 0;
    /** Notes a higher one. On return it is there for good. */
    virtual void raise(std::uint64_t sequence) = 0;
};

/** What clean mode has to be given: by PID 1, which has unsealed and capped
 * before. */
struct CleanSetup
{
    std::filesystem::path kept;    ///< partition "airlock-kept"
    std::filesystem::path staging; ///< partition "airlock-staging"
    Secret keptKey;                ///< unsealed
    Secret addressRoot;            ///< unsealed; shared with the switch
    /** Unsealed; the root before, which the switch may still have. May be
     * empty.
     */
    Secret previousRoot = {};
    std::shared_ptr<SequenceAnchor> anchor;

    /** The interface on the switch's port, down so far; with this name in this
     * network namespace. Empty: the network is not touched and no switch is
     * asked, for a machine with nothing but loopback, as in tests. */
    std::string nic;

    /** Proves to the switch with the TPM (method quote), see quote_prover.hpp;
     * empty where the site uses another method. */
    std::function<Bytes(const Digest& statement)> prove;

    /** What the QEMU of the dirty image can do, noted when the image was made:
     * clean mode has none to ask. Without it no host agent sends jobs. */
    std::optional<boot::QemuFacts> qemu;

    /** For files that OpenSSL wants to read; has to be in memory (/run). */
    std::filesystem::path runtime = "/run/airlock";

    /** Has the machine start in another mode, with all its memory lost; called
     * once, as the last thing. May return: then runCleanMode() does. */
    std::function<void(Mode next)> powerCycle;

    /** Set by somebody else: end without a mode change (tests, shutdown). */
    const std::atomic<bool>* stop = nullptr;
};

/** The whole of clean mode (steps 602 to 610 and 618 to 624 of FIG. 6): reads
 * what is kept, collects the result of a dirty run, proves itself to the switch
 * and serves the boot protocol; when a job is sealed, has itself cut off and
 * asks for dirty mode.
 *
 * Returns 0 after the power cycle was asked for or `stop` was set. Throws Error
 * when it cannot go on: what is kept does not belong to these secrets or was
 * rolled back, a disk fails. Then nothing was sent, and the machine should say
 * why on its console and stay off the network. Call it from the main thread.
 */
int runCleanMode(const CleanSetup& setup);

} // namespace airlock::machine
