#include "trust/quote.hpp"

#include <cstdlib>

namespace
{

using namespace airlock;
using namespace airlock::trust;

/** Any point of the curve will do: its generator. (The other half of that key
 * is 1; but a fuzzer does not sign.) */
AttestationKey someKey()
{
    static const Bytes x = *fromHex("6b17d1f2e12c4247f8bce6e563a440f277037d812d"
                                    "eb33a0f4a13945d898c296");
    static const Bytes y = *fromHex("4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b"
                                    "315ececbb6406837bf51f5");
    wire::Public area;
    area.type = wire::algEcc;
    area.attributes = wire::fixedTpm | wire::fixedParent |
                      wire::sensitiveDataOrigin | wire::restricted | wire::sign;
    area.scheme = wire::algEcdsa;
    area.x = x;
    area.y = y;
    return AttestationKey::parse(area.marshal(), "key");
}

void asJson(std::string_view text)
{
    const Quote quote = Quote::parse(text, "quote");
    const Json once = quote.toJson();
    if (Quote::parse(dumpJson(once), "quote").toJson() != once)
    {
        std::abort();
    }
    static const AttestationKey key = someKey();
    QuoteExpectation expected;
    expected.pcrs = {{0, Digest{}}};
    verifyQuote(key, quote, expected);
    std::abort(); // nobody can sign for that key
}

} // namespace

/** Of the parts of a quote, in TPM 2.0's form, chosen by the first byte: 'a'
 * attest, 's' signature, 'p' public area, otherwise the whole as JSON. */
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size)
{
    if (size == 0)
    {
        return 0;
    }
    const ByteView rest(data + 1, size - 1);
    try
    {
        switch (data[0])
        {
        case 'a':
            wire::QuoteInfo::parse(rest, "quote");
            break;
        case 's':
            wire::Signature::parse(rest, "signature");
            break;
        case 'p':
            if (!equalConstantTime(wire::Public::parse(rest, "key").marshal(),
                                   rest))
            {
                std::abort();
            }
            AttestationKey::parse(rest, "key");
            break;
        default:
            asJson(asText({data, size}));
        }
    }
    catch (const Refused&)
    {}
    return 0;
}
