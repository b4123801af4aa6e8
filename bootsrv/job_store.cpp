#include "bootsrv/job_store.hpp"

#include "common/error.hpp"
#include "common/file.hpp"
#include "common/log.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>

namespace airlock::boot
{

namespace fs = std::filesystem;
using http::Problem;

namespace
{

constexpr std::size_t stateFileMax = 2U << 20;
/** Gone jobs that are remembered; each is two small files. */
constexpr std::size_t maxGone = 4096;
constexpr std::chrono::seconds rememberGone = std::chrono::hours(24);
constexpr const char* jobName = "job.json";
constexpr const char* stateName = "state.json";
constexpr const char* newSuffix = ".new";

std::int64_t now()
{
    return static_cast<std::int64_t>(std::time(nullptr));
}

void makeDirectory(const fs::path& path)
{
    if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    {
        throwErrno("cannot create " + path.string());
    }
}

void removeTree(const fs::path& path)
{
    std::error_code error;
    fs::remove_all(path, error);
    if (error)
    {
        log::warning("Cannot remove files of a job",
                     {{"FILE", path.string()}, {"REASON", error.message()}});
    }
}

std::string readBootId()
{
    UniqueFd fd = openFile("/proc/sys/kernel/random/boot_id", O_RDONLY);
    Bytes text = readToEnd(fd.get(), 64, "boot id");
    const std::string_view line = asText(text);
    return plainText(line.substr(0, line.find('\n')));
}

/** Runs something that writes bulk data. */
template <typename Function>
auto orNoSpace(const Function& function)
{
    try
    {
        return function();
    }
    catch (const SystemError& error)
    {
        if (error.code() == ENOSPC || error.code() == EDQUOT)
        {
            throw Problem(507, "no-space", "the boot server's disk is full");
        }
        throw;
    }
}

Problem conflict(const char* code, const std::string& message)
{
    return {409, code, message};
}

bool isOver(JobState state)
{
    return state == JobState::failed || state == JobState::gone;
}

/** A file as an answer. */
class FileSource : public http::BodySource
{
  public:
    explicit FileSource(UniqueFd fd)
        : fd_(std::move(fd)), bytes_(fileSize(fd_.get()))
    {}
    std::uint64_t bytes() const override { return bytes_; }
    std::size_t read(std::span<std::uint8_t> out) override
    {
        readExactAt(fd_.get(), out, at_);
        at_ += out.size();
        return out.size();
    }

  private:
    UniqueFd fd_;
    std::uint64_t bytes_;
    std::uint64_t at_ = 0;
};

} // namespace

struct JobStore::Job
{
    JobRequest request;
    std::string owner;
    std::string requestText; ///< canonical, to compare repeated requests
    fs::path directory;
    JobStatus status;
    std::int64_t since = 0;  ///< when the state was entered; Unix time
    std::string bootId;      ///< of the machine when it was
    std::uint64_t order = 0; ///< of queueing
    std::shared_ptr<std::atomic<bool>> cancelled =
        std::make_shared<std::atomic<bool>>(false);
    /** The ticket of the last upload that was begun, by disk. */
    std::vector<std::shared_ptr<std::atomic<std::uint64_t>>> newest;

    void prepareUploads()
    {
        status.uploaded.resize(request.disks.size(), false);
        for (std::size_t i = 0; i < request.disks.size(); i++)
        {
            newest.push_back(std::make_shared<std::atomic<std::uint64_t>>(0));
        }
    }
};

/** To a file of its own until finish(). */
class JobStore::FileUpload : public Jobs::Upload
{
  public:
    FileUpload(JobStore& store, std::string id, std::size_t disk,
               std::uint64_t bytes, fs::path part, std::uint64_t ticket,
               std::shared_ptr<const std::atomic<std::uint64_t>> newest)
        : store_(store), id_(std::move(id)), disk_(disk), bytes_(bytes),
          part_(std::move(part)), ticket_(ticket), newest_(std::move(newest)),
          file_(openFile(part_, O_RDWR | O_CREAT | O_EXCL, 0600)),
          reader_(bytes, [this](const handover::ImageChunk& chunk) {
              handover::ImageFile(file_.get(), bytes_).write(chunk);
          })
    {
        if (::ftruncate(file_.get(), static_cast<off_t>(bytes_)) != 0)
        {
            throwErrno("cannot create " + part_.string());
        }
    }
    FileUpload(const FileUpload&) = delete;
    FileUpload& operator=(const FileUpload&) = delete;
    ~FileUpload() override
    {
        if (!part_.empty())
        {
            ::unlink(part_.c_str());
        }
    }

