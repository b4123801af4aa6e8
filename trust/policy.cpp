#include "trust/policy.hpp"

#include "common/file.hpp"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>

#include <algorithm>

namespace airlock::trust
{

namespace
{

constexpr std::uint32_t commandPolicyNv = 0x00000149;
constexpr std::uint32_t commandPolicyAuthorize = 0x0000016a;
constexpr std::uint32_t commandPolicyPcr = 0x0000017f;
/** TPM_EO_UNSIGNED_LE: the stored number is not above the given one. */
constexpr std::uint16_t notAbove = 0x0009;

constexpr std::size_t maxPolicies = 64;
constexpr std::size_t maxPolicyFile = 1U << 20;
constexpr std::size_t maxSignature = 512;

Bytes command(std::uint32_t code)
{
    ByteWriter out;
    out.be32(code);
    return out.release();
}

Digest policyNv(const Digest& before, std::uint64_t generation)
{
    ByteWriter arguments;
    arguments.be64(generation);
    arguments.be16(0); // offset
    arguments.be16(notAbove);
    return sha256Of({before, command(commandPolicyNv), sha256(arguments.data()),
                     writtenIndexName(generationIndex, 8)});
}

Digest policyPcr(const Digest& before, const PcrValues& values)
{
    const PcrSelection selection = PcrSelection::of(values);
    return sha256Of({before, command(commandPolicyPcr), selection.marshal(),
                     compositeDigest(selection, values)});
}

Bytes coordinate(const Key& key, const char* which)
{
    BIGNUM* number = nullptr;
    if (EVP_PKEY_get_bn_param(key.get(), which, &number) != 1)
    {
        throwCrypto("cannot read a key");
    }
    std::unique_ptr<BIGNUM, void (*)(BIGNUM*)> owned(number, BN_free);
    Bytes out(32);
    if (BN_bn2binpad(number, out.data(), static_cast<int>(out.size())) < 0)
    {
        throwCrypto("cannot read a key");
    }
    return out;
}

Bytes modulusOf(const Key& key, std::size_t size)
{
    BIGNUM* number = nullptr;
    if (EVP_PKEY_get_bn_param(key.get(), OSSL_PKEY_PARAM_RSA_N, &number) != 1)
    {
        throwCrypto("cannot read a key");
    }
    std::unique_ptr<BIGNUM, void (*)(BIGNUM*)> owned(number, BN_free);
    Bytes out(size);
    if (BN_bn2binpad(number, out.data(), static_cast<int>(size)) < 0)
    {
        throwCrypto("cannot read a key");
    }
    return out;
}

wire::Public publicOf(const Key& key)
{
    wire::Public out;
    out.attributes = wire::userWithAuth | wire::sign;
    if (EVP_PKEY_is_a(key.get(), "EC") == 1)
    {
        out.type = wire::algEcc;
        out.scheme = wire::algEcdsa;
        out.x = coordinate(key, OSSL_PKEY_PARAM_EC_PUB_X);
        out.y = coordinate(key, OSSL_PKEY_PARAM_EC_PUB_Y);
        return out;
    }
    out.type = wire::algRsa;
    out.scheme = wire::algRsaSsa;
    out.keyBits = static_cast<std::uint16_t>(EVP_PKEY_get_bits(key.get()));
    out.modulus = modulusOf(key, out.keyBits / 8U);
    return out;
}

void requireValues(const PcrValues& values, std::string_view where)
{
    PcrSelection::of(values).requireSealable(where);
    if (!values.contains(capPcr))
    {
        throw Refused(where, "PCR 11 is missing: capping it would not end what "
                             "this opens");
    }
}

} // namespace

Bytes writtenIndexName(std::uint32_t index, std::uint16_t size)
{
    constexpr std::uint32_t written = 1U << 29;
    ByteWriter area; // TPMS_NV_PUBLIC
    area.be32(index);
    area.be16(wire::algSha256);
    area.be32(indexAttributes | written);
    wire::writeSized(area, {}); // no policy
    area.be16(size);
    return wire::nameOf(area.data());
}

PolicyKey::PolicyKey(const Key& key)
    : publicArea_(publicOf(key).marshal()), name_(wire::nameOf(publicArea_)),
      pem_(publicKeyPem(key))
{}

PolicyKey PolicyKey::fromPem(std::string_view pem, std::string_view where)
{
    return PolicyKey(publicKeyFromPem(pem, where));
}

PolicyKey PolicyKey::of(const Key& key)
{
    return PolicyKey(key);
}

Key PolicyKey::key() const
{
    return publicKeyFromPem(pem_, "policy key");
}

void requirePolicyRef(std::string_view ref, std::string_view where)
{
    if (ref.empty() || ref.size() > 32 ||
        ref.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789.-") !=
            std::string_view::npos)
    {
        throw Refused(where, printable(ref) + " is no policy tag: 1 to 32 of "
                                              "a-z, 0-9, '.' and '-'");
    }
}

Digest authorizedPolicy(const PolicyKey& key, std::string_view ref)
{
    requirePolicyRef(ref, "policy tag");
    const Digest zero{};
    const Digest first =
        sha256Of({zero, command(commandPolicyAuthorize), key.name()});
    return sha256Of({first, asBytes(ref)});
}

Digest BootState::approvedPolicy() const
{
    return policyPcr(policyNv(Digest{}, generation), pcrs);
}

Digest signedDigest(const SignedPolicy& policy)
{
    return sha256Of({policy.state.approvedPolicy(), asBytes(policy.ref)});
}

SignedPolicy SignedPolicy::sign(const Key& key, BootState state,
                                std::string ref)
{
    requireValues(state.pcrs, "policy");
    requirePolicyRef(ref, "policy tag");
    SignedPolicy out{std::move(state), std::move(ref), {}};
    out.signature = signDigest(key, signedDigest(out));
    return out;
}

void SignedPolicy::verify(const PolicyKey& key) const
{
    if (!verifyDigest(key.key(), signedDigest(*this), signature))
    {
        throw Refused("policy " + printable(state.name),
                      "was not signed with this key");
    }
}

Json SignedPolicy::toJson() const
{
    return {{"name", state.name},
            {"ref", ref},
            {"generation", state.generation},
            {"pcrs", trust::toJson(state.pcrs)},
            {"signature", toHex(signature)}};
}

SignedPolicy SignedPolicy::parse(const JsonField& field)
{
    field.onlyKeys({"name", "ref", "generation", "pcrs", "signature"});
    SignedPolicy out;
    out.state.name = field.at("name").string(128);
    out.ref = field.at("ref").string(32);
    requirePolicyRef(out.ref, field.at("ref").path());
    out.state.generation = field.at("generation").u64();
    out.state.pcrs = pcrValuesFrom(field.at("pcrs"));
    requireValues(out.state.pcrs, field.at("pcrs").path());
    out.signature = field.at("signature").hex(maxSignature);
    return out;
}

std::vector<SignedPolicy> parsePolicies(std::string_view text,
                                        std::string_view where)
{
    const Json document = parseJson(text, where, {maxPolicyFile, 8});
    JsonField root(document, where);
    root.onlyKeys({"version", "policies"});
    if (root.at("version").u64() != 1)
    {
        root.at("version").refuse("is not 1, the one that is known here");
    }
    JsonField list = root.at("policies");
    std::vector<SignedPolicy> out;
    for (std::size_t i = 0; i < list.arraySize(maxPolicies); ++i)
    {
        out.push_back(SignedPolicy::parse(list.element(i)));
    }
    return out;
}

std::vector<SignedPolicy> readPolicies(const std::filesystem::path& path)
{
    return parsePolicies(readTextFile(path, maxPolicyFile),
                         path.filename().string());
}

void writePolicies(const std::filesystem::path& path,
                   const std::vector<SignedPolicy>& policies)
{
    Json list = Json::array();
    for (const SignedPolicy& policy : policies)
    {
        list.push_back(policy.toJson());
    }
    writeFileAtomic(path,
                    dumpJson({{"version", 1}, {"policies", list}}) + "\n");
}

} // namespace airlock::trust
