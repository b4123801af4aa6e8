#include "trust/sealed_blob.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace airlock::trust
{

namespace
{

constexpr std::string_view magic = "AIRLSEAL";
constexpr std::uint16_t version = 1;
constexpr std::size_t nameSize = 34;
constexpr std::size_t maxPrivate = 512;

template <std::size_t n>
void readInto(ByteReader& in, std::array<std::uint8_t, n>& out)
{
    ByteView from = in.take(n);
    std::copy(from.begin(), from.end(), out.begin());
}

} // namespace

Digest capValue()
{
    return sha256(asBytes("airlock cap 1"));
}

PcrValues capped(PcrValues values, unsigned pcr)
{
    auto found = values.find(pcr);
    if (found == values.end())
    {
        throw Refused("cap", fmt::format("PCR {} is not among the values: they "
                                         "do not show that it was capped",
                                         pcr));
    }
    found->second = extended(found->second, capValue());
    return values;
}

Bytes SealedBlob::header() const
{
    ByteWriter out;
    out.reserve(256 + privatePart.size());
    out.bytes(asBytes(magic));
    out.be16(version);
    out.bytes(storageName);
    out.bytes(policyKeyName);
    wire::writeSized(out, asBytes(ref));
    out.bytes(unique);
    wire::writeSized(out, privatePart);
    return out.release();
}

Bytes SealedBlob::marshal() const
{
    ByteWriter out;
    out.bytes(header());
    out.bytes(box.nonce);
    out.bytes(box.tag);
    out.be32(static_cast<std::uint32_t>(box.ciphertext.size()));
    out.bytes(box.ciphertext);
    return out.release();
}

SealedBlob SealedBlob::parse(ByteView data, std::string_view where)
{
    ByteReader in(data, where);
    ByteView start = in.take(magic.size());
    if (!std::equal(start.begin(), start.end(), asBytes(magic).begin()))
    {
        throw Refused(where, "is no sealed blob");
    }
    if (const std::uint16_t number = in.be16(); number != version)
    {
        throw Refused(
            where, fmt::format("has version {}, known is {}", number, version));
    }
    SealedBlob out;
    out.storageName = copyOf(in.take(nameSize));
    out.policyKeyName = copyOf(in.take(nameSize));
    ByteView ref = wire::readSized(in, 32, "policy tag");
    out.ref.assign(ref.begin(), ref.end());
    requirePolicyRef(out.ref, where);
    readInto(in, out.unique);
    out.privatePart = copyOf(wire::readSized(in, maxPrivate, "private part"));
    readInto(in, out.box.nonce);
    readInto(in, out.box.tag);
    const std::uint32_t size = in.be32();
    if (size > maxSecret)
    {
        throw Refused(where, fmt::format("has a secret of {} bytes", size));
    }
    out.box.ciphertext = copyOf(in.take(size));
    wire::requireEnd(in);
    return out;
}

} // namespace airlock::trust