    std::uint64_t maxBytes() const override
    {
        return handover::imageStreamMaxBytes(bytes_);
    }

    void feed(ByteView data) override
    {
        if (*newest_ != ticket_)
        {
            throw conflict("superseded",
                           "another upload of this disk was begun");
        }
        orNoSpace([&] { reader_.feed(data); });
    }

    std::uint64_t position() const override { return reader_.position(); }

    JobStatus finish() override
    {
        reader_.finish();
        JobStatus status = store_.uploaded(id_, disk_, ticket_, part_);
        part_.clear();
        return status;
    }

  private:
    JobStore& store_;
    std::string id_;
    std::size_t disk_;
    std::uint64_t bytes_;
    fs::path part_;
    std::uint64_t ticket_;
    std::shared_ptr<const std::atomic<std::uint64_t>> newest_;
    UniqueFd file_;
    handover::ImageStreamReader reader_;
};

fs::path diskFile(const fs::path& directory, std::size_t disk)
{
    return directory / "disks" / std::to_string(disk);
}

fs::path runDirectory(const fs::path& directory)
{
    return directory / "run";
}

fs::path resultFile(const fs::path& directory, ResultFile file,
                    std::size_t disk)
{
    fs::path out = directory / "out";
    switch (file)
    {
    case ResultFile::manifest:
        return out / "manifest.json";
    case ResultFile::state:
        return out / "device-state";
    case ResultFile::digests:
        return out / "memory.digests";
    case ResultFile::memory:
        return out / "memory.stream";
    case ResultFile::disk:
        break;
    }
    return out / fmt::format("disk-{}.stream", disk);
}

JobStore::JobStore(fs::path directory, const Quota& quota)
    : directory_(std::move(directory)), quota_(quota), bootId_(readBootId())
{
    makeDirectory(directory_);
    makeDirectory(directory_ / "jobs");
    lock_ = openFile(directory_ / "lock", O_RDWR | O_CREAT, 0600);
    if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0)
    {
        throw Error("another boot server uses " + directory_.string());
    }
    recover();
}

JobStore::~JobStore() = default;

void JobStore::recover()
{
    for (const auto& entry : fs::directory_iterator(directory_ / "jobs"))
    {
        if (entry.path().extension() == newSuffix)
        {
            removeTree(entry.path());
            continue;
        }
        try
        {
            recoverJob(entry.path());
        }
        catch (const Error& error)
        {
            log::warning("A job that cannot be read is removed",
                         {{"JOB", entry.path().filename().string()},
                          {"REASON", error.what()}});
            removeTree(entry.path());
        }
    }
}

void JobStore::recoverJob(const fs::path& directory)
{
    auto job = std::make_unique<Job>();
    job->directory = directory;
    Json head =
        parseJson(readTextFile(directory / jobName, stateFileMax), jobName);
    JsonField field(head, jobName);
    job->owner = field.at("owner").string();
    job->requestText = dumpJson(field.at("request").json());
    job->request = JobRequest::parse(job->requestText);
    Json state =
        parseJson(readTextFile(directory / stateName, stateFileMax), stateName);
    JsonField saved(state, stateName);
    job->status = JobStatus::parse(saved.at("status"));
    job->since = saved.at("since").i64();
    job->bootId = saved.at("boot-id").string();
    job->prepareUploads();
    Job& it = *job;
    jobs_[it.status.id] = std::move(job);
    settle(it);
}

