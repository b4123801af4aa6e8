#include "bootsrv/machine/quote_prover.hpp"

#include "trust/keys.hpp"

namespace airlock::machine
{

std::function<Bytes(const Digest&)>
makeQuoteProver(std::shared_ptr<MachineTpm> tpm,
                const trust::PcrSelection& pcrs)
{
    return [tpm = std::move(tpm), pcrs](const Digest& statement) {
        return tpm->use([&](const trust::Tpm& it) {
            return trust::pack(trust::makeQuote(it, pcrs, statement));
        });
    };
}

} // namespace airlock::machine
