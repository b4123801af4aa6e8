#include "tools/switchd/quote_verifier.hpp"

#include <fmt/format.h>

namespace airlock::sw
{

Evidence QuoteVerifier::verify(const Claim& claim, ByteView proof) const
{
    const trust::Quote quote = trust::unpackQuote(proof, "proof");
    trust::QuoteExpectation expected;
    expected.extraData = claim.digest();
    expected.previous = last_;
    // The power of a boot host goes without notice; the counters are right.
    expected.safeClock = false;
    std::string why;
    for (const trust::QuoteReference::State& state : reference_.states)
    {
        try
        {
            expected.pcrs = state.pcrs;
            last_ = trust::verifyQuote(reference_.key, quote, expected).clock;
            return {(std::uint64_t{last_->resetCount} << 32) |
                        last_->restartCount,
                    last_};
        }
        catch (const Refused& refused)
        {
            why += fmt::format("{}{}: {}", why.empty() ? "" : "; ", state.name,
                               refused.what());
        }
    }
    throw Refused("proof", why);
}

} // namespace airlock::sw
