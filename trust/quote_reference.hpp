#pragma once

#include "trust/quote.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace airlock::trust
{

/** By what a verifier knows a machine and its good states, as a text of JSON.
 * Written by `airlock-tpm admit`, once the machine has shown that its
 * attestation key is in one TPM with its endorsement key.
 *
 *     {"version": 1, "attestation": HEX, "states": [
 *         {"name": TEXT, "pcrs": {NUMBER: HEX...}}...]}
 *
 * The values are those that are quoted: of a machine that caps PCR 11, with the
 * cap. */
struct QuoteReference
{
    static constexpr std::size_t maxStates = 16;

    struct State
    {
        std::string name;
        PcrValues pcrs;
    };

    AttestationKey key;
    std::vector<State> states;

    std::string toText() const;
    /** Refused for a key that is no attestation key, no state at all, PCRs
     * that anybody can set back. */
    static QuoteReference parse(std::string_view text);
};

} // namespace airlock::trust
