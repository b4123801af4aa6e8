#include "hostagent/agent/cycle.hpp"

#include "common/error.hpp"
#include "common/file.hpp"
#include "common/log.hpp"
#include "common/sha256.hpp"
#include "devmodel/vm/hand_over.hpp"
#include "hostagent/agent/guest_clock.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

namespace airlock::host
{

namespace
{

using std::chrono::seconds;

constexpr Milliseconds pollStep{250};
/** After an error that may go away by itself. */
constexpr Milliseconds againLater = seconds(2);

/** More than a stage may take before somebody is told: it ends by itself. */
constexpr seconds stuckMargin{60};

/** For the guest's agent to answer after the guest was resumed. */
constexpr seconds agentTime{60};
constexpr Milliseconds agentStep{500};

/** What waiting does not help against, but an operator does. */
bool isOutOfSpace(const std::exception& error)
{
    const auto* system = dynamic_cast<const SystemError*>(&error);
    return system != nullptr &&
           (system->code() == ENOSPC || system->code() == EDQUOT);
}

bool isLate(const VmRecord& vm, seconds time)
{
    return std::chrono::system_clock::now() > vm.since + time;
}

/** The boot server need not keep a job that is closed here. */
void removeFrom(ServerPool& servers, const std::string& server,
                const std::string& job)
{
    if (job.empty())
    {
        return;
    }
    servers.ended(server);
    try
    {
        servers.connect(server).remove(job);
    }
    catch (const Error&)
    {
        // It forgets the job by itself after a time, or is what failed.
    }
}

/** Whether this VM's last trouble was another one, or one of another stay in a
 * state: it comes back every few seconds, and is told once. */
bool isNews(const VmRecord& vm, const std::string& reason)
{
    static std::mutex mutex;
    static std::map<std::string, std::string> last;
    const std::string now =
        fmt::format("{} {} {}", toString(vm.state),
                    vm.since.time_since_epoch().count(), reason);
    const std::lock_guard lock(mutex);
    return std::exchange(last[vm.uuid], now) != now;
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

seconds stateTime(const RebootSettings& settings, State state, seconds limit)
{
    switch (state)
    {
    case State::exporting:
        return settings.uploadTime;
    case State::booting:
        return limit + settings.serverTime;
    case State::returning:
    case State::admitting:
    case State::applying:
        return settings.returnTime;
    case State::retrying:
        return settings.retryDelay + settings.serverTime;
    default:
        return settings.serverTime;
    }
}

void alertStuck(const CycleContext& context,
                const std::set<std::string>& active,
                const std::map<std::string, seconds>& limits)
{
    for (const VmRecord& vm : context.store.vms())
    {
        if (vm.state == State::running || vm.state == State::held ||
            (vm.jobId.empty() && !active.contains(vm.uuid)))
        {
            continue;
        }
        auto limit = limits.find(vm.uuid);
        seconds time = stateTime(context.settings, vm.state,
                                 limit == limits.end() ? context.settings.limit
                                                       : limit->second);
        if (isLate(vm, time + stuckMargin))
        {
            context.alert({vm.uuid, vm.name, "stuck",
                           fmt::format("it is {} for longer than that may take",
                                       toString(vm.state))});
        }
    }
}

void discardDelta(const CycleContext& context, const VmRecord& vm)
{
    Change change;
    change.reason = "released by an operator, what the boot wrote was "
                    "discarded";
    change.discardDelta = true;
    if (!vm.jobId.empty())
    {
        change.closeJob = JobEnd{
            vm.jobId, "abandoned: an operator discarded its delta", {}, {}};
        change.jobId = "";
    }
    context.changed(
        context.store.transition(vm.uuid, State::held, State::held, change));
    DeltaSpool::remove(context.spool, vm.uuid);
    removeFrom(context.servers, vm.bootServer, vm.jobId);
}

void abandonJob(const CycleContext& context, const std::string& uuid)
{
    std::optional<VmRecord> vm = context.store.vm(uuid);
    if (!vm || vm->jobId.empty() || deltaPending(*vm))
    {
        return;
    }
    Change change;
    change.closeJob = JobEnd{vm->jobId, "abandoned", {}, {}};
    change.jobId = "";
    context.changed(
        context.store.transition(uuid, vm->state, State::trapped, change));
    DeltaSpool::remove(context.spool, uuid);
    removeFrom(context.servers, vm->bootServer, vm->jobId);
}

void forgetDomain(const CycleContext& context, const std::string& uuid)
{
    abandonJob(context, uuid);
    std::optional<VmRecord> vm = context.store.vm(uuid);
    if (vm && !deltaPending(*vm))
    {
        context.store.forgetVm(uuid);
    }
}

Cycle::Cycle(CycleContext& context, std::shared_ptr<Domain> domain,
             std::stop_token stop)
    : context_(context), domain_(std::move(domain)), stop_(std::move(stop)),
      record_(context.store.ensureVm(domain_->uuid(), domain_->name())),
      spec_(readSpec()), trapped_(*domain_, spec_)
{}

DomainSpec Cycle::readSpec()
try
{
    return parseDomain(domain_->xml());
}
catch (const Refused& refused)
{
    refused_ = refused.what();
    return {};
}

/** A domain that cannot be booted as it is. While its guest runs that does not
 * matter; then it waits, and somebody has to know. */
void Cycle::refuse()
{
    if (domain_->state() == RunState::off)
    {
        abandon();
        return;
    }
    qemu_ = vm::queryTrap(*domain_);
    bool known = record_.state == State::held && !isNewLife();
    bool runs = record_.state == State::running && !qemu_.trap;
    if (known || runs)
    {
        return;
    }
    if (record_.state == State::running)
    {
        begin();
    }
    abandon();
    hold(refused_, deltaPending(record_)
                       ? std::vector<std::string>{incompleteDeltaMark}
                       : std::vector<std::string>{});
}

std::optional<Milliseconds> Cycle::run()
{
    if (!refused_.empty())
    {
        refuse();
        return std::nullopt;
    }
    if (isIdle())
    {
        return setClock();
    }
    Next next = Next::goOn;
    while (next == Next::goOn && !stop_.stop_requested())
    {
        // Without one a delta is applied: a QEMU that hangs in a write must not
        // keep others waiting.
        bool applying = record_.state == State::applying;
        JobSlots::Slot slot =
            applying ? JobSlots::Slot(nullptr)
                     : context_.slots.acquire(spec_.settings.tenant, stop_);
        while (next == Next::goOn && !stop_.stop_requested() &&
               applying == (record_.state == State::applying))
        {
            next = tryStep();
        }
    }
    switch (next)
    {
    case Next::done:
        return setClock();
    case Next::wait:
        return againLater;
    default:
        return std::nullopt; // stopped
    }
}

/** There is nothing to do that would need a slot: a storm of others does not
 * come between a held VM and its operator. */
bool Cycle::isIdle()
{
    if (record_.state == State::held && domain_->state() == RunState::off)
    {
        return true;
    }
    qemu_ = vm::queryTrap(*domain_);
    return record_.state == State::held ? !isNewLife()
                                        : record_.state == State::running &&
                                              !qemu_.trap && !qemu_.loaded;
}

/** It was trapped, and the store knows nothing of that. */
bool Cycle::isNewLife() const
{
    return qemu_.trap && !record_.marks.contains(lifeMark());
}

/** A step whatever may happen in it: no answer of a boot server and no error
 * of QEMU may leave the VM where nobody looks. What libvirt or the store
 * refuse is the caller's. */
Cycle::Next Cycle::tryStep()
try
{
    return step();
}
catch (const LibvirtError&)
{
    throw;
}
catch (const Refused& refused)
{
    return fail(refused.what());
}
catch (const http::Problem& problem)
{
    return fail(problem.what());
}
catch (const QmpError& error)
{
    return record_.state == State::applying ? trouble(error)
                                            : fail(error.what());
}
catch (const std::exception& error)
{
    if (record_.state == State::running)
    {
        throw;
    }
    return trouble(error);
}

Cycle::Next Cycle::step()
{
    if (domain_->state() == RunState::off)
    {
        abandon();
        return Next::done;
    }
    qemu_ = vm::queryTrap(*domain_);
    if (qemu_.trap && domain_->state() == RunState::running)
    {
        trapped_.tellAgain();
    }
    if (record_.state == State::held)
    {
        return isNewLife() ? startOver() : Next::done;
    }
    if (record_.state == State::running)
    {
        return qemu_.trap ? begin() : resume(qemu_.loaded);
    }
    if (record_.state == State::applying)
    {
        return complete();
    }
    if (record_.state == State::admitting && qemu_.loaded)
    {
        enter(State::applying);
        return Next::goOn;
    }
    if (!qemu_.trap)
    {
        return untrapped();
    }
    if (isNewLife())
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
    case State::admitting:
        return admit();
    default:
        return choose();
    }
}

/** A disk that may be half written, in whatever QEMU there is now. */
Cycle::Next Cycle::complete()
{
    if (qemu_.loaded)
    {
        return apply();
    }
    if (qemu_.ran)
    {
        // Its own writes are newer now; the delta must not replace them.
        alertResumed();
        return qemu_.trap ? begin() : giveUp();
    }
    if (!qemu_.trap)
    {
        return Next::wait; // A new QEMU, which has not come to the trap yet.
    }
    // A new QEMU, or a reset before the first instruction: what the boot wrote
    // is completed, and the guest boots once more from it.
    applyDeltas();
    return begin();
}

/** On its way, and neither trapped nor loaded by us. */
Cycle::Next Cycle::untrapped()
{
    if (qemu_.atStub)
    {
        abandon(); // A new QEMU, which has not come to the trap yet.
        return Next::wait;
    }
    if (qemu_.loaded)
    {
        return hold("a state is loaded that its disks do not belong to; stop "
                    "and start it",
                    {});
    }
    if (record_.state == State::admitting)
    {
        alertResumed();
    }
    // Else somebody else gave it a state.
    return giveUp();
}

void Cycle::alertResumed() const
{
    alert("resumed", "somebody else resumed the guest before its disk was "
                     "complete: check its file systems");
}

/** The guest runs without the job. */
Cycle::Next Cycle::giveUp()
{
    Change change;
    change.clearMarks = true;
    std::string job = record_.jobId;
    closeJob(change, "abandoned");
    enter(State::running, change);
    removeDeltas();
    removeJob(job);
    return Next::done;
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
    if (job.empty() || deltaPending(record_))
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
    figures_.clear();
    try
    {
        enter(State::exporting, change);
    }
    catch (...)
    {
        context_.servers.ended(server);
        throw;
    }
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
        handover::requireImageSize(disks[i].bytes,
                                   "disk " + spec_.disks[i].target);
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
    if (!vm::isLabel(out.guest.name))
    {
        out.guest.name = record_.uuid; // It is only for the server's journal.
    }
    out.guest.disks.clear();
    for (const QemuDisk& disk : disks)
    {
        out.disks.push_back({disk.bytes, disk.readOnly});
    }
    out.policy = spec_.settings.booted.value_or(context_.settings.booted);
    out.timeout = limit();
    out.tenant =
        spec_.settings.tenant.empty() ? "default" : spec_.settings.tenant;
    return out;
}

/** Ends what it transfers when the stage is late, or the process ends. */
boot::Client Cycle::connect() const
{
    Milliseconds time = timeFor(record_.state);
    Milliseconds gone = std::chrono::duration_cast<Milliseconds>(
        std::chrono::system_clock::now() - record_.since);
    Deadline deadline(std::clamp(time - gone, Milliseconds(0), time));
    http::ClientLimits limits;
    limits.tick = [deadline, stop = stop_, state = record_.state] {
        if (stop.stop_requested())
        {
            throw Error("the host agent ends");
        }
        if (deadline.passed())
        {
            throw TimedOut(fmt::format("{} takes too long", toString(state)));
        }
    };
    return context_.servers.connect(record_.bootServer, limits);
}

Cycle::Next Cycle::upload()
{
    std::vector<QemuDisk> all = disks();
    checkDisks(all);
    boot::Client client = connect();
    boot::JobStatus status = client.createJob(request(all));
    if (status.uploaded.size() != all.size())
    {
        throw Refused("job status", "is not of this number of disks");
    }
    if (status.state == boot::JobState::receiving)
    {
        DiskExport server(*domain_, all);
        for (std::size_t i = 0; i < all.size(); i++)
        {
            if (!status.uploaded[i])
            {
                client.uploadDisk(status.id, i, *server.open(i));
            }
        }
    }
    client.seal(status.id);
    enter(State::booting);
    return Next::goOn;
}

Cycle::Next Cycle::waitBooted()
{
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
        if (lateFor(timeFor(State::booting)))
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

DeltaSpool Cycle::spool() const
{
    return {context_.spool, record_.uuid, record_.generation};
}

void Cycle::fetchDelta(boot::Client& client, std::size_t disk,
                       std::uint64_t diskBytes, const boot::DeltaFile& expected)
{
    std::filesystem::path whole = spool().file(disk);
    std::filesystem::path part = whole;
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
    std::filesystem::rename(part, whole);
    figures_[fmt::format("disk-{}-delta-bytes", disk)] = expected.bytes;
}

Cycle::Next Cycle::fetchDeltas()
{
    boot::Client client = connect();
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
    std::vector<SpooledDisk> spooled = spooledDisks(spec_, all);
    for (std::size_t i = 0; i < all.size(); i++)
    {
        const auto& expected = status_->result->disks[i];
        if (expected.has_value() == all[i].readOnly)
        {
            throw Refused(fmt::format("job status: disk {}", i),
                          all[i].readOnly ? "is read-only and has a delta"
                                          : "has no delta");
        }
        if (expected)
        {
            fetchDelta(client, i, all[i].bytes, *expected);
            spooled[i].delta = expected;
        }
    }
    spool().complete(spooled);
    enter(State::admitting);
    return Next::goOn;
}

Cycle::Next Cycle::admit()
{
    boot::Client client = connect();
    handover::Bundle bundle = client.fetchBundle(
        record_.jobId, [this](const handover::Manifest& manifest) {
            vm::requireAnswer(manifest, ticket(), trapped_.spec());
        });
    vm::HandOverReport report = vm::loadBundle(trapped_, bundle, ticket());
    for (const vm::StepTime& step : report.steps)
    {
        seconds_["hand-over: " + step.name] = step.seconds;
    }
    figures_["sections-kept"] = report.kept.size();
    figures_["sections-dropped"] = report.dropped.size();
    figures_["memory-bytes"] = report.memory.bytes();
    enter(State::applying);
    return Next::goOn;
}

/** All or nothing is looked at first: no disk is written when one of them is
 * another one by now. */
void Cycle::applyDeltas()
{
    std::vector<QemuDisk> all = disks();
    auto deltas = spool().open(spooledDisks(spec_, all));
    for (std::size_t i = 0; i < all.size(); i++)
    {
        if (deltas[i])
        {
            vm::applyDelta(*domain_, all[i].device, deltas[i]->get());
        }
    }
}

Cycle::Next Cycle::apply()
{
    applyDeltas();
    std::string job = record_.jobId;
    finish();
    Next next = resume(true);
    removeDeltas();
    removeJob(job);
    return next;
}

Cycle::Next Cycle::resume(bool loaded)
try
{
    if (loaded)
    {
        trapped_.resume();
    }
    return Next::done;
}
catch (const Error& error)
{
    // Complete, but it does not run: there is nothing to go back to.
    if (domain_->state() != RunState::off)
    {
        alert("stuck", error.what());
    }
    return Next::wait;
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
        alert("clock", error.what());
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
        change.closeJob = JobEnd{record_.jobId, result, seconds_, figures_};
        change.closeJob->seconds[std::string(toString(record_.state))] =
            secondsInState();
        change.jobId = "";
    }
}

void Cycle::removeDeltas()
{
    if (deltaPending(record_))
    {
        throw Error("the delta of " + record_.name + " is not complete yet");
    }
    DeltaSpool::remove(context_.spool, record_.uuid);
}

void Cycle::removeJob(const std::string& job)
{
    removeFrom(context_.servers, record_.bootServer, job);
}

/** What may go away by itself: a server that cannot be reached, a disk of the
 * guest that cannot be written. */
Cycle::Next Cycle::trouble(const std::exception& error)
{
    if (isOutOfSpace(error) && !deltaPending(record_))
    {
        removeDeltas(); // The state may be in the same file system.
        return fail(error.what());
    }
    if (lateFor(timeFor(record_.state)))
    {
        return fail(error.what());
    }
    if (isNews(record_, error.what()))
    {
        log::warning("a VM waits, and it is tried again",
                     {{"DOMAIN", record_.name},
                      {"VM_UUID", record_.uuid},
                      {"STATE", std::string(toString(record_.state))},
                      {"JOB", record_.jobId},
                      {"REASON", error.what()}});
    }
    if (record_.state == State::applying)
    {
        alert("applying", error.what());
    }
    return Next::wait;
}

Cycle::Next Cycle::fail(const std::string& why)
{
    if (record_.state == State::running)
    {
        alert("stuck", why);
        return Next::wait;
    }
    if (deltaPending(record_))
    {
        return hold(why, {incompleteDeltaMark});
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
    alert(again ? "retrying" : "held", why);
    removeJob(job);
    return again ? Next::wait : Next::done;
}

/** In this life; the next one may go on. */
Cycle::Next Cycle::hold(const std::string& why, std::vector<std::string> marks)
{
    Change change;
    change.reason = why;
    change.marks = std::move(marks);
    if (qemu_.trap)
    {
        change.marks.push_back(lifeMark());
    }
    enter(State::held, change);
    alert("held", why);
    return Next::done;
}

void Cycle::enter(State state, const Change& change)
{
    seconds_[std::string(toString(record_.state))] = secondsInState();
    record_ =
        context_.store.transition(record_.uuid, record_.state, state, change);
    context_.changed(record_);
}

void Cycle::alert(const char* what, const std::string& why) const
{
    context_.alert({record_.uuid, record_.name, what, why});
}

seconds Cycle::limit() const
{
    return spec_.settings.limit.value_or(context_.settings.limit);
}

seconds Cycle::timeFor(State state) const
{
    return stateTime(context_.settings, state, limit());
}

double Cycle::secondsInState() const
{
    return std::chrono::duration<double>(std::chrono::system_clock::now() -
                                         record_.since)
        .count();
}

bool Cycle::lateFor(seconds time) const
{
    return isLate(record_, time);
}

/** Of one trap in one QEMU process. */
std::string Cycle::lifeMark() const
{
    return fmt::format("life/{:016x}/{}", qemu_.life, qemu_.trap->count);
}

} // namespace airlock::host
