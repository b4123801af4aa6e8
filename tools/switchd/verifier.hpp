#pragma once

#include "common/mac_address.hpp"
#include "common/quarantine.hpp"
#include "trust/wire.hpp"

#include <cstdint>
#include <memory>
#include <optional>
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
    /** The TPM's counters, where there is one: to be kept for remember(). */
    std::optional<trust::wire::ClockInfo> clock;
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

    /** What an earlier verifier of this boot host has seen last: whose
     * counters are behind it is refused. */
    virtual void remember(const trust::wire::ClockInfo& /*last*/) {}
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

/** Whether two enrolments are of the same key, in whatever states. */
bool sameProver(const std::string& one, const std::string& other);

} // namespace airlock::sw
