#pragma once

#include "trust/machine.hpp"
#include "trust/policy.hpp"

/** Quotes of a key that is in no TPM. */
namespace airlock::test
{

using namespace airlock::trust;

inline constexpr std::uint32_t goodAttributes =
    wire::fixedTpm | wire::fixedParent | wire::sensitiveDataOrigin |
    wire::userWithAuth | wire::restricted | wire::sign;

/** The public area of a key that a test has in its memory. */
inline Bytes publicAreaOf(const Key& key, std::uint32_t attributes)
{
    wire::Public out =
        wire::Public::parse(PolicyKey::of(key).publicArea(), "key");
    out.attributes = attributes;
    return out.marshal();
}

/** A quote made by hand, every field of which can be wrong. */
struct Forger
{
    std::uint32_t magic = wire::generatedValue;
    std::uint16_t type = wire::typeQuote;
    Bytes extraData = Bytes(32, 7);
    wire::ClockInfo clock{1000, 3, 1, true};
    std::uint8_t safe = 1;
    Bytes selection = PcrSelection{0, 4}.marshal();
    PcrValues pcrs{{0, sha256(Bytes(1, 0))}, {4, sha256(Bytes(1, 4))}};
    Bytes digest; ///< empty: of the values
    Bytes tail;
    Key key = makeKey();

    Bytes attest() const
    {
        ByteWriter out;
        out.be32(magic);
        out.be16(type);
        wire::writeSized(out, Bytes(34, 1));
        wire::writeSized(out, extraData);
        out.be64(clock.clock);
        out.be32(clock.resetCount);
        out.be32(clock.restartCount);
        out.u8(safe);
        out.be64(0x100);
        out.bytes(selection);
        const Digest values = compositeDigest(PcrSelection::of(pcrs), pcrs);
        wire::writeSized(out, digest.empty() ? ByteView(values) : digest);
        out.bytes(tail);
        return out.release();
    }

    static Bytes signatureOf(const Key& key, ByteView attest)
    {
        const wire::EcdsaParts parts =
            wire::ecdsaParts(signDigest(key, sha256(attest)), "signature");
        ByteWriter out;
        out.be16(wire::algEcdsa);
        out.be16(wire::algSha256);
        wire::writeSized(out, parts.r);
        wire::writeSized(out, parts.s);
        return out.release();
    }

    Quote quote() const
    {
        const Bytes made = attest();
        return {made, signatureOf(key, made), pcrs};
    }
};

} // namespace airlock::test
