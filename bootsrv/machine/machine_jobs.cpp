#include "bootsrv/machine/machine_jobs.hpp"

#include "common/error.hpp"
#include "common/log.hpp"
#include "devmodel/handover/image_stream.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>

namespace airlock::machine
{

using boot::JobError;
using boot::JobRequest;
using boot::JobState;
using boot::JobStatus;
using http::Problem;

namespace
{

constexpr std::int64_t rememberGone = 86400;

std::int64_t now()
{
    return static_cast<std::int64_t>(std::time(nullptr));
}

Problem conflict(const char* code, const std::string& message)
{
    return {409, code, message};
}

Problem goneProblem()
{
    return {410, "gone", "this job was there and is gone"};
}

Problem notFound(const char* what)
{
    return {404, "not-found", what};
}

/** What tells a request from another one with the same nonce. */
std::string printOf(const JobRequest& request)
{
    constexpr std::size_t printBytes = 8;
    std::string text = dumpJson(request.toJson());
    Digest digest = sha256(asBytes(text));
    return toHex(ByteView(digest).first(printBytes));
}

bool hasData(JobState state)
{
    return state != JobState::failed && state != JobState::gone;
}

const GoneJob* findGone(const KeptRecord& record, const std::string& id)
{
    auto found = std::find_if(record.gone.begin(), record.gone.end(),
                              [&id](const GoneJob& it) { return it.id == id; });
    return found == record.gone.end() ? nullptr : &*found;
}

JobStatus goneStatus(const std::string& id)
{
    JobStatus out;
    out.id = id;
    out.state = JobState::gone;
    return out;
}

/** The record without a job, which is remembered. */
void forget(KeptRecord& record)
{
    record.gone.push_back({record.job->status.id, record.job->owner,
                           printOf(record.job->request), now()});
    std::erase_if(record.gone, [](const GoneJob& it) {
        return it.since < now() - rememberGone;
    });
    if (record.gone.size() > KeptRecord::maxGone)
    {
        record.gone.erase(record.gone.begin());
    }
    record.job.reset();
}

/** A text as an answer. */
class BytesSource : public http::BodySource
{
  public:
    explicit BytesSource(Bytes bytes) : bytes_(std::move(bytes)) {}
    std::uint64_t bytes() const override { return bytes_.size(); }
    std::size_t read(std::span<std::uint8_t> out) override
    {
        std::size_t size = std::min(out.size(), bytes_.size() - at_);
        std::copy_n(bytes_.begin() + static_cast<std::ptrdiff_t>(at_), size,
                    out.begin());
        at_ += size;
        return size;
    }

  private:
    Bytes bytes_;
    std::size_t at_ = 0;
};

} // namespace

/** Of the one job, while it has data. */
struct MachineJobs::Data
{
    Data(Blocks& staging, const KeptJob& job)
        : layout(Layout::of(job.request, staging.bytes())),
          in(staging, layout.in, *job.key, inArea),
          out(staging, layout.out, *job.key, outArea),
          newest(job.request.disks.size())
    {
        for (std::size_t i = 0; i < job.request.disks.size(); i++)
        {
            writing.push_back(std::make_unique<std::mutex>());
        }
    }

    Layout layout;
    CryptArea in;
    CryptArea out;
    /** By disk: who writes to its place. */
    std::vector<std::unique_ptr<std::mutex>> writing;
    /** By disk: the ticket of the upload that was begun last. */
    std::vector<std::atomic<std::uint64_t>> newest;
    std::optional<Collected> collected;
};

/** Checks an image stream for its form on its way into staging. */
class MachineJobs::StagedUpload : public boot::Jobs::Upload
{
  public:
    StagedUpload(MachineJobs& jobs, std::shared_ptr<Data> data, std::string id,
                 std::size_t disk, std::uint64_t bytes, std::uint64_t ticket)
        : jobs_(jobs), data_(std::move(data)), id_(std::move(id)), disk_(disk),
          bytes_(bytes), ticket_(ticket),
          writer_(data_->in, data_->layout.disks.at(disk)),
          reader_(bytes, [](const handover::ImageChunk&) {})
    {}

