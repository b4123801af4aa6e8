#pragma once

#include "bootsrv/machine/clean_mode.hpp"
#include "bootsrv/machine/machine_tpm.hpp"

#include <memory>

namespace airlock::machine
{

/** Where the TPM keeps the newest sequence number: eight bytes that only those
 * who know its authorization can read or write. The authorization derives from
 * the key that is sealed for clean mode, so dirty mode has none. */
inline constexpr TPM2_HANDLE anchorIndex = 0x018a1003;

/** The anchor in a TPM. */
class TpmAnchor : public SequenceAnchor
{
  public:
    TpmAnchor(std::shared_ptr<MachineTpm> tpm, const Secret& keptKey);

    /** For a TPM that nothing else is used for meanwhile. */
    TpmAnchor(std::shared_ptr<const trust::Tpm> tpm, const Secret& keptKey)
        : TpmAnchor(std::make_shared<MachineTpm>(std::move(tpm)), keptKey)
    {}

    /** Throws Error when the TPM has no such index: it was never enrolled, was
     * cleared, or is another one. */
    std::uint64_t floor() override;
    void raise(std::uint64_t sequence) override;

    /** Makes the index, with 0 in it, in place of one that may be there. At
     * enrolment; `owner`: the owner's authorization, empty while none is set.
     */
    static void define(const trust::Tpm& tpm, const Secret& owner,
                       const Secret& keptKey);

  private:
    std::shared_ptr<MachineTpm> tpm_;
    Secret authorization_;
};

} // namespace airlock::machine
