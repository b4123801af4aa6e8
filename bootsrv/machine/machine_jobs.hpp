#pragma once

#include "bootsrv/jobs.hpp"
#include "bootsrv/machine/collect.hpp"
#include "bootsrv/machine/kept.hpp"
#include "bootsrv/machine/staging.hpp"

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

namespace airlock::machine
{

/** The jobs of a machine: one at a time. Its disks go straight into staging,
 * its result is served from there; what is known of it is in Kept.
 *
 *     receiving --seal--> queued --goDirty()--> booting | power cycle
 *     booting, ran --collect()--> done | failed
 *
 * Every change of state is in Kept before it is acted on, so that after a loss
 * of power the job is where it was, or has failed: the power may go at any
 * write. Unlike with a directory, what was uploaded is synced before it counts.
 *
 * A job that is gone takes its key with it, and with that all that is in
 * staging. */
class MachineJobs : public boot::Jobs
{
  public:
    /** Takes up what an earlier life of the machine left. Both have to outlive
     * it. */
    MachineJobs(Kept& kept, Blocks& staging);
    ~MachineJobs() override;

    Created create(const std::string& owner,
                   const boot::JobRequest& request) override;
    boot::JobStatus status(const std::string& owner,
                           const std::string& id) override;
    std::vector<boot::JobStatus> list(const std::string& owner) override;
    boot::JobStatus seal(const std::string& owner,
                         const std::string& id) override;
    boot::JobStatus remove(const std::string& owner,
                           const std::string& id) override;
    std::unique_ptr<Upload> upload(const std::string& owner,
                                   const std::string& id,
                                   std::size_t disk) override;
    std::unique_ptr<http::BodySource> result(const std::string& owner,
                                             const std::string& id,
                                             boot::ResultFile file,
                                             std::size_t disk = 0) override;
    boot::Health health() const override;

    /** Whether dirty mode has run and nobody has looked at what it left. */
    bool needsCollecting() const;
    /** Looks at it; takes as long as reading it. Nothing else to do: nothing.
     */
    void collect();

    /** Waits for a job that is sealed; false after the time. */
    bool waitSealed(Milliseconds time);

    /** From the answer of the switch on nobody can reach us: the sealed job is
     * `booting` for good, staging has its key for dirty mode. False when it
     * was removed in the meantime. */
    bool goDirty();

    /** Ends what was kept too long. */
    void expire();

  private:
    class StagedUpload;
    class StagedSource;
    struct Data;

    void recover();
    KeptJob find(const std::string& owner, const std::string& id) const;
    bool awaitsCollecting(const KeptJob& job) const;
    boot::JobStatus told(const KeptJob& job) const;
    void requireRoom(const boot::JobRequest& request) const;
    void change(const std::function<void(KeptJob&)>& action,
                KeptStore::Write how = KeptStore::Write::once);
    void enter(boot::JobState state);
    void dropData();
    void fail(const boot::JobError& error);
    void end();
    void discard();
    void noteCollected(const RunReport& report, Collected made);
    boot::JobStatus uploaded(const std::string& id, std::size_t disk,
                             std::uint64_t ticket);

    Kept& kept_;
    Blocks& staging_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::shared_ptr<Data> data_;
    std::uint64_t tickets_ = 0;
};

} // namespace airlock::machine
