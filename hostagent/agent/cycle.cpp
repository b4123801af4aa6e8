#include "hostagent/agent/cycle.hpp"

#include "common/error.hpp"
#include "common/file.hpp"
#include "common/sha256.hpp"
#include "devmodel/vm/hand_over.hpp"
#include "hostagent/agent/guest_clock.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

namespace airlock::host
{

namespace
{

using std::chrono::seconds;

constexpr Milliseconds pollStep{250};
/** After an error that may go away by itself. */
constexpr Milliseconds againLater = seconds(2);

/** For the guest's agent to answer after the guest was resumed. */
constexpr seconds agentTime{60};
constexpr Milliseconds agentStep{500};

/** Tells this run of the host's kernel from others, so that libvirt's domain
 * numbers are not mistaken for one another. */
std::string bootId()
{
    Bytes text = readFile("/proc/sys/kernel/random/boot_id", 64);
    return {text.begin(), std::find(text.begin(), text.end(), '\n')};
}

/** What waiting does not help against, but an operator does. */
bool isOutOfSpace(const Error& error)
{
    const auto* system = dynamic_cast<const SystemError*>(&error);
    return system != nullptr &&
           (system->code() == ENOSPC || system->code() == EDQUOT);
}

/** Looks at a delta as a whole before any of it is used. */
class DeltaCheck
{
  public:
    explicit DeltaCheck(std::uint64_t diskBytes)
        : reader_(diskBytes, [](const handover::ImageChunk&) {})
    {}

    void feed(ByteView data) { reader_.feed(data); }
    void finish() const { reader_.finish(); }

