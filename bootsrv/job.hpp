#pragma once

#include "bootsrv/qemu_facts.hpp"
#include "common/json.hpp"
#include "devmodel/handover/manifest.hpp"
#include "devmodel/vm/guest_spec.hpp"

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

/** What a host agent and a boot server tell each other about a job
 * (docs/protocol-boot.md). */
namespace airlock::boot
{

struct DiskShape
{
    std::uint64_t bytes = 0;
    bool readOnly = false;

    bool operator==(const DiskShape&) const = default;
};

/** Asks for one boot of one guest. */
struct JobRequest
{
    handover::JobTicket job;
    /** What the guest sees. Its UUID is job.vm; disks are empty here. */
    vm::GuestSpec guest;
    std::vector<DiskShape> disks;
    vm::BootOptions options;         ///< devices only
    std::string policy = "shell";    ///< see vm::parseBootedPolicy()
    std::chrono::seconds timeout{0}; ///< for the guest to come up
    std::string tenant;              ///< label; tenants take turns

    Json toJson() const;

    /** Reads a request that may be anything. Throws Refused with the path of
     * what is wrong; what comes back can be started. */
    static JobRequest parse(std::string_view text);

    /** Disks and memory: what counts for the quotas. */
    std::uint64_t bytes() const;
};

enum class JobState
{
    receiving,
    queued,
    booting,
    done,
    failed,
    gone,
};

const char* toText(JobState state);

struct JobError
{
    std::string code;
    std::string message;
};

/** A disk's delta as it can be downloaded. */
struct DeltaFile
{
    std::uint64_t bytes = 0; ///< of the image stream
    Digest sha256{};         ///< of the image stream
};

struct JobResult
{
    std::uint64_t memoryBytes = 0;               ///< of the image stream
    std::vector<std::optional<DeltaFile>> disks; ///< none: read-only
};

/** What a boot server says of a job. */
struct JobStatus
{
    std::string id;
    JobState state = JobState::receiving;
    std::string stage;                     ///< of a boot: "boot"
    std::vector<bool> uploaded;            ///< by disk
    unsigned tries = 0;                    ///< times that its boot was started
    std::map<std::string, double> seconds; ///< of each stage that is over
    std::optional<JobError> error;         ///< with failed
    std::optional<JobResult> result;       ///< with done

    Json toJson() const;
    /** Throws Refused. */
    static JobStatus parse(const JsonField& field);
};

/** What a boot server says of itself. */
struct Health
{
    std::string version;
    std::string mode; ///< "clean"
    std::uint64_t bootsRunning = 0, bootsMax = 0;
    std::uint64_t jobs = 0, jobsMax = 0;
    std::uint64_t bytes = 0, bytesMax = 0;
    std::optional<QemuFacts> qemu; ///< missing: it cannot be run

    Json toJson() const;
    static Health parse(const JsonField& field);
};

/** What the guest of a request looks like to the production host. */
handover::GuestShape shapeOf(const JobRequest& request);

/** The id that a boot server gives to the job with this nonce: 32 hex digits
 * that do not tell the nonce. */
std::string jobId(const Digest& nonce);

} // namespace airlock::boot
