#pragma once

#include "bootsrv/machine/machine_tpm.hpp"
#include "common/sha256.hpp"
#include "trust/pcr.hpp"

#include <functional>
#include <memory>

namespace airlock::machine
{

/** For CleanSetup::prove: has the attestation key quote these PCRs over a
 * statement. To be used after the cap: then a quote also says that nothing can
 * be unsealed any more. */
std::function<Bytes(const Digest&)>
makeQuoteProver(std::shared_ptr<MachineTpm> tpm,
                const trust::PcrSelection& pcrs);

} // namespace airlock::machine
