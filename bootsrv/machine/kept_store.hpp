#pragma once

#include "bootsrv/machine/blocks.hpp"
#include "bootsrv/machine/clean_mode.hpp"
#include "common/secret.hpp"

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace airlock::machine
{

/** A text on a raw partition that only clean mode can read and write, and that
 * a loss of power leaves as it was or as it is to be, never half.
 *
 * Two slots, each half of the partition, are written in turn:
 *
 *     "ALKEPT01"  sequence 8  bytes 4  nonce 12  tag 16  text, AES-256-GCM
 *
 * The key of a sequence number derives from the one that is sealed. The slot
 * with the highest number that decrypts is in force. Dirty mode can destroy
 * both, or put back what it has found there earlier; the anchor's number is
 * there against the latter: anything older is refused.
 */
class KeptStore
{
  public:
    static constexpr std::size_t maxText = 64U << 10;
    static constexpr std::uint64_t leastBytes = 256U << 10;

    /** `blocks` has to outlive it. */
    KeptStore(Blocks& blocks, const Secret& key,
              std::shared_ptr<SequenceAnchor> anchor);

    /** Throws Refused when there is nothing that this key opens, or only what
     * is older than the anchor says. */
    Secret load();

    enum class Write
    {
        once,
        /** The number is noted at the anchor too: nothing older counts. */
        anchored,
        /** And no slot has the old text any more. */
        erasing,
    };
    /** On return it survives a loss of power. After an exception either text
     * may be there. */
    void save(std::string_view text, Write how = Write::once);

    /** The first text, whatever there was before. */
    void install(std::string_view text);

    std::uint64_t sequence() const { return sequence_; }

  private:
    struct Slot
    {
        std::uint64_t sequence = 0;
        Secret text;
        bool good = false;
    };
    Slot read(std::size_t number);
    void write(std::size_t number, std::uint64_t sequence,
               std::string_view text);
    std::uint64_t offsetOf(std::size_t number) const;
    Secret keyOf(std::uint64_t sequence) const;

    Blocks& blocks_;
    Secret key_;
    std::shared_ptr<SequenceAnchor> anchor_;
    std::uint64_t sequence_ = 0;
    std::size_t current_ = 1; ///< the slot in force
};

} // namespace airlock::machine
