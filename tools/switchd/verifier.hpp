#pragma once

#include "common/mac_address.hpp"
#include "common/quarantine.hpp"

#include <cstdint>
#include <memory>
#include <string>

namespace airlock::sw
{

/** What a boot host has to have proved, by signing or quoting
 * quarantine::statement() of it. */
struct Claim
{
    std::string port;
    MacAddress address;
    quarantine::Nonce nonce{};

    Digest digest() const
    {
        return quarantine::statement(port, address, nonce);
    }
};

/** What a proof that holds says beside that. */
struct Evidence
{
    /** A number that changes when the boot host starts anew, such as the reset
     * counter in a TPM's quote: a lease does not outlive the start in which it
     * was opened. The same for all proofs of a method that knows none. */
    std::uint64_t bootCount = 0;
};

/** Judges the proofs of one boot host (method quote).
 *
 * How a proof is packed is the verifier's business, up to
 * quarantine::maxProof bytes. Proofs come from an attacker.
 */
class ProofVerifier
{
  public:
    virtual ~ProofVerifier() = default;

    /** Throws Refused when the proof does not show the claim. */
    virtual Evidence verify(const Claim& claim, ByteView proof) const = 0;
};

/** An Ed25519 signature of the claim's digest. What signs has to be tied to
 * clean mode by other means: the key sealed to it, for example. */
class SignatureVerifier : public ProofVerifier
{
  public:
    /** From a public key (PEM). Throws Refused for anything else. */
    explicit SignatureVerifier(const std::string& pem);
    ~SignatureVerifier() override;

    Evidence verify(const Claim& claim, ByteView proof) const override;

  private:
    struct Key;
    std::unique_ptr<Key> key_;
};

/** Makes the verifier for what an operator enrolled: a public key (PEM), or
 * what quote_verifier.hpp has. Throws Refused when it is of no use. */
std::unique_ptr<ProofVerifier> makeVerifier(const std::string& enrolled);

} // namespace airlock::sw
