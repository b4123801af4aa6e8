#pragma once

#include "trust/wire.hpp"

#include <filesystem>
#include <string>
#include <vector>

namespace airlock::trust
{

/** Where the TPM keeps the oldest generation of images that may still unseal:
 * eight bytes, readable by all, writable by the owner only. */
inline constexpr std::uint32_t generationIndex = 0x018a1001;

/** Attributes (TPMA_NV) of our indices: ownerwrite, ownerread, authread,
 * no_da. */
inline constexpr std::uint32_t indexAttributes =
    (1U << 1) | (1U << 17) | (1U << 18) | (1U << 25);

/** The name of such an index once it was written. It is the same in every TPM,
 * so a policy that was signed once fits all machines of a site. */
Bytes writtenIndexName(std::uint32_t index, std::uint16_t size);

/** The public half of a site's policy key, as a TPM knows it. */
class PolicyKey
{
  public:
    static PolicyKey fromPem(std::string_view pem, std::string_view where);
    /** Of either half. */
    static PolicyKey of(const Key& key);

    /** A TPMT_PUBLIC for TPM2_LoadExternal. */
    const Bytes& publicArea() const { return publicArea_; }
    const Bytes& name() const { return name_; }
    const std::string& pem() const { return pem_; }
    Key key() const;

  private:
    explicit PolicyKey(const Key& key);

    Bytes publicArea_;
    Bytes name_;
    std::string pem_;
};

/** A tag that separates the uses of one policy key: "clean" and "dirty" must
 * not share one, or a signed dirty image would unseal what is clean's. 1 to 32
 * of a-z, 0-9, '.' and '-'. Throws Refused. */
void requirePolicyRef(std::string_view ref, std::string_view where);

/** The authPolicy of what is sealed: whatever this key approves under this
 * tag. */
Digest authorizedPolicy(const PolicyKey& key, std::string_view ref);

/** The PCR that is capped: the stub measures the image there and nobody can
 * set it back. Every policy is sealed to it, or capping would not end it. */
inline constexpr unsigned capPcr = 11;

/** What a machine that runs an image has measured. */
struct BootState
{
    std::string name; ///< which image, for people
    std::uint64_t generation = 0;
    PcrValues pcrs;

    /** What is signed for it: the digest of PolicyNV (the TPM's oldest
     * generation is not above this one) and then PolicyPCR. */
    Digest approvedPolicy() const;
};

/** A boot state that the site's key approved for a use. */
struct SignedPolicy
{
    BootState state;
    std::string ref;
    Bytes signature; ///< DER (ECDSA) or PKCS#1

    /** Throws Refused for a PCR that can be reset, a missing PCR 11, a bad tag.
     */
    static SignedPolicy sign(const Key& key, BootState state, std::string ref);

    /** Refused when the key did not sign this. */
    void verify(const PolicyKey& key) const;

    Json toJson() const;
    static SignedPolicy parse(const JsonField& field);
};

/** What a policy signature is over: SHA-256 of approved policy and tag. */
Digest signedDigest(const SignedPolicy& policy);

/** A file of signed policies: {"version": 1, "policies": [...]}, at most 64.
 * It needs no protection: the TPM checks the signatures. */
std::vector<SignedPolicy> parsePolicies(std::string_view text,
                                        std::string_view where);
std::vector<SignedPolicy> readPolicies(const std::filesystem::path& path);
void writePolicies(const std::filesystem::path& path,
                   const std::vector<SignedPolicy>& policies);

} // namespace airlock::trust
