#include "tools/rigs/frame_watch.hpp"

#include "common/error.hpp"
#include "common/quarantine.hpp"

#include <poll.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>

namespace airlock::rig
{

namespace
{

/** Of one cable: a guest's whole memory may come through at once. */
constexpr int room = 128 << 20;
constexpr int lookEvery = 200; // ms

/** A part of a time: [begin, end). */
struct Span
{
    WallTime begin;
    WallTime end;

    bool contains(WallTime time) const { return time >= begin && time < end; }
};

std::uint64_t countIf(const auto& frames, const auto& counts)
{
    return static_cast<std::uint64_t>(std::ranges::count_if(frames, counts));
}

} // namespace

WallTime parseTime(const std::string& text)
{
    std::tm parts{};
    const char* rest = ::strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &parts);
    char* end = nullptr;
    const double fraction = rest == nullptr ? 0 : std::strtod(rest, &end);
    if (rest == nullptr || *rest != '.' || std::string_view(end) != "Z")
    {
        throw Refused("time", "'" + printable(text, 40) + "' is no time");
    }
    const auto part = std::chrono::duration<double>(fraction);
    return std::chrono::system_clock::from_time_t(::timegm(&parts)) +
           std::chrono::round<Milliseconds>(part);
}

std::vector<PortEvent> portEvents(const Json& events, const std::string& port)
{
    std::vector<PortEvent> out;
    for (const Json& event : events)
    {
        const std::string what = event.value("what", "");
        const bool open = what == "a port was opened";
        if (event.value("PORT", "") == port &&
            (open || what == "a port was cut off"))
        {
            // The agent's time is without the rest of its millisecond.
            const WallTime time =
                parseTime(event.at("time").get<std::string>()) +
                Milliseconds(1);
            out.push_back({time, open, event.value("REASON", "")});
        }
    }
    return out;
}

FrameWatch::FrameWatch(SwitchedHosts& net)
    : net_(net), openAtFirst_(net.port()["state"] == "open")
{
    net.theSwitch().run([this] {
        bootEnd_ = std::make_unique<CableEnd>(SwitchedHosts::bootPort,
                                              CableEnd::Sees::incoming, room);
    });
    net.production().run([this] {
        productionEnd_ =
            std::make_unique<CableEnd>("eth0", CableEnd::Sees::incoming, room);
    });
    thread_ = std::jthread([this](const std::stop_token& stop) { look(stop); });
}

void FrameWatch::look(const std::stop_token& stop)
{
    try
    {
        while (!stop.stop_requested())
        {
            pollfd ends[] = {{bootEnd_->fd(), POLLIN, 0},
                             {productionEnd_->fd(), POLLIN, 0}};
            ::poll(ends, 2, lookEvery);
            const std::lock_guard lock(mutex_);
            take();
        }
    }
    catch (const std::exception& error)
    {
        const std::lock_guard lock(mutex_);
        trouble_ = error.what();
    }
}

void FrameWatch::take()
{
    for (const Caught& caught : bootEnd_->take())
    {
        sent_.push_back({caught.time, caught.source(),
                         caught.type() == quarantine::defaultEtherType});
    }
    for (const Caught& caught : productionEnd_->take())
    {
        if (!net_.ownAddresses().contains(caught.source()))
        {
            passed_.push_back({caught.time, caught.source()});
        }
    }
}

std::vector<PortPeriod> FrameWatch::periods()
{
    const std::vector<PortEvent> events =
        portEvents(net_.call("events")["events"], SwitchedHosts::bootPort);
    const std::lock_guard lock(mutex_);
    if (!trouble_.empty())
    {
        throw Error("the frames were not all seen: " + trouble_);
    }
    take();
    std::vector<PortPeriod> out(1);
    out.front().open = openAtFirst_;
    out.front().begin = begin_;
    for (const PortEvent& event : events)
    {
        if (event.time < begin_ || event.open == out.back().open)
        {
            continue;
        }
        out.back().end = event.time;
        out.push_back({event.open, event.why, event.time, std::nullopt, 0, 0});
    }
    for (PortPeriod& period : out)
    {
        const Span span = {period.begin, period.end.value_or(WallTime::max())};
        const auto inside = [&](const Frame& frame) {
            return span.contains(frame.time);
        };
        std::optional<Frame> proof; // the last one opened the port
        for (const Frame& frame : sent_)
        {
            if (frame.proof && !period.open && period.end && inside(frame))
            {
                proof = frame;
            }
        }
        period.sent = countIf(sent_, inside);
        period.passed = countIf(passed_, [&](const Frame& frame) {
            const bool leased = proof && frame.time >= proof->time &&
                                frame.source == proof->source;
            return inside(frame) && !leased;
        });
    }
    return out;
}

} // namespace airlock::rig
