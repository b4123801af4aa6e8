#pragma once

#include "common/json.hpp"
#include "tools/switchd/verifier.hpp"
#include "trust/quote.hpp"

#include <optional>
#include <string>
#include <vector>

namespace airlock::sw
{

/** What is enrolled for a boot host that proves itself with its TPM: a JSON
 * text, in the place of a public key. Written by `airlock-tpm admit`, once the
 * machine has shown that its attestation key is in the TPM with its endorsement
 * key.
 *
 *     {"version": 1, "attestation": HEX, "states": [
 *         {"name": TEXT, "pcrs": {NUMBER: HEX...}}...]}
 *
 * `states` are those of clean mode, as they are quoted: with PCR 11 capped. */
struct QuoteEnrolment
{
    static constexpr std::size_t maxStates = 16;

    struct State
    {
        std::string name;
        trust::PcrValues pcrs;
    };

    trust::AttestationKey key;
    std::vector<State> states;

    std::string toText() const;
    /** Refused for a key that is no attestation key, no state at all, PCRs
     * that anybody can set back. */
    static QuoteEnrolment parse(std::string_view text);
};

/** Takes a TPM's quote of the claim in one of the enrolled states for a proof,
 * as trust::pack() packs it. The number of resets and restarts is the evidence:
 * a lease ends with the boot that it was opened in. A reset counter that has
 * fallen since the last good proof is that of another copy of a TPM. */
class QuoteVerifier : public ProofVerifier
{
  public:
    explicit QuoteVerifier(QuoteEnrolment enrolment)
        : enrolment_(std::move(enrolment))
    {}

    Evidence verify(const Claim& claim, ByteView proof) const override;

  private:
    QuoteEnrolment enrolment_;
    /** A verifier belongs to one port and one thread. */
    mutable std::optional<trust::wire::ClockInfo> last_;
};

} // namespace airlock::sw
