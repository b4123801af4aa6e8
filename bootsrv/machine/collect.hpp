#pragma once

#include "bootsrv/job.hpp"
#include "bootsrv/machine/staging.hpp"

#include <map>
#include <optional>
#include <string>

namespace airlock::machine
{

/** What dirty mode says of its boot, in the record `result`. */
struct RunReport
{
    std::string code; ///< "done", or of a failure as in docs/protocol-boot.md
    std::string message;
    std::map<std::string, double> seconds; ///< by stage; nothing relies on it

    std::string toText() const;
    /** Reads a report that may be anything. Throws Refused. */
    static RunReport parse(std::string_view text);
};

/** A result as clean mode has checked and described it. */
struct Collected
{
    std::string manifest; ///< the text of manifest.json
    Bytes digests;        ///< MemoryDigest::encode()
    std::uint64_t stateBytes = 0;
    boot::JobResult result;
};

/** What the run left behind; nothing when it did not come to its end. Throws
 * Refused when it is no report. */
std::optional<RunReport> readReport(const CryptArea& out, const Layout& layout);

/** Looks through a result that a hostile system left: once, from its beginning
 * to its end, bounded by the request. What the device state, the memory and the
 * disks mean is for the production host to judge; here their form is checked,
 * and digests and manifest are made. `seconds` go into the manifest; they are
 * clean mode's own. Throws Refused. */
Collected collectResult(const CryptArea& out, const Layout& layout,
                        const boot::JobRequest& request,
                        const std::map<std::string, double>& seconds);

} // namespace airlock::machine
