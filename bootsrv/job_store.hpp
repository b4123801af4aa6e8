#pragma once

#include "bootsrv/jobs.hpp"
#include "common/fd.hpp"
#include "common/http.hpp"
#include "devmodel/handover/image_stream.hpp"

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>

/** The jobs of a boot server.
 *
 * Each job is a directory below the state directory:
 *
 *     jobs/ID/job.json    who asked for what
 *     jobs/ID/state.json  JobStatus; every change replaces it, synced
 *     jobs/ID/disks/N     disks as they were uploaded: sparse raw images that
 *                         nothing but a copy ever reads
 *     jobs/ID/run/        what the boot works on, the dirty side's: hostile
 *     jobs/ID/out/        the result, written by the clean side only
 *
 * A job that is gone keeps its two files for a while, so that its nonce cannot
 * be used again. The bulk data is not synced: it outlives this process, but
 * not the machine. Jobs from before a restart of the machine are failed as
 * "lost", for the host agent to send again; syncing gigabytes on the way of
 * every reboot would cost each guest more than that.
 */
namespace airlock::boot
{

/** A job that is to be booted. */
struct Work
{
    std::string id;
    std::filesystem::path directory; ///< jobs/ID
    JobRequest request;
    /** Set when nobody wants the result any more. */
    std::shared_ptr<const std::atomic<bool>> cancelled;
};

/** File names within a job's directory. */
std::filesystem::path diskFile(const std::filesystem::path& directory,
                               std::size_t disk);
std::filesystem::path runDirectory(const std::filesystem::path& directory);
std::filesystem::path resultFile(const std::filesystem::path& directory,
                                 ResultFile file, std::size_t disk = 0);

class JobStore : public Jobs
{
  public:
    /** Takes up what an earlier process left: half-made jobs are removed,
     * unfinished boots queued again. Throws Error when the directory cannot be
     * used or another process uses it. */
    JobStore(std::filesystem::path directory, const Quota& quota);
    ~JobStore() override;

    Created create(const std::string& owner,
                   const JobRequest& request) override;
    JobStatus status(const std::string& owner, const std::string& id) override;
    std::vector<JobStatus> list(const std::string& owner) override;
    JobStatus seal(const std::string& owner, const std::string& id) override;
    JobStatus remove(const std::string& owner, const std::string& id) override;

    std::unique_ptr<Upload> upload(const std::string& owner,
                                   const std::string& id,
                                   std::size_t disk) override;
    std::unique_ptr<http::BodySource> result(const std::string& owner,
                                             const std::string& id,
                                             ResultFile file,
                                             std::size_t disk = 0) override;
    /** A finished job's file. */
    UniqueFd openResult(const std::string& owner, const std::string& id,
                        ResultFile file, std::size_t disk = 0);

    /** The next job to boot, which is then `booting`: that of the tenant with
     * the fewest boots going on, among those the one who waited longest.
     * Blocks; nothing after stop(). */
    std::optional<Work> next();
    void stop();

    /** Progress of a boot. The time is that of the stage before. Of a job
     * that is gone meanwhile nothing is kept. */
    void stage(const std::string& id, const std::string& stage, double seconds);
    void done(const std::string& id, const JobResult& result);
    void failed(const std::string& id, const JobError& error);

    /** Ends what was kept too long. */
    void expire();

    Health health() const override;
    std::map<JobState, std::size_t> countByState() const;
    /** Writes to the disk and leaves nothing: throws Error when a job could
     * not be noted either. */
    void tryWrite() const;
    const Quota& quota() const { return quota_; }

  private:
    struct Job;
    class FileUpload;

    void recover();
    void recoverJob(const std::filesystem::path& directory);
    void settle(Job& job);
    Job& find(const std::string& owner, const std::string& id);
    void requireRoom(const std::string& owner, const JobRequest& request) const;
    void save(Job& job);
    /** All of it, or nothing when it cannot be noted. */
    void change(Job& job, JobState state,
                const std::function<void(JobStatus&)>& edit = {});
    void giveUp(Job& job, JobState state);
    void end(Job& job);
    void fail(Job& job, const JobError& error);
    /** A boot is over: notes it of a job that still waits for it. */
    void ended(const std::string& id, const std::function<void(Job&)>& note);
    void forgetOldest();
    Job* nextQueued();
    JobStatus uploaded(const std::string& id, std::size_t disk,
                       std::uint64_t ticket, const std::filesystem::path& part);

    std::filesystem::path directory_;
    Quota quota_;
    UniqueFd lock_;
    std::string bootId_; ///< of this machine, since it was started
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    bool stopping_ = false;
    std::map<std::string, std::unique_ptr<Job>> jobs_;
    std::map<std::string, std::uint64_t> lastTurn_; ///< by tenant
    std::uint64_t turn_ = 0;
    std::uint64_t tickets_ = 0;
};

} // namespace airlock::boot