  private:
    handover::ImageStreamReader reader_;
};

} // namespace

Cycle::Cycle(CycleContext& context, std::shared_ptr<Domain> domain,
             std::stop_token stop)
    : context_(context), domain_(std::move(domain)), stop_(std::move(stop)),
      spec_(parseDomain(domain_->xml())), trapped_(*domain_, spec_),
      record_(context.store.ensureVm(domain_->uuid(), domain_->name()))
{}

std::optional<Milliseconds> Cycle::run()
{
    if (record_.state == State::running && !trapped_.trap() &&
        !vm::queryLoaded(*domain_))
    {
        return setClock();
    }
    JobSlots::Slot slot = context_.slots.acquire(spec_.settings.tenant, stop_);
    while (slot && !stop_.stop_requested())
    {
        Next next = Next::done;
        try
        {
            next = step();
        }
        catch (const LibvirtError&)
        {
            throw;
        }
        catch (const Refused& refused)
        {
            next = fail(refused.what());
        }
        catch (const QmpError& error)
        {
            next = fail(error.what());
        }
        catch (const http::Problem& problem)
        {
            next = fail(problem.what());
        }
        if (next != Next::goOn)
        {
            return next == Next::done ? setClock() : std::optional(againLater);
        }
    }
    return std::nullopt;
}

Cycle::Next Cycle::step()
{
    if (domain_->state() == RunState::off)
    {
        abandon();
        return Next::done;
    }
    bool trapped = trapped_.trap().has_value();
    bool loaded = !trapped && vm::queryLoaded(*domain_);
    if ((trapped || loaded) && domain_->state() == RunState::running)
    {
        // libvirt may miss that QEMU has stopped when it is about to note that
        // it has started it (seen with 11.3 and a reboot by the power button).
        domain_->suspend();
    }
    if (record_.state == State::held)
    {
        return trapped && !record_.marks.contains(lifeMark()) ? startOver()
                                                              : Next::done;
    }
    if (record_.state == State::running)
    {
        return trapped ? begin() : resume(loaded);
    }
    if (record_.state == State::applying || record_.state == State::admitting)
    {
        return afterRestart(trapped, loaded);
    }
    if (!trapped)
    {
        // Somebody else gave it a state, for example `virsh restore`.
        abandon();
        enter(State::running);
        return Next::done;
    }
    if (!record_.marks.contains(lifeMark()))
    {
        return begin();
    }
    switch (record_.state)
    {
    case State::exporting:
        return upload();
    case State::booting:
        return waitBooted();
    case State::returning:
        return fetchDeltas();
    default:
        return choose();
    }
}

Cycle::Next Cycle::afterRestart(bool trapped, bool loaded)
{
    bool applying = record_.state == State::applying;
    if (loaded)
    {
        if (!applying)
        {
            enter(State::applying);
        }
        return apply();
    }
    if (!trapped)
    {
        // Its own writes are newer now; the delta must not replace them.
        context_.alert({record_.uuid, record_.name, "resumed",
                        "somebody else resumed the guest before its disk was "
                        "complete: check its file systems"});
        Change change;
        std::string job = record_.jobId;
        closeJob(change, "abandoned");
        enter(State::running, change);
        removeJob(job);
        return Next::done;
    }
    if (applying)
    {
        // A new QEMU, or a reset before the first instruction: what the boot
        // wrote is completed, and the guest boots once more from it.
        applyDeltas();
        return begin();
    }
    return record_.marks.contains(lifeMark()) ? admit() : begin();
}

Cycle::Next Cycle::startOver()
{
    if (record_.marks.contains(incompleteDeltaMark))
    {
        enter(State::applying);
        return Next::goOn;
    }
    return begin();
}

Cycle::Next Cycle::begin()
{
    Change change;
    change.generation = record_.generation + 1;
    change.attempts = 0;
    change.reason = "";
    change.clearMarks = true;
    change.marks = {lifeMark()};
    closeJob(change, "abandoned");
    std::string job = record_.jobId;
    enter(State::trapped, change);
    removeDeltas();
    removeJob(job);
    return Next::goOn;
}

/** Nobody waits for the job any more. A delta that is being applied stays, for
 * the next life to complete. */
void Cycle::abandon()
{
    std::string job = record_.jobId;
    if (job.empty() || record_.state == State::applying)
    {
        return;
    }
    Change change;
    closeJob(change, "abandoned");
    enter(State::trapped, change);
    removeDeltas();
    removeJob(job);
}

Cycle::Next Cycle::choose()
{
    if (record_.state == State::retrying &&
        !lateFor(context_.settings.retryDelay))
    {
        return Next::wait;
    }
    std::string server;
    try
    {
        server = context_.servers.choose(spec_.settings, {record_.bootServer});
    }
    catch (const Error& error)
    {
        if (!lateFor(context_.settings.serverTime))
        {
            return Next::wait;
        }
        return fail(error.what());
    }
    handover::JobTicket ticket =
        handover::JobTicket::issue(record_.uuid, record_.generation);
    Change change;
    change.nonce = toHex(ticket.nonce);
    change.jobId = boot::jobId(ticket.nonce);
    change.bootServer = server;
    change.attempts = record_.attempts + 1;
    JobRecord job;
    job.id = *change.jobId;
    job.uuid = record_.uuid;
    job.name = record_.name;
    job.tenant = spec_.settings.tenant;
    job.generation = record_.generation;
    job.server = server;
    job.started = std::chrono::time_point_cast<Milliseconds>(
        std::chrono::system_clock::now());
    change.openJob = job;
    seconds_.clear();
    enter(State::exporting, change);
    context_.servers.started(server);
    return Next::goOn;
}

std::vector<QemuDisk> Cycle::disks()
{
    std::vector<std::string> ids;
    for (const DomainDisk& disk : spec_.disks)
    {
        ids.push_back(disk.alias);
    }
    return findDisks(*domain_, ids);
}

void Cycle::checkDisks(const std::vector<QemuDisk>& disks) const
{
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < disks.size(); i++)
    {
        sum += disks[i].bytes;
        if (disks[i].bytes == 0 ||
            disks[i].bytes % handover::memoryPageBytes != 0)
        {
            throw Refused("disk " + spec_.disks[i].target,
                          fmt::format("has {} bytes; make it a multiple of {}",
                                      disks[i].bytes,
                                      handover::memoryPageBytes));
        }
    }
    if (sum > context_.settings.diskBytes)
    {
        throw Refused("disks", fmt::format("have {} bytes together, more than "
                                           "the {} that may be shipped",
                                           sum, context_.settings.diskBytes));
    }
}

handover::JobTicket Cycle::ticket() const
{
    std::optional<Digest> nonce = digestFromHex(record_.nonce);
    if (!nonce)
    {
        throw Error("the job's nonce in the store is damaged");
    }
    return {record_.uuid, record_.generation, *nonce};
}

boot::JobRequest Cycle::request(const std::vector<QemuDisk>& disks) const
{
    boot::JobRequest out;
    out.job = ticket();
    out.guest = spec_.guest();
    out.guest.disks.clear();
    for (const QemuDisk& disk : disks)
    {
        out.disks.push_back({disk.bytes, disk.readOnly});
    }
    out.policy = spec_.settings.booted.value_or(context_.settings.booted);
    out.timeout = spec_.settings.limit.value_or(context_.settings.limit);
    out.tenant =
        spec_.settings.tenant.empty() ? "default" : spec_.settings.tenant;
    return out;
}