    std::uint64_t maxBytes() const override
    {
        return handover::imageStreamMaxBytes(bytes_);
    }

    void feed(ByteView data) override
    {
        std::lock_guard lock(*data_->writing[disk_]);
        requireNewest();
        reader_.feed(data);
        writer_.write(data);
    }

    std::uint64_t position() const override { return reader_.position(); }

    JobStatus finish() override
    {
        {
            std::lock_guard lock(*data_->writing[disk_]);
            requireNewest();
            reader_.finish();
            writer_.finish();
            data_->in.sync();
        }
        return jobs_.uploaded(id_, disk_, ticket_);
    }

  private:
    void requireNewest() const
    {
        if (data_->newest[disk_] != ticket_)
        {
            throw conflict("superseded",
                           "another upload of this disk was begun");
        }
    }

    MachineJobs& jobs_;
    std::shared_ptr<Data> data_;
    std::string id_;
    std::size_t disk_;
    std::uint64_t bytes_;
    std::uint64_t ticket_;
    RecordWriter writer_;
    handover::ImageStreamReader reader_;
};

/** The bytes of a record in staging as an answer. */
class MachineJobs::StagedSource : public http::BodySource
{
  public:
    StagedSource(std::shared_ptr<Data> data, const Slot& slot,
                 std::uint64_t bytes)
        : data_(std::move(data)), at_(slot.offset + sectorBytes), bytes_(bytes)
    {}
    std::uint64_t bytes() const override { return bytes_; }
    std::size_t read(std::span<std::uint8_t> out) override
    {
        data_->out.read(out, at_);
        at_ += out.size();
        return out.size();
    }

