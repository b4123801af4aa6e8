#pragma once

#include "trust/pcr.hpp"

#include <cstdint>
#include <vector>

namespace airlock::trust
{

/** One entry of a measured boot's log.
 *
 * Only `digest` went into a PCR. `type` and `data` are what the writer of the
 * log says about it, and the writer may be a guest that owns the machine: they
 * explain, they never decide. `dataMatches` says whether the data is what was
 * measured.
 */
struct Event
{
    unsigned pcr = 0;
    std::uint32_t type = 0;
    Digest digest{};
    Bytes data;
    bool measured = true; ///< false: EV_NO_ACTION, in no PCR
    bool dataMatches = false;
};

/** The log that firmware and boot loader leave, in the TCG's crypto agile form
 * (/sys/kernel/security/tpm0/binary_bios_measurements). */
class EventLog
{
  public:
    static constexpr std::size_t maxSize = 4U << 20;
    static constexpr std::size_t maxEvents = 16384;

    /** Refused naming event and reason: no SHA-256 bank, the old SHA-1 form,
     * too long, cut off. */
    static EventLog parse(ByteView data);

    const std::vector<Event>& events() const { return events_; }
    std::vector<Event>& events() { return events_; }

    /** The PCR values after all of it; PCRs without an event are left out. */
    PcrValues replay() const;

  private:
    std::vector<Event> events_;
    /** PCR 0 starts with the locality that the TPM was started from. */
    std::uint8_t startupLocality_ = 0;
};

} // namespace airlock::trust