/** What becomes of a job that an earlier process left behind. */
void JobStore::settle(Job& job)
{
    removeTree(runDirectory(job.directory));
    if (isOver(job.status.state))
    {
        removeTree(job.directory / "disks");
        removeTree(job.directory / "out");
    }
    else if (job.bootId != bootId_)
    {
        fail(job, {"lost", "the boot server's machine was restarted; send the "
                           "job again"});
    }
    else if (job.status.state == JobState::booting &&
             job.status.tries >= quota_.tries)
    {
        fail(job, {"gave-up", fmt::format("its boot was started {} times and "
                                          "the boot server ended each time",
                                          job.status.tries)});
    }
    else if (job.status.state == JobState::booting)
    {
        removeTree(job.directory / "out");
        change(job, JobState::queued);
        log::notice("A boot that was cut off is queued again",
                    {{"JOB", job.status.id}});
    }
    else if (job.status.state == JobState::queued)
    {
        job.order = ++turn_;
    }
    else if (job.status.state == JobState::receiving)
    {
        makeDirectory(job.directory / "disks"); // see giveUp()
        for (const auto& entry :
             fs::directory_iterator(job.directory / "disks"))
        {
            if (entry.path().has_extension())
            {
                removeTree(entry.path()); // an upload that was cut off
            }
        }
    }
}

void JobStore::save(Job& job)
{
    Json state = {{"status", job.status.toJson()},
                  {"since", job.since},
                  {"boot-id", job.bootId}};
    writeFileAtomic(job.directory / stateName, dumpJson(state), 0600);
}

void JobStore::change(Job& job, JobState state,
                      const std::function<void(JobStatus&)>& edit)
{
    JobStatus old = job.status;
    std::int64_t since = job.since;
    if (edit)
    {
        edit(job.status);
    }
    job.status.state = state;
    job.since = now();
    job.bootId = bootId_;
    try
    {
        orNoSpace([&] { save(job); });
    }
    catch (...)
    {
        job.status = std::move(old);
        job.since = since;
        throw;
    }
    if (state == JobState::queued)
    {
        job.order = ++turn_;
    }
    changed_.notify_all();
}

/** Into a state in which a job has no files. On a full disk they go first:
 * they may be what fills it, and then there is room to note the state. */
void JobStore::giveUp(Job& job, JobState state)
{
    auto removeFiles = [&job] {
        for (const char* part : {"disks", "run", "out"})
        {
            removeTree(job.directory / part);
        }
    };
    try
    {
        change(job, state);
    }
    catch (const Problem&)
    {
        removeFiles();
        change(job, state);
    }
    removeFiles();
}

void JobStore::fail(Job& job, const JobError& error)
{
    job.status.error = error;
    job.status.stage.clear();
    giveUp(job, JobState::failed);
    log::warning("A job has failed", {{"JOB", job.status.id},
                                      {"VM_UUID", job.request.job.vm},
                                      {"DOMAIN", job.request.guest.name},
                                      {"CODE", error.code},
                                      {"REASON", error.message}});
}

JobStore::Job& JobStore::find(const std::string& owner, const std::string& id)
{
    auto found = jobs_.find(id);
    if (found == jobs_.end() || found->second->owner != owner)
    {
        throw Problem(404, "not-found", "there is no such job");
    }
    return *found->second;
}

