#pragma once

#include "tools/switchd/verifier.hpp"
#include "trust/quote_reference.hpp"

#include <optional>

namespace airlock::sw
{

/** Takes a TPM's quote of the claim in one of the enrolled states for a proof,
 * as trust::pack() packs it. The number of resets and restarts is the evidence:
 * a lease ends with the boot that it was opened in. A reset counter that has
 * fallen since the last good proof is that of another copy of a TPM. */
class QuoteVerifier : public ProofVerifier
{
  public:
    explicit QuoteVerifier(trust::QuoteReference reference)
        : reference_(std::move(reference))
    {}

    Evidence verify(const Claim& claim, ByteView proof) const override;
    void remember(const trust::wire::ClockInfo& last) override { last_ = last; }

  private:
    trust::QuoteReference reference_;
    /** A verifier belongs to one port and one thread. */
    mutable std::optional<trust::wire::ClockInfo> last_;
};

} // namespace airlock::sw
