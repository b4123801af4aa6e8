#include "bootsrv/machine/enrolment_request.hpp"

namespace airlock::machine
{

namespace
{

/** What the key signs otherwise is the digest of a digest and a short tag, see
 * trust::signedDigest(): never of something that begins like this, nor of
 * something as long. */
constexpr std::string_view label("airlock enrolment request 1\0", 28);
constexpr std::size_t maxName = 64;
constexpr std::size_t maxSignature = 512;

/** What is of no fixed length goes in by its digest. */
Digest signedDigest(const EnrolmentRequest& request)
{
    const auto digestOf = [](std::string_view text) {
        return sha256(asBytes(text));
    };
    const WipedText site(dumpJson(request.site.json));
    ByteWriter start;
    start.text(label);
    start.bytes(digestOf(request.name));
    start.bytes(digestOf(site.text));
    start.be64(request.generation);
    start.bytes(request.target);
    return trust::sha256Of({start.data(), request.addressRoot.view()});
}

} // namespace

void EnrolmentRequest::sign(const trust::Key& siteKey,
                            std::uint64_t policyGeneration,
                            const Digest& forTarget)
{
    generation = policyGeneration;
    target = forTarget;
    signature = trust::signDigest(siteKey, signedDigest(*this));
}

void EnrolmentRequest::verify(const trust::PolicyKey& key) const
{
    if (signature.empty() ||
        !trust::verifyDigest(key.key(), signedDigest(*this), signature))
    {
        throw Refused("request to enrol",
                      "was not signed with the site's policy key");
    }
}

Json EnrolmentRequest::toJson() const
{
    return {{"name", name},
            {"address_root", toHex(addressRoot.view())},
            {"site", site.json},
            {"generation", generation},
            {"target", toHex(target)},
            {"signature", toHex(signature)}};
}

EnrolmentRequest EnrolmentRequest::parse(const JsonField& field)
{
    field.onlyKeys(
        {"name", "address_root", "site", "generation", "target", "signature"});
    EnrolmentRequest out;
    out.name = field.at("name").string(maxName);
    out.addressRoot = Secret::key(field.at("address_root"));
    if (auto site = field.find("site"))
    {
        out.site = WipedJson(site->json());
    }
    if (auto signature = field.find("signature"))
    {
        out.generation = field.at("generation").u64();
        out.target = field.at("target").digest();
        out.signature = signature->hex(maxSignature);
    }
    return out;
}

} // namespace airlock::machine
