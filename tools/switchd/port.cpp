#include "tools/switchd/port.hpp"

#include "common/epoch_address.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace airlock::sw
{

namespace
{

constexpr std::chrono::seconds reportEvery{10};
constexpr std::chrono::seconds challengeLife{5};
/** Time for the answer to the boot host that had itself cut off. */
constexpr std::chrono::seconds drainTime{2};
constexpr std::uint64_t lookBack = 16;
constexpr std::uint64_t lookAhead = 256;

std::chrono::milliseconds until(TimePoint end, TimePoint now)
{
    return std::chrono::duration_cast<std::chrono::milliseconds>(
        std::max(end - now, TimePoint::duration::zero()));
}

} // namespace

bool TokenBucket::take(TimePoint now)
{
    if (last_)
    {
        std::chrono::duration<double> passed = now - *last_;
        left_ = std::min(rate_, left_ + passed.count() * rate_);
    }
    last_ = now;
    if (left_ < 1)
    {
        return false;
    }
    left_ -= 1;
    return true;
}

Json Misses::toJson() const
{
    return {{"unknown", unknown}, {"used", used},      {"ahead", ahead},
            {"half", half},       {"tagged", tagged},  {"malformed", malformed},
            {"refused", refused}, {"limited", limited}};
}

PortAgent::PortAgent(const PortSettings& settings, const EnrolmentStore& store,
                     Fabric& fabric, Reporter reporter)
    : settings_(settings), store_(store), fabric_(fabric),
      reporter_(std::move(reporter)), guesses_(settings.guesses),
      challenges_(settings.challenges)
{
    enrolment_ = store_.load(settings_.name);
    loadAddresses();
}

PortAgent::~PortAgent() = default;

void PortAgent::loadAddresses()
{
    past_.clear();
    next_.clear();
    later_.clear();
    verifier_.reset();
    if (!enrolment_)
    {
        return;
    }
    if (enrolment_->method == Method::quote)
    {
        verifier_ = settings_.verifier(enrolment_->key);
        if (enrolment_->seen)
        {
            verifier_->remember(*enrolment_->seen);
        }
        return;
    }
    const Secret& root = *enrolment_->root;
    auto fill = [&](std::vector<Epoch>& out, std::uint64_t first,
                    std::uint64_t end) {
        for (std::uint64_t number = first; number < end; number++)
        {
            out.push_back({number, epoch::hostAddress(root, number),
                           epoch::switchAddress(root, number)});
        }
    };
    std::uint64_t next = enrolment_->epoch + 1;
    fill(past_, next - std::min(next, lookBack), next);
    fill(next_, next, next + settings_.window);
    fill(later_, next + settings_.window, next + settings_.window + lookAhead);
}

/** Looks at all of them, in the same time wherever it is. */
const PortAgent::Epoch* PortAgent::find(const std::vector<Epoch>& epochs,
                                        const MacAddress& address) const
{
    const Epoch* found = nullptr;
    for (const Epoch& epoch : epochs)
    {
        found = equalConstantTime(epoch.host.view(), address.view()) ? &epoch
                                                                     : found;
    }
    return found;
}

std::uint64_t Misses::*PortAgent::kindOf(const MacAddress& source) const
{
    if (find(past_, source) != nullptr)
    {
        return &Misses::used;
    }
    return find(later_, source) != nullptr ? &Misses::ahead : &Misses::unknown;
}

std::optional<MacAddress> PortAgent::address() const
{
    return lease_ ? std::optional(lease_->address) : std::nullopt;
}

bool PortAgent::expects(const MacAddress& address) const
{
    return (lease_ && lease_->address == address) ||
           find(next_, address) != nullptr;
}

PortAgent::Guarded PortAgent::guarded() const
{
    Guarded out;
    for (const std::vector<Epoch>* epochs : {&past_, &next_})
    {
        for (const Epoch& epoch : *epochs)
        {
            out.expected.push_back(epoch.host);
            out.expected.push_back(epoch.gate);
            out.hidden.push_back(epoch.gate);
            bool answered = (lease_ && lease_->address == epoch.host) ||
                            (drain_ && drain_->address == epoch.host);
            if (!answered)
            {
                out.hidden.push_back(epoch.host);
            }
        }
    }
    for (const Epoch& epoch : next_)
    {
        out.watched.push_back(epoch.host);
    }
    if (lease_)
    {
        out.watched.push_back(lease_->address);
        if (next_.empty())
        {
            out.expected.push_back(lease_->address);
        }
    }
    return out;
}

bool PortAgent::wantsTraffic(TimePoint now) const
{
    return lease_ && enrolment_->method == Method::mac && settings_.plain &&
           until(lease_->ends, now) < settings_.lease / 2;
}

void PortAgent::frame(const SeenFrame& frame, TimePoint now)
{
    endIfOver(now);
    if (frame.bytes.size() < quarantine::headerBytes)
    {
        miss(&Misses::malformed, {}, now);
        return;
    }
    MacAddress destination = MacAddress::from(frame.bytes, "frame");
    MacAddress source = MacAddress::from(frame.bytes.subspan(6), "frame");
    bool ours = frame.bytes[12] == settings_.etherType >> 8 &&
                frame.bytes[13] == (settings_.etherType & 0xFF);
    bool leased = lease_ && lease_->address == source;
    if (!ours && drain_ && drain_->address == source && now < drain_->ends)
    {
        return; // it takes its answer; nothing of it comes through
    }
    if (!leased && !guesses_.take(now))
    {
        missNamed(&Misses::limited, "(too many)", now);
        return;
    }
    if (auto tag =
            leased ? std::nullopt : fabric_.foreign(settings_.name, source))
    {
        missNamed(&Misses::unknown, *tag, now);
        return;
    }
    if (frame.tagged)
    {
        miss(&Misses::tagged, source, now);
        return;
    }
    if (!enrolment_ || source.isGroup())
    {
        miss(&Misses::unknown, source, now);
        return;
    }
    if (enrolment_->method != Method::quote)
    {
        tryMac(frame, source, destination, ours, now);
    }
    else if (ours)
    {
        tryQuote(frame, now);
    }
    else if (!leased)
    {
        miss(&Misses::unknown, source, now);
    }
}

void PortAgent::tryMac(const SeenFrame& frame, const MacAddress& source,
                       const MacAddress& destination, bool ours, TimePoint now)
{
    bool leased = lease_ && lease_->address == source;
    // While a lease is open, no other address of this host gets in.
    const Epoch* epoch = leased    ? find(past_, source)
                         : !lease_ ? find(next_, source)
                                   : nullptr;
    if (epoch == nullptr)
    {
        miss(kindOf(source), source, now);
        return;
    }
    if (ours)
    {
        try
        {
            quarantine::Frame parsed =
                quarantine::parse(frame.bytes, settings_.etherType);
            ours = std::holds_alternative<quarantine::Hello>(parsed.message);
        }
        catch (const Refused&)
        {
            miss(&Misses::malformed, source, now);
            return;
        }
    }
    bool paired =
        equalConstantTime(destination.view(), epoch->gate.view()) && ours;
    bool enough =
        enrolment_->method == Method::mac96 ? paired : ours || settings_.plain;
    if (enough)
    {
        leased ? renew(now) : open(source, epoch->number, {}, now);
    }
    else if (!leased)
    {
        miss(&Misses::half, source, now);
    }
}

void PortAgent::tryQuote(const SeenFrame& frame, TimePoint now)
{
    quarantine::Frame parsed;
    try
    {
        parsed = quarantine::parse(frame.bytes, settings_.etherType);
    }
    catch (const Refused&)
    {
        miss(&Misses::malformed, MacAddress::from(frame.bytes.subspan(6), ""),
             now);
        return;
    }
    if (std::holds_alternative<quarantine::Ask>(parsed.message))
    {
        challenge(parsed.source, now);
    }
    else if (auto* proof = std::get_if<quarantine::Proof>(&parsed.message))
    {
        prove(parsed.source, *proof, now);
    }
    else
    {
        miss(&Misses::malformed, parsed.source, now);
    }
}

void PortAgent::challenge(const MacAddress& source, TimePoint now)
{
    if (!challenges_.take(now))
    {
        miss(&Misses::limited, source, now);
        return;
    }
    Pending pending;
    fillRandom(pending.nonce);
    pending.source = source;
    pending.ends = now + challengeLife;
    pending_ = pending;
    answer(source, quarantine::Challenge{pending.nonce, settings_.name});
}

void PortAgent::prove(const MacAddress& source, const quarantine::Proof& proof,
                      TimePoint now)
{
    // A nonce is good for one proof, whatever becomes of it.
    std::optional<Pending> pending = std::exchange(pending_, std::nullopt);
    bool good = false;
    try
    {
        if (!pending || now >= pending->ends || pending->source != source ||
            !equalConstantTime(pending->nonce, proof.nonce))
        {
            throw Refused("proof", "it answers no challenge");
        }
        if (enrolment_->address && *enrolment_->address != source)
        {
            throw Refused("proof", "it is not for the enrolled address");
        }
        if (lease_ && lease_->address != source)
        {
            throw Refused("proof", "the port is leased to another address");
        }
        if (!lease_ && fabric_.elsewhere(settings_.name, source))
        {
            throw Refused("proof", "the address is in use at another port");
        }
        Evidence evidence = verifier_->verify(
            {settings_.name, source, proof.nonce}, proof.bytes);
        if (lease_ && lease_->bootCount != evidence.bootCount)
        {
            cut("the boot host has restarted");
            throw Refused("proof", "the boot host has restarted since");
        }
        good = lease_ ? renew(now) : open(source, 0, evidence, now);
    }
    catch (const Refused& error)
    {
        miss(&Misses::refused, source, now);
        report(log::Level::warning, "a proof was refused",
               {{"REASON", error.what()}});
    }
    answer(source, quarantine::Verdict{proof.nonce, good});
}

void PortAgent::answer(const MacAddress& to, quarantine::Message message)
{
    try
    {
        quarantine::Frame frame{to, quarantine::agentSource,
                                std::move(message)};
        fabric_.send(settings_.name,
                     quarantine::write(frame, settings_.etherType));
    }
    catch (const Error& error)
    {
        report(log::Level::warning, "a boot host cannot be answered",
               {{"REASON", error.what()}});
    }
}

bool PortAgent::open(const MacAddress& address, std::uint64_t epoch,
                     const Evidence& evidence, TimePoint now)
try
{
    requireClosed(); // what is left of the last lease
    noteSeen(evidence);
    if (epoch != 0)
    {
        useUp(epoch); // first of all: it opens one lease only
    }
    if (std::exchange(drain_, std::nullopt))
    {
        fabric_.guardsChanged(); // hides what the switch is about to forget
    }
    // A slow disk does not take from its time.
    const TimePoint begin = settings_.clock ? settings_.clock() : now;
    lease_ = Lease{address, epoch, evidence.bootCount, begin + settings_.lease};
    fabric_.open(settings_.name, address, settings_.lease);
    // Only now that the switch knows where it is: frames to an address that is
    // neither hidden nor known go everywhere.
    fabric_.guardsChanged();
    opened_++;
    report(log::Level::notice, "a port was opened",
           {{"ADDRESS", nameOf(address)}, {"EPOCH", std::to_string(epoch)}});
    return true;
}
catch (const Error& error)
{
    report(log::Level::error, "a port could not be opened",
           {{"REASON", error.what()}});
    end("it could not be opened");
    return false;
}

bool PortAgent::renew(TimePoint now)
try
{
    if (until(lease_->ends, now) > settings_.lease * 3 / 4)
    {
        return true; // it was just now: this is not for free
    }
    fabric_.open(settings_.name, lease_->address, settings_.lease);
    lease_->ends = now + settings_.lease;
    renewed_++;
    return true;
}
catch (const Error& error)
{
    report(log::Level::error, "a lease could not be renewed",
           {{"REASON", error.what()}});
    end("it could not be renewed");
    return false;
}

void PortAgent::useUp(std::uint64_t epoch)
{
    enrolment_->epoch = epoch;
    loadAddresses();
    store_.save(settings_.name, *enrolment_);
}

/** On the disk before anything is opened: an agent that starts anew still
 * tells a TPM that somebody has put back. Not at each renewal: a start of the
 * boot host ends the lease. */
void PortAgent::noteSeen(const Evidence& evidence)
{
    if (evidence.clock)
    {
        enrolment_->seen = evidence.clock;
        store_.save(settings_.name, *enrolment_);
    }
}

void PortAgent::seenElsewhere(const MacAddress& address,
                              const std::string& where)
{
    report(log::Level::warning,
           "the address of a boot host was seen at another port",
           {{"ADDRESS", nameOf(address)}, {"WHERE", where}});
    if (lease_ && lease_->address == address)
    {
        end("its address was seen at " + where);
        return;
    }
    if (const Epoch* epoch = find(next_, address))
    {
        useUp(epoch->number);
        fabric_.guardsChanged();
    }
}

void PortAgent::cut(const std::string& why)
{
    end(why);
    requireClosed();
}

void PortAgent::requireClosed() const
{
    if (unclosed_)
    {
        throw Error("the kernel did not shut port " + settings_.name +
                    "; it is tried again. Pull the cable if it is urgent");
    }
}

void PortAgent::cutByHost(TimePoint now)
{
    if (!lease_)
    {
        if (!drain_)
        {
            close();
        }
        requireClosed();
        return;
    }
    MacAddress address = lease_->address;
    lease_.reset();
    pending_.reset();
    reason_ = "the boot host asked for it";
    try
    {
        fabric_.drain(settings_.name, address, drainTime);
        drain_ = Drain{address, now + drainTime};
        fabric_.guardsChanged();
    }
    catch (const Error&)
    {
        end("the boot host asked for it");
        requireClosed();
    }
    report(log::Level::notice, "a port was cut off", {{"REASON", reason_}});
}

void PortAgent::end(const std::string& why)
{
    bool wasOpen = lease_.has_value();
    lease_.reset();
    pending_.reset();
    drain_.reset();
    reason_ = why;
    close();
    if (wasOpen)
    {
        report(log::Level::notice, "a port was cut off", {{"REASON", why}});
    }
}

void PortAgent::close()
{
    try
    {
        fabric_.close(settings_.name);
        unclosed_ = false;
    }
    catch (const Error& error)
    {
        unclosed_ = true;
        report(log::Level::error, "a port could not be shut",
               {{"REASON", error.what()}});
    }
}

/** With the root that is in use already, its addresses do not become good
 * again; nor do old counters of the same TPM. */
void PortAgent::keepUsedUp(Enrolment& fresh) const
{
    if (enrolment_ && enrolment_->method == Method::quote &&
        fresh.method == Method::quote && sameProver(enrolment_->key, fresh.key))
    {
        fresh.seen = enrolment_->seen;
    }
    if (enrolment_ && enrolment_->root && fresh.root &&
        enrolment_->root->equals(fresh.root->view()))
    {
        fresh.epoch = std::max(fresh.epoch, enrolment_->epoch);
    }
}

void PortAgent::enroll(Enrolment enrolment)
{
    if (enrolment.method == Method::quote)
    {
        settings_.verifier(enrolment.key);
    }
    cut("the enrolment has changed");
    keepUsedUp(enrolment);
    store_.save(settings_.name, enrolment);
    enrolment_ = enrolment;
    loadAddresses();
    fabric_.guardsChanged();
}

void PortAgent::rotate(const Secret& root, TimePoint now)
{
    endIfOver(now);
    if (!lease_)
    {
        throw Refused("not-open", "the port is not open");
    }
    if (!enrolment_->root)
    {
        throw Refused("no-root", "the port's method has no root");
    }
    Enrolment fresh = *enrolment_;
    fresh.root = std::make_shared<Secret>(root.view());
    fresh.epoch = 0;
    keepUsedUp(fresh);
    store_.save(settings_.name, fresh);
    cutByHost(now);
    enrolment_ = fresh;
    loadAddresses();
    fabric_.guardsChanged();
}

/** A lease that is over is over for whatever comes next, whether the clock was
 * looked at in between or not. */
void PortAgent::endIfOver(TimePoint now)
{
    if (lease_ && now >= lease_->ends)
    {
        end("the lease has ended");
    }
}

void PortAgent::tick(TimePoint now)
{
    endIfOver(now);
    if (drain_ && now >= drain_->ends)
    {
        end(std::string(reason_));
    }
    if (unclosed_)
    {
        close();
    }
    if (reportDue_ && now >= *reportDue_)
    {
        reportMisses(now);
    }
}

std::optional<TimePoint> PortAgent::nextDue(TimePoint now) const
{
    std::optional<TimePoint> out = reportDue_;
    auto sooner = [&](TimePoint time) {
        out = out ? std::min(*out, time) : time;
    };
    if (lease_)
    {
        TimePoint half = lease_->ends - settings_.lease / 2;
        sooner(half > now ? half : lease_->ends); // see wantsTraffic()
    }
    if (drain_)
    {
        sooner(drain_->ends);
    }
    return out;
}

void PortAgent::miss(std::uint64_t Misses::*kind, const MacAddress& source,
                     TimePoint now)
{
    missNamed(kind, nameOf(source), now);
}

void PortAgent::missNamed(std::uint64_t Misses::*kind, const std::string& name,
                          TimePoint now)
{
    misses_.*kind += 1;
    lastMiss_ = name;
    if (!reportDue_)
    {
        reportMisses(now);
    }
}

/** The first one at once, then what has come in some time together. */
void PortAgent::reportMisses(TimePoint now)
{
    std::uint64_t news = misses_.total() - reported_;
    if (news == 0)
    {
        reportDue_.reset();
        return;
    }
    reported_ = misses_.total();
    reportDue_ = now + reportEvery;
    report(log::Level::warning, "frames with an address that is not allowed",
           {{"COUNT", std::to_string(news)},
            {"LAST", lastMiss_},
            {"MISSES", dumpJson(misses_.toJson())}});
}

void PortAgent::report(log::Level level, std::string_view message,
                       std::vector<log::Field> fields) const
{
    fields.emplace_back("PORT", settings_.name);
    if (enrolment_)
    {
        fields.emplace_back("BOOT_HOST", enrolment_->host);
    }
    reporter_(level, message, fields);
}

std::optional<std::string> PortAgent::tagOf(const MacAddress& address) const
{
    for (const std::vector<Epoch>* epochs : {&past_, &next_, &later_})
    {
        for (const Epoch& epoch : *epochs)
        {
            if (equalConstantTime(epoch.host.view(), address.view()) ||
                equalConstantTime(epoch.gate.view(), address.view()))
            {
                return epoch::tag(*enrolment_->root, address);
            }
        }
    }
    return std::nullopt;
}

std::string PortAgent::nameOf(const MacAddress& address) const
{
    return tagOf(address).value_or(address.text());
}

Json PortAgent::status(TimePoint now) const
{
    Json out = {{"port", settings_.name},
                {"state", lease_      ? "open"
                          : unclosed_ ? "shutting"
                                      : "cut-off"},
                {"opened", opened_},
                {"renewed", renewed_},
                {"misses", misses_.toJson()}};
    if (enrolment_)
    {
        out["host"] = enrolment_->host;
        out["method"] = std::string(toString(enrolment_->method));
        out["epoch"] = enrolment_->epoch;
    }
    if (lease_)
    {
        out["lease"] = {{"address", nameOf(lease_->address)},
                        {"left-ms", until(lease_->ends, now).count()}};
    }
    else
    {
        out["reason"] = reason_;
    }
    return out;
}

} // namespace airlock::sw