  private:
    std::shared_ptr<Data> data_;
    std::uint64_t at_;
    std::uint64_t bytes_;
};

MachineJobs::MachineJobs(Kept& kept, Blocks& staging)
    : kept_(kept), staging_(staging)
{
    recover();
}

MachineJobs::~MachineJobs() = default;

/** What becomes of a job from the machine's earlier life. The header goes last:
 * as long as it is there, dirty mode may have run. */
void MachineJobs::recover()
{
    std::optional<KeptJob> job = kept_.get().job;
    bool header = hasHeader(staging_);
    if (job && hasData(job->status.state))
    {
        data_ = std::make_shared<Data>(staging_, *job);
    }
    if (job && job->status.state == JobState::booting)
    {
        if (job->ran || header)
        {
            change([](KeptJob& it) {
                if (!it.ran)
                {
                    it.ran = true;
                    it.status.seconds["dirty"] = static_cast<double>(
                        std::max<std::int64_t>(0, now() - it.since));
                }
            });
        }
        else if (job->status.tries >= kept_.get().site.quota.tries)
        {
            fail({"gave-up",
                  fmt::format("the machine was to start in dirty mode {} times "
                              "and did not",
                              job->status.tries)});
        }
        else
        {
            enter(JobState::queued);
        }
    }
    if (header)
    {
        clearHeader(staging_);
    }
}

void MachineJobs::change(const std::function<void(KeptJob&)>& action,
                         KeptStore::Write how)
{
    kept_.change([&action](KeptRecord& record) { action(record.job.value()); },
                 how);
    changed_.notify_all();
}

void MachineJobs::enter(JobState state)
{
    change([state](KeptJob& job) {
        job.status.state = state;
        job.since = now();
    });
}

/** Nobody writes to staging for the job any more, nor ever will. */
void MachineJobs::dropData()
{
    if (!data_)
    {
        return;
    }
    for (std::size_t i = 0; i < data_->newest.size(); i++)
    {
        data_->newest[i] = ++tickets_;
        std::lock_guard wait(*data_->writing[i]);
    }
    data_.reset();
}

/** Its key is destroyed; with it goes what is in staging. */
void MachineJobs::fail(const JobError& error)
{
    dropData();
    change(
        [&error](KeptJob& job) {
            job.key = std::make_shared<Secret>(Secret::random());
            job.status.state = JobState::failed;
            job.status.stage.clear();
            job.status.error = error;
            job.since = now();
        },
        KeptStore::Write::erasing);
    discard();
    JobStatus status = kept_.get().job.value().status;
    log::warning(
        "A job has failed",
        {{"JOB", status.id}, {"CODE", error.code}, {"REASON", error.message}});
}

void MachineJobs::end()
{
    dropData();
    kept_.change(forget, KeptStore::Write::erasing);
    changed_.notify_all();
    discard();
}

/** Without its key it is noise; flash memory is glad to hear it all the same.
 */
void MachineJobs::discard()
{
    staging_.discard(headerBytes, staging_.bytes() - headerBytes);
}

/** The job of this id, as it is to be told. */
KeptJob MachineJobs::find(const std::string& owner, const std::string& id) const
{
    KeptRecord record = kept_.get();
    if (record.job && record.job->status.id == id && record.job->owner == owner)
    {
        return *record.job;
    }
    const GoneJob* gone = findGone(record, id);
    if (gone != nullptr && gone->owner == owner)
    {
        throw goneProblem();
    }
    throw notFound("there is no such job");
}

JobStatus MachineJobs::told(const KeptJob& job) const
{
    JobStatus out = job.status;
    if (awaitsCollecting(job))
    {
        // After a restart a result that was known is looked through again.
        out.state = JobState::booting;
        out.stage = "digest";
        out.result.reset();
    }
    return out;
}

void MachineJobs::requireRoom(const JobRequest& request) const
{
    boot::Quota quota = kept_.get().site.quota;
    if (request.timeout <= std::chrono::seconds(0) ||
        request.timeout > quota.boot)
    {
        throw Refused("job request: timeout-seconds",
                      fmt::format("has to be 1 to {}", quota.boot.count()));
    }
    if (dumpJson(request.toJson()).size() > requestMaxBytes)
    {
        throw Problem(413, "too-large", "the job request is too long");
    }
    if (Layout::bytesFor(request) > staging_.bytes())
    {
        throw Problem(
            413, "too-large",
            fmt::format("the job needs {} bytes on the disk, there are {}",
                        Layout::bytesFor(request), staging_.bytes()));
    }
}

boot::Jobs::Created MachineJobs::create(const std::string& owner,
                                        const JobRequest& request)
{
    std::string id = boot::jobId(request.job.nonce);
    std::lock_guard lock(mutex_);
    KeptRecord record = kept_.get();
    if (record.job && record.job->status.id == id)
    {
        if (record.job->owner != owner ||
            printOf(record.job->request) != printOf(request))
        {
            throw conflict("nonce-used", "another job had this nonce");
        }
        return {told(*record.job), false};
    }
    if (const GoneJob* gone = findGone(record, id))
    {
        if (gone->owner != owner || gone->print != printOf(request))
        {
            throw conflict("nonce-used", "another job had this nonce");
        }
        throw goneProblem();
    }
    requireRoom(request);
    if (record.job && record.job->status.state != JobState::failed)
    {
        throw Problem(429, "too-many-jobs",
                      "the boot server has a job, and there is room for one");
    }
    KeptJob job;
    job.owner = owner;
    job.request = request;
    job.status.id = id;
    job.status.uploaded.resize(request.disks.size(), false);
    job.since = now();
    auto data = std::make_shared<Data>(staging_, job);
    kept_.change([&job](KeptRecord& it) {
        if (it.job)
        {
            forget(it); // a failed one gives way
        }
        it.job = job;
    });
    data_ = std::move(data);
    return {job.status, true};
}

JobStatus MachineJobs::status(const std::string& owner, const std::string& id)
{
    std::lock_guard lock(mutex_);
    try
    {
        return told(find(owner, id));
    }
    catch (const Problem& problem)
    {
        if (problem.status() == 410)
        {
            return goneStatus(id);
        }
        throw;
    }
}

std::vector<JobStatus> MachineJobs::list(const std::string& owner)
{
    std::lock_guard lock(mutex_);
    KeptRecord record = kept_.get();
    std::vector<JobStatus> out;
    if (record.job && record.job->owner == owner)
    {
        out.push_back(told(*record.job));
    }
    return out;
}

JobStatus MachineJobs::seal(const std::string& owner, const std::string& id)
{
    std::lock_guard lock(mutex_);
    KeptJob job = find(owner, id);
    if (job.status.state != JobState::receiving)
    {
        return told(job);
    }
    for (std::size_t i = 0; i < job.status.uploaded.size(); i++)
    {
        if (!job.status.uploaded[i])
        {
            throw conflict("incomplete",
                           fmt::format("disk {} was not uploaded yet", i));
        }
    }
    enter(JobState::queued);
    return kept_.get().job.value().status;
}

JobStatus MachineJobs::remove(const std::string& owner, const std::string& id)
{
    std::lock_guard lock(mutex_);
    try
    {
        find(owner, id);
        end();
    }
    catch (const Problem& problem)
    {
        if (problem.status() != 410)
        {
            throw;
        }
    }
    return goneStatus(id);
}

std::unique_ptr<boot::Jobs::Upload>
MachineJobs::upload(const std::string& owner, const std::string& id,
                    std::size_t disk)
{
    std::lock_guard lock(mutex_);
    KeptJob job = find(owner, id);
    if (disk >= job.request.disks.size())
    {
        throw notFound("the job has no such disk");
    }
    if (job.status.state != JobState::receiving)
    {
        throw conflict("not-receiving", std::string("the job is ") +
                                            toText(job.status.state) +
                                            " and takes no disks any more");
    }
    if (job.status.uploaded[disk])
    {
        // It goes to the same place.
        change([disk](KeptJob& it) { it.status.uploaded[disk] = false; });
    }
    std::uint64_t ticket = ++tickets_;
    data_->newest[disk] = ticket;
    return std::make_unique<StagedUpload>(
        *this, data_, id, disk, job.request.disks[disk].bytes, ticket);
}

JobStatus MachineJobs::uploaded(const std::string& id, std::size_t disk,
                                std::uint64_t ticket)
{
    std::lock_guard lock(mutex_);
    KeptRecord record = kept_.get();
    if (!record.job || record.job->status.id != id || !data_ ||
        data_->newest[disk] != ticket ||
        record.job->status.state != JobState::receiving)
    {
        throw conflict("superseded", "the job does not wait for this upload "
                                     "any more");
    }
    change([disk](KeptJob& job) { job.status.uploaded[disk] = true; });
    return kept_.get().job.value().status;
}

std::unique_ptr<http::BodySource> MachineJobs::result(const std::string& owner,
                                                      const std::string& id,
                                                      boot::ResultFile file,
                                                      std::size_t disk)
{
    std::lock_guard lock(mutex_);
    KeptJob job = find(owner, id);
    JobStatus status = told(job);
    if (status.state != JobState::done || !data_ || !data_->collected)
    {
        throw conflict("not-done",
                       std::string("the job is ") + toText(status.state));
    }
    const Collected& made = *data_->collected;
    const Layout& layout = data_->layout;
    auto staged = [this](const Slot& slot, std::uint64_t bytes) {
        return std::make_unique<StagedSource>(data_, slot, bytes);
    };
    switch (file)
    {
    case boot::ResultFile::manifest:
        return std::make_unique<BytesSource>(
            Bytes(made.manifest.begin(), made.manifest.end()));
    case boot::ResultFile::digests:
        return std::make_unique<BytesSource>(made.digests);
    case boot::ResultFile::state:
        return staged(layout.state, made.stateBytes);
    case boot::ResultFile::memory:
        return staged(layout.memory, made.result.memoryBytes);
    case boot::ResultFile::disk:
        break;
    }
    if (disk >= layout.deltas.size() || !layout.deltas[disk])
    {
        throw notFound("the job has no such disk, or it is read-only");
    }
    return staged(*layout.deltas[disk], made.result.disks[disk].value().bytes);
}

boot::Health MachineJobs::health() const
{
    KeptRecord record = kept_.get();
    boot::Health out;
    out.mode = "clean";
    out.jobsMax = 1;
    out.bytesMax = staging_.bytes();
    if (record.job && hasData(record.job->status.state))
    {
        out.jobs = 1;
        out.bytes = Layout::bytesFor(record.job->request);
        out.bootsRunning =
            record.job->status.state == JobState::booting ? 1 : 0;
    }
    return out;
}

bool MachineJobs::awaitsCollecting(const KeptJob& job) const
{
    JobState state = job.status.state;
    return data_ && !data_->collected &&
           (state == JobState::done || (state == JobState::booting && job.ran));
}

bool MachineJobs::needsCollecting() const
{
    std::lock_guard lock(mutex_);
    std::optional<KeptJob> job = kept_.get().job;
    return job && awaitsCollecting(*job);
}

void MachineJobs::collect()
{
    std::shared_ptr<Data> data;
    std::optional<KeptJob> job;
    {
        std::lock_guard lock(mutex_);
        job = kept_.get().job;
        if (job && awaitsCollecting(*job))
        {
            data = data_;
        }
    }
    if (!data)
    {
        return;
    }
    std::optional<RunReport> report;
    std::optional<JobError> error;
    std::optional<Collected> made;
    try
    {
        report = readReport(data->out, data->layout);
        if (!report)
        {
            error = {"boot-failed", "the dirty run did not come to its end"};
        }
        else if (report->code != "done")
        {
            error = {report->code, report->message};
        }
        else
        {
            made = collectResult(data->out, data->layout, job->request,
                                 {{"dirty", job->status.seconds["dirty"]}});
        }
    }
    catch (const Refused& refused)
    {
        error = {"boot-failed",
                 std::string("what the dirty run left cannot be used: ") +
                     refused.what()};
    }
    std::lock_guard lock(mutex_);
    if (data != data_)
    {
        return; // it was removed in the meantime
    }
    if (error)
    {
        fail(*error);
        return;
    }
    noteCollected(*report, std::move(*made));
}

void MachineJobs::noteCollected(const RunReport& report, Collected made)
{
    KeptJob job = kept_.get().job.value();
    if (job.status.state == JobState::done)
    {
        JobStatus again = job.status;
        again.result = made.result;
        if (again.toJson() != job.status.toJson())
        {
            fail({"lost", "the result has changed on the disk"});
            return;
        }
        data_->collected = std::move(made);
        return;
    }
    change([&](KeptJob& it) {
        it.status.state = JobState::done;
        it.status.result = made.result;
        for (const auto& [stage, seconds] : report.seconds)
        {
            it.status.seconds[stage] = seconds;
        }
        it.since = now();
    });
    data_->collected = std::move(made);
}

bool MachineJobs::waitSealed(Milliseconds time)
{
    std::unique_lock lock(mutex_);
    auto sealed = [this] {
        std::optional<KeptJob> job = kept_.get().job;
        return job && job->status.state == JobState::queued;
    };
    return changed_.wait_for(lock, time, sealed);
}

bool MachineJobs::goDirty()
{
    std::lock_guard lock(mutex_);
    std::optional<KeptJob> job = kept_.get().job;
    if (!job || job->status.state != JobState::queued)
    {
        return false;
    }
    std::string text = dumpJson(job->request.toJson());
    writeRecord(data_->in, data_->layout.request, asBytes(text));
    // Of an earlier try.
    clearRecord(data_->out, data_->layout.result);
    staging_.sync();
    change(
        [](KeptJob& it) {
            it.status.state = JobState::booting;
            it.status.tries++;
            it.status.seconds.clear();
            it.status.seconds["queue"] = static_cast<double>(
                std::max<std::int64_t>(0, now() - it.since));
            it.since = now();
            it.ran = false;
        },
        KeptStore::Write::anchored);
    writeHeader(staging_, *job->key);
    return true;
}

void MachineJobs::expire()
{
    std::lock_guard lock(mutex_);
    KeptRecord record = kept_.get();
    if (!record.job)
    {
        return;
    }
    JobState state = record.job->status.state;
    bool idle = state == JobState::receiving || state == JobState::done ||
                state == JobState::failed;
    if (idle && record.job->since < now() - record.site.quota.keep.count())
    {
        log::notice("A job was kept too long and is removed",
                    {{"JOB", record.job->status.id}, {"STATE", toText(state)}});
        end();
    }
}

} // namespace airlock::machine
