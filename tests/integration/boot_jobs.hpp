#pragma once

#include "bootsrv/client.hpp"
#include "tests/integration/guest_files.hpp"
#include "tests/unit/boot_request.hpp"

#include <chrono>
#include <string>
#include <string_view>

namespace airlock::test
{

/** A guest of ours as a job of a boot server, as a host agent has it: its disk
 * goes over the wire, and what the boot has written comes back into it. */
class GuestJob
{
  public:
    /** `files` has to outlive it. */
    explicit GuestJob(const GuestFiles& files,
                      std::chrono::seconds timeout = std::chrono::minutes(10));

    const boot::JobRequest& request() const { return request_; }

    /** Creates the job and uploads its disk; its id. To be sealed then. */
    std::string upload(boot::Client& client) const;
    /** Refused when it is no answer to this job and guest. */
    handover::Bundle fetchBundle(boot::Client& client,
                                 const std::string& id) const;
    /** Changes the disk as the production host would, here in its file. The
     * number of pages. */
    std::uint64_t applyDelta(boot::Client& client,
                             const boot::JobStatus& status) const;

  private:
    const vm::Disk& disk() const { return files_.spec().disks.front(); }

    const GuestFiles& files_;
    boot::JobRequest request_;
};

/** Where uploadSmall() puts its text: not at the edge of a page. */
inline constexpr std::uint64_t smallTextAt = 123456;

/** Creates a job of smallRequest()'s kind and uploads its disk, zeros with
 * `text` in it; its id. A guest without a system: its firmware runs, which is
 * enough to save. */
std::string uploadSmall(boot::Client& client, const boot::JobRequest& request,
                        std::string_view text = {},
                        std::uint64_t at = smallTextAt);

/** Asks again and again until the job is no longer on its way. After this time,
 * it is as it is. */
boot::JobStatus waitFinished(boot::Client& client, const std::string& id,
                             Milliseconds timeout);

} // namespace airlock::test