void JobStore::requireRoom(const std::string& owner,
                           const JobRequest& request) const
{
    std::uint64_t count = 0;
    std::uint64_t his = 0;
    std::uint64_t bytes = 0;
    for (const auto& [id, job] : jobs_)
    {
        if (job->status.state != JobState::gone)
        {
            count++;
            his += job->owner == owner ? 1U : 0U;
            bytes += isOver(job->status.state) ? 0 : job->request.bytes();
        }
    }
    if (request.timeout <= std::chrono::seconds(0) ||
        request.timeout > quota_.boot)
    {
        throw Refused("job request: timeout-seconds",
                      fmt::format("has to be 1 to {}", quota_.boot.count()));
    }
    if (request.bytes() > quota_.jobBytes)
    {
        throw Problem(413, "too-large",
                      fmt::format("disks and memory have {} bytes, a job may "
                                  "have {} here",
                                  request.bytes(), quota_.jobBytes));
    }
    if (count >= quota_.jobs || his >= quota_.jobsPerHost)
    {
        throw Problem(429, "too-many-jobs",
                      "the boot server holds as many jobs as it may");
    }
    if (request.bytes() >
        quota_.totalBytes - std::min(bytes, quota_.totalBytes))
    {
        throw Problem(507, "no-space",
                      "the boot server has no room for the job's disks now");
    }
}

JobStore::Created JobStore::create(const std::string& owner,
                                   const JobRequest& request)
{
    std::string id = jobId(request.job.nonce);
    Json asked = request.toJson();
    std::lock_guard lock(mutex_);
    if (auto found = jobs_.find(id); found != jobs_.end())
    {
        Job& job = *found->second;
        if (job.owner != owner || job.requestText != dumpJson(asked))
        {
            throw conflict("nonce-used", "another job had this nonce");
        }
        if (job.status.state == JobState::gone)
        {
            throw Problem(410, "gone", "this job was there and is gone");
        }
        return {job.status, false};
    }
    requireRoom(owner, request);
    auto job = std::make_unique<Job>();
    job->request = request;
    job->owner = owner;
    job->requestText = dumpJson(asked);
    job->status.id = id;
    job->since = now();
    job->bootId = bootId_;
    job->prepareUploads();
    fs::path final = directory_ / "jobs" / id;
    job->directory = final.string() + newSuffix;
    try
    {
        orNoSpace([&] {
            removeTree(job->directory);
            makeDirectory(job->directory);
            makeDirectory(job->directory / "disks");
            Json head = {{"owner", owner}, {"request", asked}};
            writeFileAtomic(job->directory / jobName, dumpJson(head), 0600);
            save(*job);
            fs::rename(job->directory, final);
            syncDirectory(final.parent_path());
        });
    }
    catch (...)
    {
        removeTree(job->directory);
        throw;
    }
    job->directory = final;
    JobStatus status = job->status;
    jobs_[id] = std::move(job);
    return {status, true};
}

JobStatus JobStore::status(const std::string& owner, const std::string& id)
{
    std::lock_guard lock(mutex_);
    return find(owner, id).status;
}

std::vector<JobStatus> JobStore::list(const std::string& owner)
{
    std::lock_guard lock(mutex_);
    std::vector<JobStatus> out;
    for (const auto& [id, job] : jobs_)
    {
        if (job->owner == owner && job->status.state != JobState::gone)
        {
            out.push_back(job->status);
        }
    }
    return out;
}

JobStatus JobStore::seal(const std::string& owner, const std::string& id)
{
    std::lock_guard lock(mutex_);
    Job& job = find(owner, id);
    if (job.status.state == JobState::gone)
    {
        throw Problem(410, "gone", "this job was there and is gone");
    }
    if (job.status.state != JobState::receiving)
    {
        return job.status;
    }
    for (std::size_t i = 0; i < job.status.uploaded.size(); i++)
    {
        if (!job.status.uploaded[i])
        {
            throw conflict("incomplete",
                           fmt::format("disk {} was not uploaded yet", i));
        }
    }
    change(job, JobState::queued);
    return job.status;
}

/** A job ends for good; its files go. */
void JobStore::end(Job& job)
{
    *job.cancelled = true;
    for (auto& ticket : job.newest)
    {
        *ticket = ++tickets_;
    }
    job.status.stage.clear();
    job.status.result.reset();
    job.status.error.reset();
    giveUp(job, JobState::gone);
}

