#include "common/quarantine.hpp"

#include "common/json.hpp"

#include <algorithm>
#include <utility>

namespace airlock::quarantine
{

namespace
{

constexpr const char* where = "quarantine frame";
constexpr std::string_view magic = "ALQ1";
constexpr std::size_t leastFrame = 60;

enum Type : std::uint8_t
{
    hello = 1,
    ask = 2,
    challenge = 3,
    proof = 4,
    verdict = 5,
};

struct Writer
{
    ByteWriter& out;

    Type operator()(const Hello&) { return hello; }
    Type operator()(const Ask&) { return ask; }
    Type operator()(const Challenge& message)
    {
        if (message.port.size() > maxPortName)
        {
            throw Error("the name of a port is too long for a frame");
        }
        out.bytes(message.nonce);
        out.text(message.port);
        return challenge;
    }
    Type operator()(const Proof& message)
    {
        if (message.bytes.size() > maxProof)
        {
            throw Error("a proof is too long for a frame");
        }
        out.bytes(message.nonce);
        out.bytes(message.bytes);
        return proof;
    }
    Type operator()(const Verdict& message)
    {
        out.bytes(message.nonce);
        out.u8(message.open ? 1 : 0);
        return verdict;
    }
};

Nonce takeNonce(ByteReader& in)
{
    Nonce out{};
    ByteView taken = in.take(out.size());
    std::copy(taken.begin(), taken.end(), out.begin());
    return out;
}

ByteView takeRest(ByteReader& in, std::size_t max)
{
    if (in.left() > max)
    {
        throw Refused(where, "is too long");
    }
    return in.take(in.left());
}

Message takeChallenge(ByteReader& in)
{
    Challenge out;
    out.nonce = takeNonce(in);
    ByteView name = takeRest(in, maxPortName);
    out.port.assign(name.begin(), name.end());
    bool plain = std::all_of(name.begin(), name.end(), [](std::uint8_t c) {
        return c > ' ' && c <= '~';
    });
    if (!plain || out.port.empty())
    {
        throw Refused(where, "names no port");
    }
    return out;
}

Message takeVerdict(ByteReader& in)
{
    Verdict out;
    out.nonce = takeNonce(in);
    std::uint8_t word = in.u8();
    if (word > 1)
    {
        throw Refused(where, "has a verdict that is none");
    }
    out.open = word == 1;
    return out;
}

Message takeMessage(std::uint8_t type, ByteReader& in)
{
    switch (type)
    {
    case hello:
        return Hello{};
    case ask:
        return Ask{};
    case challenge:
        return takeChallenge(in);
    case proof: {
        Proof out;
        out.nonce = takeNonce(in);
        ByteView bytes = takeRest(in, maxProof);
        out.bytes.assign(bytes.begin(), bytes.end());
        return out;
    }
    case verdict:
        return takeVerdict(in);
    default:
        throw Refused(where, "is of a type that is not known");
    }
}

} // namespace

Bytes write(const Frame& frame, std::uint16_t etherType)
{
    ByteWriter body;
    Type type = std::visit(Writer{body}, frame.message);
    ByteWriter out;
    out.bytes(frame.destination.view());
    out.bytes(frame.source.view());
    out.be16(etherType);
    out.text(magic);
    out.u8(type);
    out.be16(static_cast<std::uint16_t>(body.size()));
    out.bytes(body.data());
    Bytes bytes = out.release();
    bytes.resize(std::max(bytes.size(), leastFrame));
    return bytes;
}

Frame parse(ByteView bytes, std::uint16_t etherType)
{
    if (bytes.size() > maxFrame)
    {
        throw Refused(where, "is too long");
    }
    ByteReader in(bytes, where);
    Frame out;
    out.destination = MacAddress::from(in.take(6), where);
    out.source = MacAddress::from(in.take(6), where);
    if (in.be16() != etherType)
    {
        throw Refused(where, "has another EtherType");
    }
    ByteView start = in.take(magic.size());
    if (!std::equal(start.begin(), start.end(), magic.begin(), magic.end()))
    {
        throw Refused(where, "is of a version that is not known");
    }
    std::uint8_t type = in.u8();
    ByteReader body(in.take(in.be16()), where);
    out.message = takeMessage(type, body);
    ByteView padding = in.rest();
    if (!body.atEnd() || std::any_of(padding.begin(), padding.end(),
                                     [](std::uint8_t c) { return c != 0; }))
    {
        throw Refused(where, "has more than belongs to it");
    }
    return out;
}

Digest statement(std::string_view port, const MacAddress& address,
                 const Nonce& nonce)
{
    ByteWriter out;
    out.text("airlock switch proof v1");
    out.u8(0);
    out.u8(static_cast<std::uint8_t>(port.size()));
    out.text(port);
    out.bytes(address.view());
    out.bytes(nonce);
    return sha256(out.data());
}

} // namespace airlock::quarantine