Cycle::Next Cycle::upload()
try
{
    std::vector<QemuDisk> all = disks();
    checkDisks(all);
    boot::Client client = context_.servers.connect(record_.bootServer);
    boot::JobStatus status = client.createJob(request(all));
    if (status.state == boot::JobState::receiving)
    {
        DiskExport server(*domain_, all);
        for (std::size_t i = 0; i < all.size(); i++)
        {
            if (!status.uploaded.at(i))
            {
                client.uploadDisk(status.id, i, *server.open(i));
            }
        }
    }
    client.seal(status.id);
    enter(State::booting);
    return Next::goOn;
}
catch (const LibvirtError&)
{
    throw;
}
catch (const Refused&)
{
    throw;
}
catch (const http::Problem&)
{
    throw;
}
catch (const Error& error)
{
    return lateFor(context_.settings.uploadTime) ? fail(error.what())
                                                 : Next::wait;
}

Cycle::Next Cycle::waitBooted()
{
    seconds limit = spec_.settings.limit.value_or(context_.settings.limit) +
                    context_.settings.serverTime;
    boot::Client client = context_.servers.connect(record_.bootServer);
    std::string trouble = "the boot server did not finish in time";
    while (!stop_.stop_requested())
    {
        try
        {
            status_ = client.status(record_.jobId);
            if (status_->state == boot::JobState::done)
            {
                seconds_.insert(status_->seconds.begin(),
                                status_->seconds.end());
                enter(State::returning);
                return Next::goOn;
            }
            if (status_->state == boot::JobState::failed)
            {
                return fail(status_->error ? status_->error->message
                                           : "the boot failed");
            }
        }
        catch (const http::Problem&)
        {
            throw;
        }
        catch (const Error& error)
        {
            // It may be cut off while it boots the guest.
            trouble = error.what();
        }
        if (lateFor(limit))
        {
            return fail(trouble);
        }
        if (domain_->state() == RunState::off)
        {
            abandon();
            return Next::done;
        }
        std::this_thread::sleep_for(pollStep);
    }
    return Next::done;
}

std::filesystem::path Cycle::deltaFile(std::size_t disk) const
{
    return context_.spool /
           fmt::format("{}-{}-disk{}", record_.uuid, record_.generation, disk);
}

