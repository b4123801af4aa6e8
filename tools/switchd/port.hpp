#pragma once

#include "common/json.hpp"
#include "common/log.hpp"
#include "common/mac_address.hpp"
#include "common/quarantine.hpp"
#include "tools/switchd/enrolment.hpp"
#include "tools/switchd/verifier.hpp"

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace airlock::sw
{

using TimePoint = std::chrono::steady_clock::time_point;

/** What a lease does to the switch. Throws Error when it could not be done. */
class Fabric
{
  public:
    virtual ~Fabric() = default;

    /** Lets the address through at the port, both ways, for a time; the same
     * again renews it. */
    virtual void open(const std::string& port, const MacAddress& address,
                      std::chrono::seconds time) = 0;
    /** Nothing comes in any more; what the switch itself sends to the address
     * still goes out for this time. */
    virtual void drain(const std::string& port, const MacAddress& address,
                       std::chrono::seconds time) = 0;
    /** Nothing in, nothing out. Takes up the port's guarded() before it forgets
     * where the address was: frames to it would go everywhere. */
    virtual void close(const std::string& port) = 0;
    /** Sends a frame of the agent's out of the port. */
    virtual void send(const std::string& port, ByteView frame) = 0;
    /** Whether the address is known at another port. */
    virtual bool elsewhere(const std::string& port,
                           const MacAddress& address) = 0;
    /** An address came in at the port that is none of its own. When it is
     * another port's (its lease's, or derived from its root), that port is
     * told; gives what the address is called in logs then. */
    virtual std::optional<std::string> foreign(const std::string& port,
                                               const MacAddress& address) = 0;
    /** A port's guarded() has changed. */
    virtual void guardsChanged() = 0;
};

struct PortSettings
{
    std::string name;
    std::uint16_t etherType = quarantine::defaultEtherType;
    std::chrono::seconds lease{10};
    /** How many epochs ahead of the last one are accepted. */
    std::uint64_t window = 16;
    /** mac: ordinary frames count, not only a hello. */
    bool plain = true;
    /** Frames whose source address is looked at, in a second. */
    unsigned guesses = 100;
    /** Challenges that are given out, in a second. */
    unsigned challenges = 5;
    /** quote: makes the judge of what was enrolled; throws Refused. */
    std::function<std::unique_ptr<ProofVerifier>(const std::string&)> verifier =
        makeVerifier;
    /** The time after something that may have taken long; without it, the time
     * that was passed. */
    std::function<TimePoint()> clock;
};

/** A frame as it came in from a boot port; `bytes` may be cut short. */
struct SeenFrame
{
    ByteView bytes;
    bool tagged = false; ///< with a VLAN tag, which is not in `bytes`
};

/** So many in a second, and at most so many at once. */
class TokenBucket
{
  public:
    explicit TokenBucket(unsigned perSecond)
        : rate_(perSecond), left_(perSecond)
    {}

    bool take(TimePoint now);

  private:
    double rate_;
    double left_;
    std::optional<TimePoint> last_;
};

/** What came in that should not have. */
struct Misses
{
    std::uint64_t unknown = 0;   ///< another source address
    std::uint64_t used = 0;      ///< the address of an epoch that is over
    std::uint64_t ahead = 0;     ///< of one that is too far ahead
    std::uint64_t half = 0;      ///< mac96: without the switch address
    std::uint64_t tagged = 0;    ///< VLAN tags
    std::uint64_t malformed = 0; ///< quarantine frames that are none
    std::uint64_t refused = 0;   ///< proofs
    std::uint64_t limited = 0;   ///< not looked at: too many

    std::uint64_t total() const
    {
        return unknown + used + ahead + half + tagged + malformed + refused +
               limited;
    }
    Json toJson() const;
};

/** Tells the operator: journal and events. */
using Reporter = std::function<void(log::Level, std::string_view message,
                                    const std::vector<log::Field>& fields)>;

/** The lease of one port: who may have it, and until when.
 *
 * Cut off in the beginning. Each address opens one lease only: before anything
 * is let through it is noted on the disk as used up. Not shared between
 * threads.
 */
class PortAgent
{
  public:
    PortAgent(const PortSettings& settings, const EnrolmentStore& store,
              Fabric& fabric, Reporter reporter);
    ~PortAgent();

    const std::string& name() const { return settings_.name; }
    bool isOpen() const { return lease_.has_value(); }
    /** Of the lease that is open. */
    std::optional<MacAddress> address() const;

    void frame(const SeenFrame& frame, TimePoint now);
    /** Whether frames from the lease's own address are of interest: they would
     * renew it. */
    bool wantsTraffic(TimePoint now) const;

    /** Whether the address is that of the lease, or of an epoch that may come.
     */
    bool expects(const MacAddress& address) const;
    /** The tag of an address that derives from this port's root. */
    std::optional<std::string> tagOf(const MacAddress& address) const;
    /** An address that this port expects was seen at another one: ends the
     * lease, and the epoch. */
    void seenElsewhere(const MacAddress& address, const std::string& where);

    /** Ends the lease, and shuts the port if anything of it is left. Throws
     * Error when the kernel did not do it; it is tried again then. */
    void cut(const std::string& why);
    /** The same on behalf of the boot host, which still gets an answer. */
    void cutByHost(TimePoint now);

    /** A new root from the boot host itself, which is clean as long as its
     * lease is open; ends the lease as cutByHost() does. Throws Refused with
     * "not-open" or "no-root" as `where`. */
    void rotate(const Secret& root, TimePoint now);

    /** Replaces the enrolment; ends the lease. What was used up of a root that
     * stays the same remains so. */
    void enroll(Enrolment enrolment);
    const std::optional<Enrolment>& enrolment() const { return enrolment_; }

    /** What falls due: the end of the lease, of a drain, reports. */
    void tick(TimePoint now);
    std::optional<TimePoint> nextDue(TimePoint now) const;

    struct Guarded
    {
        std::vector<MacAddress> expected; ///< nobody else may use them
        std::vector<MacAddress> hidden;   ///< no frame may go to them
        std::vector<MacAddress> watched;  ///< those that expects() is true of
    };
    Guarded guarded() const;

    Json status(TimePoint now) const;

  private:
    struct Lease
    {
        MacAddress address;
        std::uint64_t epoch = 0;
        std::uint64_t bootCount = 0;
        TimePoint ends;
    };
    struct Epoch
    {
        std::uint64_t number = 0;
        MacAddress host;
        MacAddress gate; ///< the switch's
    };
    struct Pending
    {
        quarantine::Nonce nonce{};
        MacAddress source;
        TimePoint ends;
    };

    void loadAddresses();
    const Epoch* find(const std::vector<Epoch>& epochs,
                      const MacAddress& address) const;
    std::uint64_t Misses::*kindOf(const MacAddress& source) const;

    void tryMac(const SeenFrame& frame, const MacAddress& source,
                const MacAddress& destination, bool ours, TimePoint now);
    void tryQuote(const SeenFrame& frame, TimePoint now);
    void challenge(const MacAddress& source, TimePoint now);
    void prove(const MacAddress& source, const quarantine::Proof& proof,
               TimePoint now);
    void answer(const MacAddress& to, quarantine::Message message);

    /** Both say whether the port is open then. */
    bool open(const MacAddress& address, std::uint64_t epoch,
              const Evidence& evidence, TimePoint now);
    bool renew(TimePoint now);
    void useUp(std::uint64_t epoch);
    void noteSeen(const Evidence& evidence);
    void keepUsedUp(Enrolment& fresh) const;
    void end(const std::string& why);
    void endIfOver(TimePoint now);
    void close();
    void requireClosed() const;

    void miss(std::uint64_t Misses::*kind, const MacAddress& source,
              TimePoint now);
    void missNamed(std::uint64_t Misses::*kind, const std::string& name,
                   TimePoint now);
    void reportMisses(TimePoint now);
    void report(log::Level level, std::string_view message,
                std::vector<log::Field> fields) const;
    std::string nameOf(const MacAddress& address) const;

    PortSettings settings_;
    const EnrolmentStore& store_;
    Fabric& fabric_;
    Reporter reporter_;
    std::optional<Enrolment> enrolment_;
    std::unique_ptr<ProofVerifier> verifier_;
    std::vector<Epoch> past_;
    std::vector<Epoch> next_;  ///< the window
    std::vector<Epoch> later_; ///< to tell what comes too early

    std::optional<Lease> lease_;
    struct Drain
    {
        MacAddress address;
        TimePoint ends;
    };
    std::optional<Drain> drain_;
    std::optional<Pending> pending_;
    std::string reason_ = "start"; ///< why it is cut off
    bool unclosed_ = false;        ///< the kernel has not done it yet
    std::uint64_t opened_ = 0;
    std::uint64_t renewed_ = 0;

    TokenBucket guesses_;
    TokenBucket challenges_;
    Misses misses_;
    std::uint64_t reported_ = 0; ///< misses_.total() at the last report
    std::optional<TimePoint> reportDue_;
    std::string lastMiss_;
};

} // namespace airlock::sw
