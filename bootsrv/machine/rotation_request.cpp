#include "bootsrv/machine/rotation_request.hpp"

namespace airlock::machine
{

namespace
{

/** As for a request to enrol, whose label is another one of this length. */
constexpr std::string_view label("airlock rotation request 1\0\0", 28);
constexpr std::size_t maxSignature = 512;

Digest signedDigest(const Digest& target)
{
    ByteWriter start;
    start.text(label);
    start.bytes(target);
    return trust::sha256Of({start.data()});
}

} // namespace

RotationRequest RotationRequest::sign(const trust::Key& siteKey,
                                      const Digest& target)
{
    return {target, trust::signDigest(siteKey, signedDigest(target))};
}

void RotationRequest::verify(const trust::PolicyKey& key) const
{
    if (!trust::verifyDigest(key.key(), signedDigest(target), signature))
    {
        throw Refused("request for a new root",
                      "was not signed with the site's policy key");
    }
}

Json RotationRequest::toJson() const
{
    return {{"target", toHex(target)}, {"signature", toHex(signature)}};
}

RotationRequest RotationRequest::parse(const JsonField& field)
{
    field.onlyKeys({"target", "signature"});
    return {field.at("target").digest(),
            field.at("signature").hex(maxSignature)};
}

} // namespace airlock::machine
