#include "trust/machine.hpp"

#include <algorithm>

namespace airlock::trust
{

namespace
{

constexpr std::size_t maxName = 64;
constexpr std::size_t maxMembers = 4096;
constexpr std::size_t maxCertificate = 4096;
constexpr std::size_t maxPublic = 1024;

void requireVersion(const JsonField& field)
{
    if (field.at("version").u64() != 1)
    {
        field.at("version").refuse("is not 1, the one that is known here");
    }
}

void requireName(const std::string& name)
{
    if (name.empty() || name.size() > maxName ||
        !std::all_of(name.begin(), name.end(),
                     [](char c) { return c > ' ' && c <= '~'; }))
    {
        throw Refused("inventory", "a machine's name has 1 to 64 printable "
                                   "characters without blanks: " +
                                       printable(name));
    }
}

/** Certificate, or known by hand; else anybody could bring a key of software
 * and call it a TPM's. */
void requireTrusted(const Machine& machine, const wire::Public& endorsement,
                    const EndorsementTrust& trust)
{
    if (trust.known.contains(sha256(machine.endorsement)))
    {
        return;
    }
    if (machine.endorsementCertificate.empty())
    {
        throw Refused("endorsement key",
                      "has no certificate and is not on the list; its digest "
                      "is " +
                          toHex(sha256(machine.endorsement)));
    }
    if (trust.authorities.empty())
    {
        throw Refused("endorsement key", "there is no authority to check its "
                                         "certificate with");
    }
    verifyEndorsementCertificate(machine.endorsementCertificate, endorsement,
                                 trust.authorities);
}

} // namespace

Json clockJson(const wire::ClockInfo& clock)
{
    return {{"clock", clock.clock},
            {"reset-count", clock.resetCount},
            {"restart-count", clock.restartCount},
            {"safe", clock.safe}};
}

wire::ClockInfo clockFrom(const JsonField& field)
{
    field.onlyKeys({"clock", "reset-count", "restart-count", "safe"});
    wire::ClockInfo out;
    out.clock = field.at("clock").u64();
    out.resetCount =
        static_cast<std::uint32_t>(field.at("reset-count").u64(0xffffffff));
    out.restartCount =
        static_cast<std::uint32_t>(field.at("restart-count").u64(0xffffffff));
    out.safe = field.at("safe").boolean();
    return out;
}

Json Machine::toJson() const
{
    return {{"version", 1},
            {"storage-name", toHex(storageName)},
            {"endorsement-public", toHex(endorsement)},
            {"endorsement-certificate", toHex(endorsementCertificate)},
            {"attestation-public", toHex(attestation)}};
}

Machine Machine::parse(const JsonField& field)
{
    field.onlyKeys({"version", "storage-name", "endorsement-public",
                    "endorsement-certificate", "attestation-public"});
    requireVersion(field);
    Machine out;
    out.storageName = field.at("storage-name").hex(66);
    out.endorsement = field.at("endorsement-public").hex(maxPublic);
    out.endorsementCertificate =
        field.at("endorsement-certificate").hex(maxCertificate);
    out.attestation = field.at("attestation-public").hex(maxPublic);
    return out;
}

Candidate::Candidate(Machine machine, const EndorsementTrust& trust)
    : machine_(std::move(machine)), secret_(Secret::random())
{
    const wire::Public endorsement =
        endorsementKey(machine_.endorsement, "endorsement key");
    requireTrusted(machine_, endorsement, trust);
    const AttestationKey attestation =
        AttestationKey::parse(machine_.attestation, "attestation key");
    credential_ = makeCredential(endorsement, attestation.name(), secret_);
}

Json Candidate::toJson() const
{
    return {{"machine", machine_.toJson()},
            {"challenge", toHex(credential_.marshal())},
            {"secret", toHex(secret_.view())}};
}

Candidate Candidate::parse(const JsonField& field)
{
    constexpr std::size_t most = 2048;
    field.onlyKeys({"machine", "challenge", "secret"});
    Candidate out;
    out.machine_ = Machine::parse(field.at("machine"));
    out.credential_ =
        Credential::parse(field.at("challenge").hex(most), "challenge");
    Bytes secret = field.at("secret").hex(most);
    out.secret_ = Secret(ByteView(secret));
    wipe(secret);
    return out;
}

void Candidate::requireAnswer(ByteView answer)
{
    // One try: the next one gets another secret.
    const Secret secret = std::move(secret_);
    if (secret.empty() || !secret.equals(answer))
    {
        throw Refused("credential", "the answer is not its secret: attestation "
                                    "and endorsement key are not in one TPM");
    }
    answered_ = true;
}

void Inventory::enroll(const std::string& name, const Candidate& candidate)
{
    requireName(name);
    if (!candidate.answered())
    {
        throw Refused("inventory", "the machine has not shown that its keys "
                                   "belong together");
    }
    const Digest endorsement = sha256(candidate.machine().endorsement);
    std::lock_guard lock(mutex_);
    auto old = members_.find(name);
    if (old != members_.end() && old->second.endorsement != endorsement)
    {
        throw Refused("inventory", name + " is another TPM; remove the old "
                                          "one first");
    }
    for (const auto& [other, member] : members_)
    {
        if (other != name && member.endorsement == endorsement)
        {
            throw Refused("inventory", "this TPM is enrolled as " + other);
        }
    }
    if (old == members_.end() && members_.size() == maxMembers)
    {
        throw Refused("inventory", "has 4096 machines, which is its limit");
    }
    Member member{endorsement,
                  AttestationKey::parse(candidate.machine().attestation,
                                        "attestation key"),
                  std::nullopt};
    // A new attestation key starts no new time: the counters are the TPM's.
    if (old != members_.end())
    {
        member.lastQuote = old->second.lastQuote;
        members_.erase(old);
    }
    members_.emplace(name, std::move(member));
}

void Inventory::remove(const std::string& name)
{
    std::lock_guard lock(mutex_);
    if (members_.erase(name) == 0)
    {
        throw Refused("inventory", "there is no " + printable(name));
    }
}

Member Inventory::find(const std::string& name) const
{
    std::lock_guard lock(mutex_);
    auto found = members_.find(name);
    if (found == members_.end())
    {
        throw Refused("inventory", "there is no " + printable(name));
    }
    return found->second;
}

QuoteVerdict Inventory::verify(const std::string& name, const Quote& quote,
                               QuoteExpectation expected)
{
    std::lock_guard lock(mutex_);
    auto found = members_.find(name);
    if (found == members_.end())
    {
        throw Refused("inventory", "there is no " + printable(name));
    }
    expected.previous = found->second.lastQuote;
    QuoteVerdict verdict =
        verifyQuote(found->second.attestation, quote, expected);
    found->second.lastQuote = verdict.clock;
    return verdict;
}

Json Inventory::toJson() const
{
    std::lock_guard lock(mutex_);
    Json machines = Json::object();
    for (const auto& [name, member] : members_)
    {
        Json& entry = machines[name];
        entry["endorsement"] = toHex(member.endorsement);
        entry["attestation-public"] = toHex(member.attestation.publicArea());
        if (member.lastQuote)
        {
            entry["last-quote"] = clockJson(*member.lastQuote);
        }
    }
    return {{"version", 1}, {"machines", machines}};
}

Inventory Inventory::parse(const JsonField& field)
{
    field.onlyKeys({"version", "machines"});
    requireVersion(field);
    JsonField machines = field.at("machines");
    if (!machines.json().is_object() || machines.json().size() > maxMembers)
    {
        machines.refuse("is no object of at most 4096 machines");
    }
    Inventory out;
    for (const auto& item : machines.json().items())
    {
        requireName(item.key());
        JsonField entry = machines.at(item.key());
        entry.onlyKeys({"endorsement", "attestation-public", "last-quote"});
        Member member{
            entry.at("endorsement").digest(),
            AttestationKey::parse(entry.at("attestation-public").hex(maxPublic),
                                  entry.at("attestation-public").path()),
            std::nullopt};
        if (auto last = entry.find("last-quote"))
        {
            member.lastQuote = clockFrom(*last);
        }
        out.members_.emplace(item.key(), std::move(member));
    }
    return out;
}

Bytes NonceBook::issue()
{
    const Clock::time_point now = now_();
    std::lock_guard lock(mutex_);
    forgetOld(now);
    if (out_.size() >= most_)
    {
        throw Refused("nonce", "too many are waiting for an answer");
    }
    Bytes nonce(nonceSize);
    fillRandom(nonce);
    out_.emplace(nonce, now);
    return nonce;
}

void NonceBook::take(ByteView nonce)
{
    const Clock::time_point now = now_();
    std::lock_guard lock(mutex_);
    forgetOld(now);
    if (out_.erase(Bytes(nonce.begin(), nonce.end())) == 0)
    {
        throw Refused("nonce", "was not given out, is too old or was used");
    }
}

void NonceBook::forgetOld(Clock::time_point now)
{
    std::erase_if(
        out_, [&](const auto& entry) { return now - entry.second > life_; });
}

} // namespace airlock::trust
