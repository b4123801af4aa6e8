#include "tools/airlock-rig/capture.hpp"

#include "common/control_client.hpp"
#include "common/deadline.hpp"
#include "common/error.hpp"
#include "common/file.hpp"
#include "common/table.hpp"
#include "tools/airlock-rig/pcapng.hpp"
#include "tools/rigs/frame_watch.hpp"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>

namespace airlock::rig
{

namespace
{

constexpr int room = 256 << 20;
constexpr Milliseconds lookEvery{200};
/** So long until all that came before it is known, from the agent too. */
constexpr Milliseconds settled{1000};

class Capture
{
  public:
    explicit Capture(const CaptureOptions& options)
        : options_(options),
          file_(options.output.empty()
                    ? UniqueFd(::dup(STDOUT_FILENO))
                    : openFile(options.output, O_WRONLY | O_CREAT | O_TRUNC))
    {
        write(pcapng::header());
        for (const std::string& port : options_.ports)
        {
            write(pcapng::interface(port));
            ends_.push_back(
                std::make_unique<CableEnd>(port, CableEnd::Sees::both, room));
            open_[port] = isOpen(port);
            seen_[port] = begin_;
        }
        write(pcapng::interface("airlock-switchd"));
        for (const std::string& port : options_.ports)
        {
            const bool boot = open_[port].has_value();
            say(begin_, port,
                !boot          ? "is no boot host's"
                : *open_[port] ? "is open"
                               : "is cut off");
        }
    }

    void run(const std::stop_token& stop)
    {
        const Deadline deadline(
            options_.time.value_or(std::chrono::hours(24 * 365)));
        while (!stop.stop_requested() && !deadline.passed())
        {
            std::vector<pollfd> entries;
            for (const auto& end : ends_)
            {
                entries.push_back({end->fd(), POLLIN, 0});
            }
            ::poll(entries.data(), entries.size(),
                   static_cast<int>(lookEvery.count()));
            take();
            writeUpTo(std::chrono::system_clock::now() - settled);
        }
        take();
        takeEvents();
        writeUpTo(WallTime::max());
        summarize();
        if (!trouble_.empty())
        {
            throw Error("not all events of the switch agent are in the "
                        "capture: " +
                        trouble_);
        }
    }

  private:
    /** A frame, or the mark of an event. */
    struct Entry
    {
        Bytes bytes;
        std::string port;
        bool outgoing = false;
        std::optional<bool> opened; ///< of an event: or cut off
    };

    struct Counts
    {
        std::uint64_t in = 0;
        std::uint64_t out = 0;
    };

    control::Client agent() const
    {
        return {options_.socket, {"the switch agent", "airlock-switchd"}};
    }

    /** Nothing for a port that is none of the agent's. */
    std::optional<bool> isOpen(const std::string& port) const
    {
        try
        {
            return agent().call("port", {{"port", port}})["port"]["state"] ==
                   "open";
        }
        catch (const control::CallError&)
        {
            return std::nullopt;
        }
    }

    void take()
    {
        for (std::size_t i = 0; i < ends_.size(); i++)
        {
            for (const Caught& caught : ends_[i]->take())
            {
                Entry entry;
                entry.bytes =
                    pcapng::frame(static_cast<std::uint32_t>(i), caught);
                entry.port = options_.ports[i];
                entry.outgoing = caught.outgoing;
                pending_.emplace(caught.time, std::move(entry));
            }
        }
        if (asked_.passed())
        {
            takeEvents();
            asked_ = Deadline(lookEvery);
        }
    }

    /** Frames are seen without the agent, too, while it starts anew. */
    void takeEvents()
    try
    {
        const Json events = agent().call("events")["events"];
        for (const std::string& port : options_.ports)
        {
            if (open_[port])
            {
                takeEvents(events, port);
            }
        }
    }
    catch (const Error& error)
    {
        if (trouble_.empty())
        {
            say(std::chrono::system_clock::now(), "", error.what());
        }
        trouble_ = error.what();
    }

    void takeEvents(const Json& events, const std::string& port)
    {
        for (const PortEvent& event : portEvents(events, port))
        {
            if (event.time <= seen_[port])
            {
                continue;
            }
            seen_[port] = event.time;
            const std::string text = event.open
                                         ? "has proved that it is clean: open"
                                         : "cut off: " + event.why;
            const auto number = static_cast<std::uint32_t>(ends_.size());
            Entry entry;
            entry.bytes = pcapng::mark(number, event.time, port + " " + text);
            entry.port = port;
            entry.opened = event.open;
            pending_.emplace(event.time, std::move(entry));
            say(event.time, port, text);
        }
    }

    /** Of the first boot port: what the others' frames are counted by. */
    std::string phase() const
    {
        for (const auto& [port, open] : open_)
        {
            if (open)
            {
                return *open ? "open" : "cut off";
            }
        }
        return "";
    }

    void writeUpTo(WallTime time)
    {
        const auto end = pending_.upper_bound(time);
        for (auto at = pending_.begin(); at != end; ++at)
        {
            write(at->second.bytes);
            count(at->second);
        }
        pending_.erase(pending_.begin(), end);
    }

    void count(const Entry& entry)
    {
        if (entry.opened)
        {
            open_[entry.port] = entry.opened;
            return;
        }
        Counts& counts = counts_[{entry.port, phase()}];
        (entry.outgoing ? counts.out : counts.in)++;
    }

    void write(ByteView bytes) const { writeAll(file_.get(), bytes); }

    static void say(WallTime time, const std::string& port,
                    const std::string& what)
    {
        fmt::print(stderr, "{:%H:%M:%S} {} {}\n",
                   std::chrono::floor<Milliseconds>(time), port,
                   plainText(what, 200));
    }

    void summarize() const
    {
        Table table({{"port"},
                     {"while"},
                     {"frames in", Table::Align::right},
                     {"frames out", Table::Align::right}});
        for (const auto& [where, counts] : counts_)
        {
            table.row({where.first, where.second, std::to_string(counts.in),
                       std::to_string(counts.out)});
        }
        fmt::print(stderr, "{}", table.render());
    }

    CaptureOptions options_;
    UniqueFd file_;
    WallTime begin_ = std::chrono::system_clock::now();
    std::vector<std::unique_ptr<CableEnd>> ends_;
    std::map<std::string, std::optional<bool>> open_; ///< of boot ports
    std::map<std::string, WallTime> seen_;
    Deadline asked_{Milliseconds(0)};
    std::string trouble_;
    std::multimap<WallTime, Entry> pending_;
    std::map<std::pair<std::string, std::string>, Counts> counts_;
};

} // namespace

void capture(const CaptureOptions& options, const std::stop_token& stop)
{
    Capture(options).run(stop);
}

} // namespace airlock::rig
