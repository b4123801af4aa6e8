#pragma once

#include "bootsrv/machine/kept.hpp"
#include "common/secret.hpp"

#include <array>
#include <cstdint>

namespace airlock::machine
{

/** Whether the switch has this root for certain, as far as the record knows:
 * the one before it, if there is one, may be forgotten. */
bool switchHas(const KeptRecord& record, const Secret& root,
               const Secret& previous);

/** The root that a boot host shows itself with, and in which epoch. With a new
 * root on its way to the switch that is the old one, and the new one when that
 * did not open, in turns: the switch may have been told without that we know.
 *
 * An epoch is noted before its address is used. It counts as used up when its
 * lease was seen open; until then it may or may not have been, so the next one
 * is tried, but none that is much further ahead than the switch looks: after
 * the last one of the window it begins again, and goes one further then.
 *
 * Not shared between threads. */
class Roots
{
  public:
    /** `previous`: may be empty. */
    Roots(const Secret& root, const Secret& previous, Kept& kept);

    /** What to show next. The root is there as long as this object. */
    struct Shown
    {
        const Secret& root;
        std::uint64_t epoch = 0;
    };
    Shown take(std::uint64_t window);
    /** What was taken last has opened the port. */
    void opened();
    /** It did not. */
    void failed();

    /** The port is open, and the switch has to be told of this root: it has the
     * one before. Null when it has it. */
    const Secret* untold() const;
    /** The switch has said that it has it. */
    void told();

  private:
    enum Which : std::size_t
    {
        now,
        before,
    };
    Epochs& epochsOf(Which which, KeptRecord& record) const;

    Secret root_;
    Secret previous_;
    Kept& kept_;
    bool pending_ = false;
    Which which_ = now;
    std::uint64_t epoch_ = 0;
    std::array<std::uint64_t, 2> rounds_ = {}; ///< through the window, in vain
};

} // namespace airlock::machine
