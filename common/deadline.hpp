#pragma once

#include <algorithm>
#include <chrono>

namespace airlock
{

using Milliseconds = std::chrono::milliseconds;

/** A point in time that a chain of waits shares: a peer that keeps sending
 * cannot push it back. Monotonic. */
class Deadline
{
  public:
    explicit Deadline(Milliseconds fromNow)
        : end_(std::chrono::steady_clock::now() + fromNow)
    {}

    /** What is left; never negative. */
    Milliseconds left() const
    {
        auto rest = end_ - std::chrono::steady_clock::now();
        return std::max(std::chrono::ceil<Milliseconds>(rest),
                        Milliseconds::zero());
    }

    bool passed() const { return left() == Milliseconds::zero(); }

    /** What is left, in the form that poll(2) takes. */
    int pollTimeout() const
    {
        constexpr Milliseconds hour = std::chrono::hours(1);
        return static_cast<int>(std::min(left(), hour).count());
    }

  private:
    std::chrono::steady_clock::time_point end_;
};

} // namespace airlock
