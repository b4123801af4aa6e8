#pragma once

#include "bootsrv/job.hpp"
#include "common/http_server.hpp"

#include <memory>
#include <string>
#include <vector>

namespace airlock::boot
{

/** Names of what a finished job has; `disk` for deltas. */
enum class ResultFile
{
    manifest,
    state,
    digests,
    memory,
    disk,
};

/** What a boot server may be made to hold. */
struct Quota
{
    std::uint64_t jobs = 64;
    std::uint64_t jobsPerHost = 32;
    std::uint64_t jobBytes = 1ULL << 40;   ///< disks and memory of one job
    std::uint64_t totalBytes = 4ULL << 40; ///< of all jobs
    std::chrono::seconds boot{3600};       ///< longest time for a boot
    std::chrono::seconds keep{86400};      ///< not being worked on
    unsigned tries = 3;
};

/** What the calls of docs/protocol-boot.md do: jobs in a directory
 * (job_store.hpp), or the one job of a machine (machine/machine_jobs.hpp).
 *
 * Safe to use from several threads. What a host agent asks for wrongly is
 * thrown as http::Problem, with the codes of docs/protocol-boot.md; to a host
 * agent that is not the owner a job does not exist. */
class Jobs
{
  public:
    virtual ~Jobs() = default;

    struct Created
    {
        JobStatus status;
        bool fresh = false;
    };
    virtual Created create(const std::string& owner,
                           const JobRequest& request) = 0;
    virtual JobStatus status(const std::string& owner,
                             const std::string& id) = 0;
    virtual std::vector<JobStatus> list(const std::string& owner) = 0;
    virtual JobStatus seal(const std::string& owner, const std::string& id) = 0;
    virtual JobStatus remove(const std::string& owner,
                             const std::string& id) = 0;

    /** One upload of a disk. Destroyed before finish(), it leaves nothing. */
    class Upload
    {
      public:
        virtual ~Upload() = default;
        virtual std::uint64_t maxBytes() const = 0;
        virtual void feed(ByteView data) = 0;
        /** Bytes of the image that have been dealt with. */
        virtual std::uint64_t position() const = 0;
        virtual JobStatus finish() = 0;
    };
    /** A later upload of the same disk ends this one. */
    virtual std::unique_ptr<Upload> upload(const std::string& owner,
                                           const std::string& id,
                                           std::size_t disk) = 0;

    /** A part of a finished job's result. */
    virtual std::unique_ptr<http::BodySource> result(const std::string& owner,
                                                     const std::string& id,
                                                     ResultFile file,
                                                     std::size_t disk = 0) = 0;

    /** All but the boots' limit and QEMU. */
    virtual Health health() const = 0;
};

} // namespace airlock::boot
