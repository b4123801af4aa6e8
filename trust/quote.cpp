#include "trust/quote.hpp"

#include <fmt/format.h>

namespace airlock::trust
{

namespace
{

/** Changes with the meaning of the fields. */
constexpr std::string_view label = "airlock quote 1";

constexpr std::size_t maxAttest = 1024;
constexpr std::size_t maxSignature = 1024;
constexpr std::size_t maxContext = 1024;
constexpr std::size_t minNonce = 16;

/** With its length in front, so that no two contexts give the same bytes. */
void addField(ByteWriter& out, ByteView data)
{
    if (data.size() > maxContext)
    {
        throw Refused("quote context", "a part has more than 1024 bytes");
    }
    wire::writeSized(out, data);
}

/** Attributes that have to be there, and those that must not be. */
void requireAttributes(std::uint32_t attributes, std::string_view where)
{
    constexpr std::uint32_t needed = wire::restricted | wire::sign |
                                     wire::fixedTpm | wire::fixedParent |
                                     wire::sensitiveDataOrigin;
    if (const std::uint32_t missing = needed & ~attributes; missing != 0)
    {
        throw Refused(where, "the attestation key is not " +
                                 wire::attributesText(missing));
    }
    if ((attributes & wire::decrypt) != 0)
    {
        throw Refused(where, "the attestation key also decrypts");
    }
}

void checkSignature(const AttestationKey& key, const Quote& quote)
{
    const wire::Signature signature =
        wire::Signature::parse(quote.signature, "quote signature");
    if (signature.algorithm != key.scheme())
    {
        throw Refused("quote signature",
                      fmt::format("algorithm {:#06x}, the enrolled key has "
                                  "{:#06x}",
                                  signature.algorithm, key.scheme()));
    }
    if (!verifyDigest(key.key(), sha256(quote.attest), signature.value,
                      signature.algorithm == wire::algRsaPss))
    {
        throw Refused("quote signature", "is not of the enrolled key");
    }
}

void checkPcrs(const wire::QuoteInfo& info, const Quote& quote,
               const PcrValues& expected)
{
    const PcrSelection selection = PcrSelection::of(expected);
    if (selection.empty())
    {
        throw Error("a quote is checked against at least one PCR value");
    }
    if (!(info.selection == selection))
    {
        throw Refused("quote PCRs", "selection " + info.selection.text() +
                                        " was quoted, " + selection.text() +
                                        " was asked for");
    }
    if (!equalConstantTime(compositeDigest(selection, expected),
                           info.pcrDigest))
    {
        // What the peer says of the values is unsigned: shown, not believed.
        const std::string what = differences(quote.pcrs, expected);
        throw Refused("quote PCRs",
                      what.empty() ? "the digest is not of the values that "
                                     "were sent with it"
                                   : "not as expected: " + what);
    }
}

void checkClock(const wire::ClockInfo& now, const QuoteExpectation& expected)
{
    if (expected.safeClock && !now.safe)
    {
        throw Refused("quote clock", "is not safe: it may have run before; a "
                                     "TPM says so for a while after it lost "
                                     "power without notice");
    }
    if (!expected.previous)
    {
        return;
    }
    const wire::ClockInfo& before = *expected.previous;
    if (now.resetCount < before.resetCount)
    {
        throw Refused("quote clock",
                      fmt::format("reset count {} after {}", now.resetCount,
                                  before.resetCount));
    }
    if (expected.sameBoot && (now.resetCount != before.resetCount ||
                              now.restartCount != before.restartCount))
    {
        throw Refused("quote clock",
                      fmt::format("the TPM was reset or restarted: counts "
                                  "{}/{} after {}/{}",
                                  now.resetCount, now.restartCount,
                                  before.resetCount, before.restartCount));
    }
    if (now.resetCount != before.resetCount)
    {
        // A software TPM that was killed starts its clock lower.
        return;
    }
    if (now.restartCount < before.restartCount)
    {
        throw Refused("quote clock",
                      fmt::format("restart count {} after {}", now.restartCount,
                                  before.restartCount));
    }
    if (now.safe && now.clock < before.clock)
    {
        throw Refused("quote clock", fmt::format("{} ms after {} ms", now.clock,
                                                 before.clock));
    }
}

} // namespace

Digest qualifyingData(const QuoteContext& context)
{
    if (context.nonce.size() < minNonce || context.nonce.size() > 64)
    {
        throw Refused("quote context", "a nonce has 16 to 64 bytes");
    }
    if (context.role.empty())
    {
        throw Refused("quote context", "the role is missing");
    }
    ByteWriter out;
    addField(out, asBytes(label));
    addField(out, asBytes(context.role));
    addField(out, context.nonce);
    addField(out, context.channel);
    addField(out, asBytes(context.about));
    return sha256(out.data());
}

Json Quote::toJson() const
{
    return {{"version", 1},
            {"attest", toHex(attest)},
            {"signature", toHex(signature)},
            {"pcrs", trust::toJson(pcrs)}};
}

Quote Quote::parse(const JsonField& field)
{
    field.onlyKeys({"version", "attest", "signature", "pcrs"});
    if (field.at("version").u64() != 1)
    {
        field.at("version").refuse("is not 1, the one that is known here");
    }
    Quote out;
    out.attest = field.at("attest").hex(maxAttest);
    out.signature = field.at("signature").hex(maxSignature);
    out.pcrs = pcrValuesFrom(field.at("pcrs"));
    return out;
}

Quote Quote::parse(std::string_view text, std::string_view where)
{
    const Json document = parseJson(text, where, {64U << 10, 4});
    return parse(JsonField(document, where));
}

Bytes pack(const Quote& quote)
{
    ByteWriter out;
    wire::writeSized(out, quote.attest);
    wire::writeSized(out, quote.signature);
    return out.release();
}

Quote unpackQuote(ByteView data, std::string_view where)
{
    ByteReader in(data, where);
    Quote out;
    for (Bytes* part : {&out.attest, &out.signature})
    {
        const ByteView bytes = in.take(in.be16());
        part->assign(bytes.begin(), bytes.end());
    }
    if (!in.atEnd())
    {
        throw Refused(where, "goes on after the quote");
    }
    return out;
}

AttestationKey AttestationKey::parse(ByteView publicArea,
                                     std::string_view where)
{
    const wire::Public area = wire::Public::parse(publicArea, where);
    requireAttributes(area.attributes, where);
    if (area.scheme == wire::algNull)
    {
        throw Refused(where, "the attestation key has no fixed scheme");
    }
    static_cast<void>(area.key(where)); // refuses a bad point
    AttestationKey out;
    out.publicArea_.assign(publicArea.begin(), publicArea.end());
    out.name_ = wire::nameOf(publicArea);
    out.scheme_ = area.scheme;
    return out;
}

Key AttestationKey::key() const
{
    return wire::Public::parse(publicArea_, "attestation key")
        .key("attestation key");
}

QuoteVerdict verifyQuote(const AttestationKey& key, const Quote& quote,
                         const QuoteExpectation& expected)
{
    // The signature first: after it the rest is at least a TPM's words.
    checkSignature(key, quote);
    const wire::QuoteInfo info = wire::QuoteInfo::parse(quote.attest, "quote");
    if (!equalConstantTime(info.extraData, expected.extraData))
    {
        throw Refused("quote extra data",
                      "is not for this nonce and connection");
    }
    checkPcrs(info, quote, expected.pcrs);
    checkClock(info.clock, expected);
    return {info.clock, info.firmwareVersion};
}

} // namespace airlock::trust
