#include "trust/quote_reference.hpp"

#include "common/json.hpp"

namespace airlock::trust
{

namespace
{

constexpr std::uint64_t version = 1;
constexpr JsonLimits limits = {16U << 10, 6};
constexpr std::size_t maxPublic = 1024;
constexpr std::size_t maxName = 64;

AttestationKey parseKey(const JsonField& field)
{
    return AttestationKey::parse(field.hex(maxPublic), field.path());
}

QuoteReference::State parseState(const JsonField& field)
{
    field.onlyKeys({"name", "pcrs"});
    QuoteReference::State out;
    out.name = plainText(field.at("name").string(maxName));
    out.pcrs = pcrValuesFrom(field.at("pcrs"));
    PcrSelection::of(out.pcrs).requireSealable(field.at("pcrs").path());
    return out;
}

} // namespace

std::string QuoteReference::toText() const
{
    Json list = Json::array();
    for (const State& state : states)
    {
        list.push_back({{"name", state.name}, {"pcrs", toJson(state.pcrs)}});
    }
    return dumpJson({{"version", version},
                     {"attestation", toHex(key.publicArea())},
                     {"states", list}});
}

QuoteReference QuoteReference::parse(std::string_view text)
{
    Json json = parseJson(text, "key", limits);
    JsonField root(json, "key");
    root.onlyKeys({"version", "attestation", "states"});
    if (root.at("version").u64() != version)
    {
        root.at("version").refuse("is not 1, the one that is known here");
    }
    QuoteReference out{parseKey(root.at("attestation")), {}};
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

} // namespace airlock::trust
