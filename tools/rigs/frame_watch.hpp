#pragma once

#include "tools/rigs/switched_hosts.hpp"

#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace airlock::rig
{

using WallTime = std::chrono::system_clock::time_point;

/** What the switch agent told of a boot port. */
struct PortEvent
{
    WallTime time; ///< at most a millisecond after it was told
    bool open = false;
    std::string why; ///< cut off: because
};

/** The openings and cut-offs of a port among the agent's last 256 events. */
std::vector<PortEvent> portEvents(const Json& events, const std::string& port);

/** Reads "2026-11-21T16:30:05.000Z"; Refused when it is no such text. */
WallTime parseTime(const std::string& text);

/** A time in which the boot host's port was open, or cut off. */
struct PortPeriod
{
    bool open = false;
    std::string why; ///< cut off: because
    WallTime begin;
    std::optional<WallTime> end; ///< missing: still so
    /** What the boot host sent at its port. */
    std::uint64_t sent = 0;
    /** What came out of the other port and was neither the switch's nor the
     * production host's own. Cut off: without what came after the proof that
     * opened the port again, from the proof's own address: it came with the
     * lease, of which the agent tells a little later. */
    std::uint64_t passed = 0;
};

/** Looks at both ports of a switch, from its making on. */
class FrameWatch
{
  public:
    explicit FrameWatch(SwitchedHosts& net);
    FrameWatch(const FrameWatch&) = delete;
    FrameWatch& operator=(const FrameWatch&) = delete;

    /** The first begins with the object. Error when frames were lost, or when
     * the agent cannot be asked. */
    std::vector<PortPeriod> periods();

  private:
    struct Frame
    {
        WallTime time;
        MacAddress source;
        bool proof = false; ///< a quarantine frame
    };

    void look(const std::stop_token& stop);
    void take();

    SwitchedHosts& net_;
    WallTime begin_ = std::chrono::system_clock::now();
    bool openAtFirst_;
    std::unique_ptr<CableEnd> bootEnd_;
    std::unique_ptr<CableEnd> productionEnd_;
    std::mutex mutex_;
    std::vector<Frame> sent_;
    std::vector<Frame> passed_;
    std::string trouble_;
    std::jthread thread_;
};

} // namespace airlock::rig