void JobStore::forgetOldest()
{
    std::vector<Job*> gone;
    for (const auto& [id, job] : jobs_)
    {
        if (job->status.state == JobState::gone)
        {
            gone.push_back(job.get());
        }
    }
    std::sort(gone.begin(), gone.end(),
              [](const Job* a, const Job* b) { return a->since < b->since; });
    std::size_t surplus = gone.size() - std::min(gone.size(), maxGone);
    std::int64_t oldest = now() - rememberGone.count();
    for (std::size_t i = 0; i < gone.size(); i++)
    {
        if (i < surplus || gone[i]->since < oldest)
        {
            removeTree(gone[i]->directory);
            jobs_.erase(gone[i]->status.id);
        }
    }
}

JobStatus JobStore::remove(const std::string& owner, const std::string& id)
{
    std::lock_guard lock(mutex_);
    Job& job = find(owner, id);
    if (job.status.state != JobState::gone)
    {
        end(job);
    }
    forgetOldest();
    JobStatus status;
    status.id = id;
    status.state = JobState::gone;
    return status;
}

std::unique_ptr<Jobs::Upload> JobStore::upload(const std::string& owner,
                                               const std::string& id,
                                               std::size_t disk)
{
    std::lock_guard lock(mutex_);
    Job& job = find(owner, id);
    if (disk >= job.request.disks.size())
    {
        throw Problem(404, "not-found", "the job has no such disk");
    }
    if (job.status.state != JobState::receiving)
    {
        throw conflict("not-receiving", std::string("the job is ") +
                                            toText(job.status.state) +
                                            " and takes no disks any more");
    }
    std::uint64_t ticket = ++tickets_;
    *job.newest[disk] = ticket;
    fs::path part = diskFile(job.directory, disk);
    part += fmt::format(".{}", ticket);
    return std::make_unique<FileUpload>(*this, id, disk,
                                        job.request.disks[disk].bytes, part,
                                        ticket, job.newest[disk]);
}

JobStatus JobStore::uploaded(const std::string& id, std::size_t disk,
                             std::uint64_t ticket, const fs::path& part)
{
    std::lock_guard lock(mutex_);
    auto found = jobs_.find(id);
    if (found == jobs_.end() || *found->second->newest[disk] != ticket ||
        found->second->status.state != JobState::receiving)
    {
        throw conflict("superseded", "the job does not wait for this upload "
                                     "any more");
    }
    Job& job = *found->second;
    fs::rename(part, diskFile(job.directory, disk));
    if (!job.status.uploaded[disk])
    {
        job.status.uploaded[disk] = true;
        orNoSpace([&] { save(job); });
    }
    return job.status;
}

std::unique_ptr<http::BodySource> JobStore::result(const std::string& owner,
                                                   const std::string& id,
                                                   ResultFile file,
                                                   std::size_t disk)
{
    return std::make_unique<FileSource>(openResult(owner, id, file, disk));
}

UniqueFd JobStore::openResult(const std::string& owner, const std::string& id,
                              ResultFile file, std::size_t disk)
{
    std::lock_guard lock(mutex_);
    Job& job = find(owner, id);
    if (job.status.state != JobState::done)
    {
        throw conflict("not-done",
                       std::string("the job is ") + toText(job.status.state));
    }
    if (file == ResultFile::disk &&
        (disk >= job.request.disks.size() || job.request.disks[disk].readOnly))
    {
        throw Problem(404, "not-found",
                      "the job has no such disk, or it is read-only");
    }
    return openFile(resultFile(job.directory, file, disk), O_RDONLY);
}

JobStore::Job* JobStore::nextQueued()
{
    std::map<std::string, unsigned> running;
    for (const auto& [id, job] : jobs_)
    {
        running[job->request.tenant] +=
            job->status.state == JobState::booting ? 1U : 0U;
    }
    auto rank = [&](const Job& job) {
        auto last = lastTurn_.find(job.request.tenant);
        return std::tuple(running[job.request.tenant],
                          last == lastTurn_.end() ? 0 : last->second,
                          job.order);
    };
    Job* best = nullptr;
    for (const auto& [id, job] : jobs_)
    {
        if (job->status.state == JobState::queued &&
            (best == nullptr || rank(*job) < rank(*best)))
        {
            best = job.get();
        }
    }
    return best;
}

