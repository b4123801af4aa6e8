#pragma once

#include "trust/credential.hpp"

#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>

/** The verifier's side of enrolment: which machines there are, and by which
 * keys they are known. Needs no TPM. */
namespace airlock::trust
{

/** What a machine says of itself at enrolment; nothing of it is believed
 * before Candidate has checked it. */
struct Machine
{
    Bytes storageName;            ///< of the key that sessions are salted to
    Bytes endorsement;            ///< TPMT_PUBLIC
    Bytes endorsementCertificate; ///< DER; empty when the TPM has none
    Bytes attestation;            ///< TPMT_PUBLIC

    Json toJson() const;
    static Machine parse(const JsonField& field);
};

/** How a verifier knows that an endorsement key is in a real TPM. */
struct EndorsementTrust
{
    /** Certificates (PEM) of those who issue endorsement certificates. */
    std::string authorities;
    /** SHA-256 digests of public areas that somebody noted by hand, for TPMs
     * without a certificate. */
    std::set<Digest> known;
};

/** A machine on its way into the inventory.
 *
 * It is in when it returns the secret of the credential, for that takes the TPM
 * with the endorsement key *and* the attestation key in it: the two keys belong
 * together.
 */
class Candidate
{
  public:
    /** Checks attributes of both keys and where the endorsement key is from;
     * Refused says what does not hold. */
    Candidate(Machine machine, const EndorsementTrust& trust);

    /** What the machine has to put into TPM2_ActivateCredential. */
    const Credential& credential() const { return credential_; }
    /** Refused unless this is the secret; can be asked once. */
    void requireAnswer(ByteView answer);
    bool answered() const { return answered_; }
    const Machine& machine() const { return machine_; }

    /** To be kept from question to answer, out of the machine's reach: the
     * secret is in it. */
    Json toJson() const;
    /** What toJson() wrote; whoever can change it can enrol any machine. */
    static Candidate parse(const JsonField& field);

  private:
    Candidate() = default;

    Machine machine_;
    Secret secret_;
    Credential credential_;
    bool answered_ = false;
};

/** A machine of the inventory. */
struct Member
{
    Digest endorsement{}; ///< of the public area of its endorsement key
    AttestationKey attestation;
    std::optional<wire::ClockInfo> lastQuote;
};

/** What a verifier keeps of a TPM's counters. */
Json clockJson(const wire::ClockInfo& clock);
wire::ClockInfo clockFrom(const JsonField& field);

/** The machines that are known, by name. An identity does not change: the same
 * name with another TPM is refused until somebody has removed the old one.
 * Safe to share between threads. */
class Inventory
{
  public:
    /** Refused when the candidate has not answered, the name is taken by
     * another endorsement key, or the key by another name. Enrolling the same
     * machine again renews its attestation key. */
    void enroll(const std::string& name, const Candidate& candidate);
    void remove(const std::string& name);

    /** Refused when there is none of that name. */
    Member find(const std::string& name) const;

    /** verifyQuote() with the machine's own key and against its last quote,
     * which this one then becomes. `sameBoot` as in QuoteExpectation. */
    QuoteVerdict verify(const std::string& name, const Quote& quote,
                        QuoteExpectation expected);

    Json toJson() const;
    static Inventory parse(const JsonField& field);

    Inventory() = default;
    Inventory(Inventory&& other) noexcept : members_(std::move(other.members_))
    {}

  private:
    mutable std::mutex mutex_;
    std::map<std::string, Member> members_;
};

/** Nonces that were given out and not used yet. Each is good once and for a
 * short time. Safe to share between threads. */
class NonceBook
{
  public:
    using Clock = std::chrono::steady_clock;
    static constexpr std::size_t nonceSize = 32;

    /** `now` is for tests. */
    explicit NonceBook(std::chrono::seconds life, std::size_t most = 1024,
                       std::function<Clock::time_point()> now = Clock::now)
        : life_(life), most_(most), now_(std::move(now))
    {}

    /** Refused while too many are out: a peer that only asks cannot fill the
     * memory. */
    Bytes issue();
    /** Refused unless it was issued, is not too old and was not used. */
    void take(ByteView nonce);

  private:
    void forgetOld(Clock::time_point now);

    std::chrono::seconds life_;
    std::size_t most_;
    std::function<Clock::time_point()> now_;
    std::mutex mutex_;
    std::map<Bytes, Clock::time_point> out_;
};

} // namespace airlock::trust