void Cycle::fetchDelta(boot::Client& client, std::size_t disk,
                       std::uint64_t diskBytes, const boot::DeltaFile& expected)
{
    std::filesystem::path part = deltaFile(disk);
    part += ".part";
    UniqueFd file = openFile(part, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    DeltaCheck check(diskBytes);
    client.fetchDisk(record_.jobId, disk, expected, [&](ByteView data) {
        check.feed(data);
        writeAll(file.get(), data);
    });
    check.finish();
    if (::fsync(file.get()) != 0)
    {
        throwErrno("cannot sync " + part.string());
    }
    std::filesystem::rename(part, deltaFile(disk));
}

Cycle::Next Cycle::fetchDeltas()
try
{
    boot::Client client = context_.servers.connect(record_.bootServer);
    status_ = client.status(record_.jobId);
    if (status_->state == boot::JobState::booting)
    {
        // Restarted since: it looks through the result once more.
        return lateFor(context_.settings.returnTime)
                   ? fail("the boot server does not give its result out")
                   : Next::wait;
    }
    std::vector<QemuDisk> all = disks();
    if (!status_->result || status_->result->disks.size() != all.size())
    {
        throw Refused("job status", "is not of a job that is done");
    }
    for (std::size_t i = 0; i < all.size(); i++)
    {
        if (const auto& expected = status_->result->disks[i])
        {
            fetchDelta(client, i, all[i].bytes, *expected);
        }
    }
    syncDirectory(context_.spool);
    enter(State::admitting);
    return Next::goOn;
}
catch (const LibvirtError&)
{
    throw;
}
catch (const Refused&)
{
    throw;
}
catch (const http::Problem&)
{
    throw;
}
catch (const Error& error)
{
    if (isOutOfSpace(error))
    {
        removeDeltas(); // The state may be in the same file system.
        return fail(error.what());
    }
    return lateFor(context_.settings.returnTime) ? fail(error.what())
                                                 : Next::wait;
}

Cycle::Next Cycle::admit()
try
{
    boot::Client client = context_.servers.connect(record_.bootServer);
    handover::Bundle bundle = client.fetchBundle(record_.jobId);
    vm::HandOverReport report = vm::loadBundle(trapped_, bundle, ticket());
    for (const vm::StepTime& step : report.steps)
    {
        seconds_["hand-over: " + step.name] = step.seconds;
    }
    enter(State::applying);
    return apply();
}
catch (const LibvirtError&)
{
    throw;
}
catch (const QmpError&)
{
    throw;
}
catch (const Refused&)
{
    throw;
}
catch (const http::Problem&)
{
    throw;
}
catch (const Error& error)
{
    return lateFor(context_.settings.returnTime) ? fail(error.what())
                                                 : Next::wait;
}

void Cycle::applyDeltas()
{
    std::vector<QemuDisk> all = disks();
    for (std::size_t i = 0; i < all.size(); i++)
    {
        if (!all[i].readOnly)
        {
            UniqueFd delta = openFile(deltaFile(i), O_RDONLY);
            vm::applyDelta(*domain_, all[i].device, delta.get());
        }
    }
}

Cycle::Next Cycle::apply()
{
    try
    {
        applyDeltas();
    }
    catch (const QmpError& error)
    {
        // No way back from here: until the disk takes it, the guest waits.
        context_.alert({record_.uuid, record_.name, "applying", error.what()});
        return Next::wait;
    }
    std::string job = record_.jobId;
    finish();
    Next next = resume(true);
    removeDeltas();
    removeJob(job);
    return next;
}

Cycle::Next Cycle::resume(bool loaded)
{
    if (loaded)
    {
        trapped_.resume();
    }
    return Next::done;
}

std::optional<Milliseconds> Cycle::setClock()
{
    if (record_.state != State::running || !record_.marks.contains(clockMark))
    {
        return std::nullopt;
    }
    try
    {
        setGuestClock(*domain_);
    }
    catch (const LibvirtError&)
    {
        if (!lateFor(agentTime))
        {
            return agentStep;
        }
        // A channel, but no agent: the guest's own NTP client has to do.
    }
    catch (const Error& error)
    {
        context_.alert({record_.uuid, record_.name, "clock", error.what()});
    }
    record_ = context_.store.transition(record_.uuid, State::running,
                                        State::running, {.clearMarks = true});
    return std::nullopt;
}

/** Before the guest runs: what it writes then must never be replaced by a
 * delta that is applied once more. */
void Cycle::finish()
{
    Change change;
    closeJob(change, "done");
    change.reason = "";
    change.clearMarks = true;
    if (spec_.agent)
    {
        change.marks = {clockMark};
    }
    enter(State::running, change);
}

void Cycle::closeJob(Change& change, const std::string& result) const
{
    if (!record_.jobId.empty())
    {
        change.closeJob = JobEnd{record_.jobId, result, seconds_};
        change.closeJob->seconds[std::string(toString(record_.state))] =
            secondsInState();
        change.jobId = "";
    }
}

/** Of any generation: a crash may have left some. */
void Cycle::removeDeltas()
{
    std::error_code ignored;
    for (const auto& entry :
         std::filesystem::directory_iterator(context_.spool, ignored))
    {
        if (entry.path().filename().string().starts_with(record_.uuid))
        {
            std::filesystem::remove(entry.path(), ignored);
        }
    }
}

/** The boot server need not keep a job that is closed here. */
void Cycle::removeJob(const std::string& job)
{
    if (job.empty())
    {
        return;
    }
    context_.servers.ended(record_.bootServer);
    try
    {
        context_.servers.connect(record_.bootServer).remove(job);
    }
    catch (const Error&)
    {
        // It forgets the job by itself after a time, or is what failed.
    }
}

Cycle::Next Cycle::fail(const std::string& why)
{
    if (record_.state == State::applying)
    {
        Change change;
        change.reason = why;
        change.marks = {incompleteDeltaMark};
        enter(State::held, change);
        context_.alert({record_.uuid, record_.name, "held", why});
        return Next::done;
    }
    Change change;
    change.reason = why;
    // Without a job no boot server was to be had: that counts as well.
    change.attempts = record_.attempts + (record_.jobId.empty() ? 1 : 0);
    bool again = *change.attempts < context_.settings.attempts;
    closeJob(change, "failed: " + why);
    std::string job = record_.jobId;
    enter(again ? State::retrying : State::held, change);
    removeDeltas();
    context_.alert(
        {record_.uuid, record_.name, again ? "retrying" : "held", why});
    removeJob(job);
    return again ? Next::wait : Next::done;
}

void Cycle::enter(State state, const Change& change)
{
    seconds_[std::string(toString(record_.state))] = secondsInState();
    record_ =
        context_.store.transition(record_.uuid, record_.state, state, change);
    context_.changed(record_);
}

double Cycle::secondsInState() const
{
    return std::chrono::duration<double>(std::chrono::system_clock::now() -
                                         record_.since)
        .count();
}

bool Cycle::lateFor(seconds time) const
{
    return std::chrono::system_clock::now() > record_.since + time;
}

std::string Cycle::lifeMark() const
{
    return fmt::format("life/{}/{}", bootId(), domain_->id());
}

} // namespace airlock::host