std::optional<Work> JobStore::next()
{
    std::unique_lock lock(mutex_);
    for (;;)
    {
        if (stopping_)
        {
            return std::nullopt;
        }
        Job* job = nextQueued();
        if (job == nullptr)
        {
            changed_.wait(lock);
            continue;
        }
        auto queued = std::max<std::int64_t>(0, now() - job->since);
        change(*job, JobState::booting, [queued](JobStatus& status) {
            status.tries++;
            status.seconds = {{"queue", static_cast<double>(queued)}};
        });
        lastTurn_[job->request.tenant] = ++turn_;
        return Work{job->status.id, job->directory, job->request,
                    job->cancelled};
    }
}

void JobStore::stop()
{
    std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
}

void JobStore::stage(const std::string& id, const std::string& stage,
                     double seconds)
{
    std::lock_guard lock(mutex_);
    auto found = jobs_.find(id);
    if (found != jobs_.end() &&
        found->second->status.state == JobState::booting)
    {
        // Only told, never relied on: not worth a sync.
        JobStatus& status = found->second->status;
        if (!status.stage.empty())
        {
            status.seconds[status.stage] = seconds;
        }
        status.stage = stage;
    }
}

void JobStore::done(const std::string& id, const JobResult& result)
{
    ended(id, [&](Job& job) {
        change(job, JobState::done, [&result](JobStatus& status) {
            status.stage.clear();
            status.result = result;
        });
    });
}

void JobStore::failed(const std::string& id, const JobError& error)
{
    ended(id, [&](Job& job) { fail(job, error); });
}

void JobStore::ended(const std::string& id,
                     const std::function<void(Job&)>& note)
{
    std::lock_guard lock(mutex_);
    auto found = jobs_.find(id);
    if (found == jobs_.end())
    {
        return;
    }
    Job& job = *found->second;
    removeTree(runDirectory(job.directory));
    if (job.status.state == JobState::booting)
    {
        note(job);
    }
    else
    {
        removeTree(job.directory / "out");
    }
}

void JobStore::expire()
{
    std::lock_guard lock(mutex_);
    std::int64_t oldest = now() - quota_.keep.count();
    std::vector<Job*> old;
    for (const auto& [id, job] : jobs_)
    {
        JobState state = job->status.state;
        if (job->since < oldest &&
            (state == JobState::receiving || state == JobState::done ||
             state == JobState::failed))
        {
            old.push_back(job.get());
        }
    }
    for (Job* job : old)
    {
        log::notice(
            "A job was kept too long and is removed",
            {{"JOB", job->status.id}, {"STATE", toText(job->status.state)}});
        end(*job);
    }
    forgetOldest();
}

Health JobStore::health() const
{
    std::lock_guard lock(mutex_);
    Health out;
    out.mode = "clean";
    out.bootSeconds = std::min(quota_.boot, vm::maxBootTime);
    out.jobsMax = quota_.jobs;
    out.bytesMax = quota_.totalBytes;
    for (const auto& [id, job] : jobs_)
    {
        JobState state = job->status.state;
        out.bootsRunning += state == JobState::booting ? 1 : 0;
        out.jobs += state != JobState::gone ? 1 : 0;
        out.bytes += isOver(state) ? 0 : job->request.bytes();
    }
    return out;
}

std::map<JobState, std::size_t> JobStore::countByState() const
{
    std::lock_guard lock(mutex_);
    std::map<JobState, std::size_t> out;
    for (const auto& [id, job] : jobs_)
    {
        out[job->status.state]++;
    }
    return out;
}

void JobStore::tryWrite() const
{
    fs::path file = directory_ / "write-check";
    writeFileAtomic(file, std::string_view("can be written\n"), 0600);
    fs::remove(file);
}

} // namespace airlock::boot
