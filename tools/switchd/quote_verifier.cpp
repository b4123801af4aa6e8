#include "tools/switchd/quote_verifier.hpp"

#include "common/sha256.hpp"

#include <fmt/format.h>

namespace airlock::sw
{

namespace
{

constexpr std::uint64_t version = 1;
constexpr JsonLimits limits = {16U << 10, 6};
constexpr std::size_t maxPublic = 1024;
constexpr std::size_t maxName = 64;

trust::AttestationKey parseKey(const JsonField& field)
{
    auto bytes = fromHex(field.string(2 * maxPublic));
    if (!bytes)
    {
        field.refuse("is not hexadecimal");
    }
    return trust::AttestationKey::parse(*bytes, field.path());
}

QuoteEnrolment::State parseState(const JsonField& field)
{
    field.onlyKeys({"name", "pcrs"});
    QuoteEnrolment::State out;
    out.name = plainText(field.at("name").string(maxName));
    out.pcrs = trust::pcrValuesFrom(field.at("pcrs"));
    trust::PcrSelection::of(out.pcrs).requireSealable(field.at("pcrs").path());
    return out;
}

} // namespace

std::string QuoteEnrolment::toText() const
{
    Json list = Json::array();
    for (const State& state : states)
    {
        list.push_back(
            {{"name", state.name}, {"pcrs", trust::toJson(state.pcrs)}});
    }
    return dumpJson({{"version", version},
                     {"attestation", toHex(key.publicArea())},
                     {"states", list}});
}

QuoteEnrolment QuoteEnrolment::parse(std::string_view text)
{
    Json json = parseJson(text, "key", limits);
    JsonField root(json, "key");
    root.onlyKeys({"version", "attestation", "states"});
    if (root.at("version").u64() != version)
    {
        root.at("version").refuse("is not 1, the one that is known here");
    }
    QuoteEnrolment out{parseKey(root.at("attestation")), {}};
    JsonField states = root.at("states");
    std::size_t count = states.arraySize(maxStates);
    for (std::size_t i = 0; i < count; i++)
    {
        out.states.push_back(parseState(states.element(i)));
    }
    if (out.states.empty())
    {
        states.refuse("is empty");
    }
    return out;
}

Evidence QuoteVerifier::verify(const Claim& claim, ByteView proof) const
{
    const trust::Quote quote = trust::unpackQuote(proof, "proof");
    trust::QuoteExpectation expected;
    expected.extraData = claim.digest();
    expected.previous = last_;
    // The power of a boot host goes without notice; the counters are right.
    expected.safeClock = false;
    std::string why;
    for (const QuoteEnrolment::State& state : enrolment_.states)
    {
        try
        {
            expected.pcrs = state.pcrs;
            last_ = trust::verifyQuote(enrolment_.key, quote, expected).clock;
            return {(std::uint64_t{last_->resetCount} << 32) |
                    last_->restartCount};
        }
        catch (const Refused& refused)
        {
            why += fmt::format("{}{}: {}", why.empty() ? "" : "; ", state.name,
                               refused.what());
        }
    }
    throw Refused("proof", why);
}

} // namespace airlock::sw
