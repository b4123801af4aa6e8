#include "tools/switchd/agent.hpp"

#include "common/fd.hpp"
#include "tools/switchd/fence.hpp"
#include "tools/switchd/netlink.hpp"
#include "tools/switchd/packet.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <utility>

namespace airlock::sw
{

namespace
{

constexpr std::size_t framesAtOnce = 64;
constexpr std::chrono::milliseconds longestWait{1000};

/** How grave something is that the agent tells. */
struct Gravity
{
    const char* word;      ///< for those who follow
    const char* messageId; ///< for rules on the journal
};

/** Listed in airlock-switchd(8). */
Gravity gravityOf(log::Level level)
{
    switch (level)
    {
    case log::Level::error:
        return {"error", "9cebc638f83f42849c40dd430f7f1ee4"};
    case log::Level::warning:
        return {"warning", "31cf13d28d7649e685e1997a109f99d7"};
    default:
        return {"news", "36c73b3d5cfb4cd7b6bd7eb6bdf2b2e1"};
    }
}

PortSettings portSettings(const AgentSettings& all, const PortOptions& options)
{
    PortSettings out;
    out.name = options.name;
    out.etherType = all.etherType;
    out.lease = all.lease;
    out.window = all.window;
    out.plain = options.plain;
    out.guesses = all.guesses;
    out.challenges = all.challenges;
    out.clock = std::chrono::steady_clock::now;
    return out;
}

std::vector<std::string> namesOf(const AgentSettings& settings)
{
    std::vector<std::string> out;
    for (const PortOptions& port : settings.ports)
    {
        out.push_back(port.name);
    }
    return out;
}

/** What the agent knows of one boot port. */
struct Port
{
    PortOptions options;
    std::unique_ptr<PortAgent> agent;
    std::optional<Link> link; ///< while it is part of the bridge
    std::unique_ptr<PortSocket> socket;
    std::optional<MacAddress> admitted; ///< in the forwarding table
    bool broadcast = false;             ///< flooded to it at the moment
    bool takenDown = false;             ///< by us: it could not be shut

    PortFlags flags() const
    {
        PortFlags out;
        out.broadcastFlood = broadcast;
        return out;
    }
};

} // namespace

class SwitchAgent::Impl : public Fabric
{
  public:
    Impl(const AgentSettings& settings, EventSink events)
        : settings_(settings), events_(std::move(events)),
          store_(settings.state / "ports"),
          fence_(namesOf(settings), settings.etherType)
    {
        wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        if (!wake_)
        {
            throwErrno("cannot create an eventfd");
        }
        // Shut before anything else is looked at.
        fence_.install();
        watch_.requireRoom((settings.window + 1) * settings.ports.size());
        for (const PortOptions& options : settings.ports)
        {
            Port& port = ports_[options.name];
            port.options = options;
            port.agent = std::make_unique<PortAgent>(
                portSettings(settings, options), store_, *this,
                [this](log::Level level, std::string_view message,
                       const std::vector<log::Field>& fields) {
                    tell(level, message, fields);
                });
        }
        reconcile({});
        if (!bridge_)
        {
            throw Error("there is no bridge " + settings.bridge);
        }
        guardsChanged();
    }

    ~Impl() override
    {
        std::lock_guard lock(mutex_);
        cutAll("the agent stops");
    }

    void run(const std::stop_token& stop, const std::function<void()>& alive)
    {
        std::stop_callback onStop(stop, [this] { wake(); });
        while (!stop.stop_requested())
        {
            std::vector<pollfd> entries;
            int timeout = 0;
            {
                std::lock_guard lock(mutex_);
                entries = waitFor();
                timeout = waitTime();
            }
            if (::poll(entries.data(), entries.size(), timeout) < 0 &&
                errno != EINTR)
            {
                throwErrno("cannot wait for frames");
            }
            std::lock_guard lock(mutex_);
            work();
            alive();
        }
    }

    Json status()
    {
        std::lock_guard lock(mutex_);
        Json ports = Json::array();
        for (auto& [name, port] : ports_)
        {
            ports.push_back(describe(port));
        }
        return {{"bridge", settings_.bridge},
                {"hooks", unfenced() ? "bridge" : "bridge, netdev"},
                {"lease-seconds", settings_.lease.count()},
                {"damage", damage_},
                {"ports", ports}};
    }

    Json status(const std::string& name)
    {
        std::lock_guard lock(mutex_);
        return describe(portAt(name));
    }

    void cut(const std::string& name, const std::string& why)
    {
        std::lock_guard lock(mutex_);
        portAt(name).agent->cut(why);
        wake();
    }

    Json cutByHost(const std::string& host)
    {
        std::lock_guard lock(mutex_);
        Port& port = portOf(host);
        port.agent->cutByHost(now());
        wake();
        return describe(port);
    }

    Json rotateByHost(const std::string& host, const Secret& root)
    {
        std::lock_guard lock(mutex_);
        Port& port = portOf(host);
        port.agent->rotate(root, now());
        wake();
        return describe(port);
    }

    Json statusOfHost(const std::string& host)
    {
        std::lock_guard lock(mutex_);
        return describe(portOf(host));
    }

    void enroll(const std::string& name, const Enrolment& enrolment)
    {
        std::lock_guard lock(mutex_);
        Port& port = portAt(name);
        for (auto& [other, at] : ports_)
        {
            const auto& theirs = at.agent->enrolment();
            if (other != name && theirs && theirs->host == enrolment.host)
            {
                throw Refused("host",
                              enrolment.host + " is enrolled at port " + other);
            }
        }
        port.agent->enroll(enrolment);
        wake();
    }

    void rotate(const std::string& name, const Secret& root)
    {
        std::lock_guard lock(mutex_);
        Port& port = portAt(name);
        const auto& old = port.agent->enrolment();
        if (!old || !old->root)
        {
            throw Refused("port", name + " has no root to be replaced");
        }
        Enrolment fresh = *old;
        fresh.root = std::make_shared<Secret>(root.view());
        fresh.epoch = 0;
        port.agent->enroll(fresh);
        wake();
    }

  private:
    static TimePoint now() { return std::chrono::steady_clock::now(); }

    void wake()
    {
        std::uint64_t one = 1;
        [[maybe_unused]] ssize_t n = ::write(wake_.get(), &one, sizeof(one));
    }

    Port& portAt(const std::string& name)
    {
        auto found = ports_.find(name);
        if (found == ports_.end())
        {
            throw NoSuchPort(printable(name) + " is no boot port");
        }
        return found->second;
    }

    Port& portOf(const std::string& host)
    {
        for (auto& [name, port] : ports_)
        {
            const auto& enrolment = port.agent->enrolment();
            if (enrolment && enrolment->host == host)
            {
                return port;
            }
        }
        throw NoSuchPort("no port is enrolled for " + printable(host));
    }

    Json describe(const Port& port) const
    {
        Json out = port.agent->status(now());
        out["link"] = !port.link           ? "absent"
                      : port.link->carrier ? "up"
                                           : "down";
        return out;
    }

    void tell(log::Level level, std::string_view message,
              const std::vector<log::Field>& fields)
    {
        std::vector<log::Field> logged = fields;
        const Gravity gravity = gravityOf(level);
        logged.emplace_back("MESSAGE_ID", gravity.messageId);
        log::write(level, message, logged);
        Json event = {{"what", std::string(message)}, {"level", gravity.word}};
        for (const auto& [name, value] : fields)
        {
            event[std::string(name)] = value;
        }
        events_(event);
    }

    /** Runs it; what fails is told, and the others go on. */
    template <typename Action>
    void guarded(const char* doing, Action&& action)
    {
        try
        {
            action();
        }
        catch (const Error& error)
        {
            tell(log::Level::error, doing, {{"REASON", error.what()}});
        }
    }

    // The loop.

    std::vector<pollfd> waitFor()
    {
        std::vector<pollfd> out = {{wake_.get(), POLLIN, 0},
                                   {monitor_.fd(), POLLIN, 0},
                                   {watch_.fd(), POLLIN, 0}};
        for (auto& [name, port] : ports_)
        {
            if (port.socket)
            {
                out.push_back({port.socket->fd(), POLLIN, 0});
            }
        }
        return out;
    }

    int waitTime()
    {
        TimePoint start = now();
        TimePoint end = std::min(start + longestWait, nextCheck_);
        for (auto& [name, port] : ports_)
        {
            if (auto due = port.agent->nextDue(start))
            {
                end = std::min(end, *due);
            }
        }
        auto left = std::chrono::ceil<std::chrono::milliseconds>(
            std::max(end - start, TimePoint::duration::zero()));
        return static_cast<int>(left.count());
    }

    void work()
    {
        std::uint64_t count = 0;
        [[maybe_unused]] ssize_t n = ::read(wake_.get(), &count, sizeof(count));
        guarded("the links cannot be looked at", [&] {
            LinkMonitor::Changes changes = monitor_.take();
            if (changes.any)
            {
                reconcile(changes.lost);
            }
        });
        guarded("frames cannot be looked at", [&] { takeFrames(); });
        for (auto& [name, port] : ports_)
        {
            port.agent->tick(now());
        }
        if (now() >= nextCheck_)
        {
            nextCheck_ = now() + settings_.checkEvery;
            guarded("the switch cannot be checked", [&] { checkAll(); });
        }
        for (auto& [name, port] : ports_)
        {
            if (port.socket)
            {
                port.socket->ignore(port.agent->wantsTraffic(now())
                                        ? std::nullopt
                                        : port.agent->address());
            }
        }
    }

    void takeFrames()
    {
        watch_.receive(framesAtOnce, [&](const Packet& packet) {
            auto member = members_.find(packet.link);
            if (member == members_.end() ||
                packet.bytes.size() < quarantine::headerBytes)
            {
                return; // another interface of this machine
            }
            MacAddress source =
                MacAddress::from(packet.bytes.subspan(6), "frame");
            for (auto& [name, port] : ports_)
            {
                if (port.agent->expects(source))
                {
                    port.agent->seenElsewhere(source, member->second);
                }
            }
        });
        bool gone = false;
        for (auto& [name, port] : ports_)
        {
            if (port.socket)
            {
                gone |= !port.socket->receive(
                    framesAtOnce, [&](const Packet& packet) {
                        port.agent->frame({packet.bytes, packet.tagged}, now());
                    });
            }
        }
        if (gone)
        {
            reconcile({});
        }
    }

    // What the kernel has, and what it should have.

    void reconcile(const std::vector<int>& lost)
    {
        std::map<std::string, Link> links;
        for (Link& link : netlink_.links())
        {
            links.emplace(link.name, link);
        }
        auto bridge = links.find(settings_.bridge);
        if (bridge == links.end())
        {
            bridge_.reset();
        }
        else if (!bridge_ || bridge_->index != bridge->second.index)
        {
            bridge_.reset(); // what fails is tried again
            netlink_.setUpBridge(bridge->second);
            bridge_ = bridge->second;
        }
        members_.clear();
        for (const auto& [name, link] : links)
        {
            if (bridge_ && link.master == bridge_->index)
            {
                members_[link.index] = name;
            }
        }
        for (auto& [name, port] : ports_)
        {
            auto found = links.find(name);
            bool member =
                found != links.end() && members_.contains(found->second.index);
            guarded("a port cannot be set up", [&] {
                member ? reconcilePort(port, found->second, lost)
                       : leavePort(port);
            });
        }
        watchOthers();
    }

    void leavePort(Port& port)
    {
        if (!port.link)
        {
            return;
        }
        attached_.erase(port.options.name);
        port.link.reset();
        port.socket.reset();
        port.admitted.reset();
        port.takenDown = false;
        port.agent->cut("it left the bridge");
    }

    void reconcilePort(Port& port, const Link& link,
                       const std::vector<int>& lost)
    {
        bool fresh = !port.link || port.link->index != link.index;
        port.link = link;
        if (fresh)
        {
            port.takenDown = false;
            port.socket.reset();
            attach(link.name);
        }
        if (!port.socket) // or it was not set up the last time
        {
            port.agent->cut("it joined the bridge");
            port.socket =
                std::make_unique<PortSocket>(link.index, settings_.etherType);
            return;
        }
        bool broken = !link.carrier ||
                      std::any_of(lost.begin(), lost.end(), [&](int index) {
                          return index == link.index || index == 0;
                      });
        if (broken && port.agent->isOpen())
        {
            port.agent->cut("the link went down");
        }
        if (netlink_.portFlags(link) != port.flags())
        {
            damaged(link.name + " had other settings");
            port.agent->cut("its settings were changed");
        }
    }

    void attach(const std::string& name)
    {
        try
        {
            fence_.attach(name);
            attached_.insert(name);
        }
        catch (const Error& error)
        {
            attached_.erase(name);
            tell(log::Level::warning,
                 "a boot port has no hooks of its own: what the switch itself "
                 "sends there is not fenced",
                 {{"PORT", name}, {"REASON", error.what()}});
        }
    }

    bool lacksHooks(const std::string& name, const Port& port) const
    {
        return port.link && !attached_.contains(name);
    }

    /** Whether a port lacks the hooks that the kernel may not have. */
    bool unfenced() const
    {
        return std::any_of(ports_.begin(), ports_.end(), [&](const auto& port) {
            return lacksHooks(port.first, port.second);
        });
    }

    /** It may have been for a moment only. Where the kernel has no hooks, the
     * first port shows it. */
    void attachAgain()
    try
    {
        for (auto& [name, port] : ports_)
        {
            if (lacksHooks(name, port))
            {
                fence_.attach(name);
                attached_.insert(name);
                tell(log::Level::notice, "a boot port has its hooks now",
                     {{"PORT", name}});
            }
        }
    }
    catch (const Error&)
    {
        // It was told when it failed first.
    }

    void damaged(const std::string& what)
    {
        damage_++;
        tell(log::Level::error, "somebody else changed the switch",
             {{"REASON", what}});
    }

    void checkAll()
    {
        reconcile({});
        if (fenceLost_ || !fence_.intact(attached_))
        {
            damaged("the nftables rules are not as they were made");
            guarded("the fence cannot be made anew", [&] { makeFenceAnew(); });
            cutAll("its fence was damaged");
        }
        attachAgain();
        if (bridge_ && !netlink_.isSetUp(*bridge_))
        {
            damaged("the bridge had other settings");
            netlink_.setUpBridge(*bridge_);
            cutAll("the bridge's settings were changed");
        }
        if (bridge_)
        {
            checkTable();
        }
    }

    void makeFenceAnew()
    {
        fence_.install();
        fenceLost_ = false;
        for (auto& [name, port] : ports_)
        {
            if (port.link)
            {
                attach(name);
            }
        }
    }

    /** The forwarding table holds of a boot port the lease's address, and
     * that one nowhere else. */
    void checkTable()
    {
        std::vector<FdbEntry> table = netlink_.fdb(*bridge_);
        for (auto& [name, port] : ports_)
        {
            if (!port.link)
            {
                continue;
            }
            bool there = !port.agent->isOpen();
            for (const FdbEntry& entry : table)
            {
                bool ours = entry.port == port.link->index;
                bool leased = port.admitted == entry.address;
                there |= ours && leased;
                if (ours != leased && !entry.own)
                {
                    damaged("the forwarding table was changed for " + name);
                    port.agent->cut("the forwarding table was changed");
                    return;
                }
            }
            if (!there)
            {
                damaged("the forwarding table was changed for " + name);
                port.agent->cut("the forwarding table was changed");
            }
        }
    }

    void cutAll(const std::string& why)
    {
        for (auto& [name, port] : ports_)
        {
            guarded("a port could not be shut", [&] { port.agent->cut(why); });
        }
    }

    void watchOthers()
    {
        std::vector<MacAddress> addresses;
        std::vector<int> except;
        if (bridge_)
        {
            except.push_back(bridge_->index); // frames that it delivers
        }
        for (auto& [name, port] : ports_)
        {
            PortAgent::Guarded guarded = port.agent->guarded();
            addresses.insert(addresses.end(), guarded.watched.begin(),
                             guarded.watched.end());
            if (port.link)
            {
                except.push_back(port.link->index);
            }
        }
        watch_.watch(addresses, except);
    }

    // Fabric: what leases do to the kernel.

    void open(const std::string& name, const MacAddress& address,
              std::chrono::seconds time) override
    {
        Port& port = portAt(name);
        if (!port.link || !port.link->carrier)
        {
            throw Error(name + " is no port of " + settings_.bridge +
                        " with a carrier");
        }
        if (port.admitted != address)
        {
            if (port.admitted) // of a lease whose last answer is on its way
            {
                netlink_.removeFdb(*port.link, *port.admitted);
            }
            netlink_.addFdb(*port.link, address);
            port.admitted = address;
        }
        fence_.open(name, address, time, port.options.broadcast);
        if (port.broadcast != port.options.broadcast)
        {
            port.broadcast = port.options.broadcast;
            netlink_.setPortFlags(*port.link, port.flags());
        }
    }

    void drain(const std::string& name, const MacAddress& address,
               std::chrono::seconds time) override
    {
        Port& port = portAt(name);
        fence_.drain(name, address, time);
        port.broadcast = false;
        if (port.link)
        {
            netlink_.setPortFlags(*port.link, port.flags());
        }
    }

    /** Both layers, whatever one of them says. */
    void close(const std::string& name) override
    {
        Port& port = portAt(name);
        std::string errors;
        auto attempt = [&](auto&& action) {
            try
            {
                action();
            }
            catch (const Error& error)
            {
                errors +=
                    (errors.empty() ? "" : "; ") + std::string(error.what());
            }
        };
        attempt([&] { shutFence(name); });
        attempt([&] { guardsChanged(); });
        port.broadcast = false;
        port.admitted.reset();
        if (port.link && bridge_)
        {
            attempt([&] { forget(*port.link); });
            attempt([&] { netlink_.setPortFlags(*port.link, port.flags()); });
        }
        if (!errors.empty())
        {
            attempt([&] { takeDown(port); });
            throw Error(errors);
        }
        takeUpAgain(port);
    }

    /** Where somebody else has removed the tables, new ones hold everything
     * shut, the other ports too. */
    void shutFence(const std::string& name)
    try
    {
        fence_.close(name);
    }
    catch (const Error&)
    {
        fence_.install();
        fenceLost_ = true;
        nextCheck_ = now();
    }

    /** The last resort. */
    void takeDown(Port& port)
    {
        // As it is now: who brings links up may just have done so.
        auto link = port.link ? netlink_.link(port.link->name) : std::nullopt;
        if (!link || !link->up)
        {
            return;
        }
        netlink_.setUp(*link, false);
        if (!std::exchange(port.takenDown, true))
        {
            tell(log::Level::error,
                 "a link was taken down: its port could not be shut",
                 {{"PORT", port.options.name}});
        }
    }

    /** Only what takeDown() took down. */
    void takeUpAgain(Port& port)
    {
        if (!port.takenDown || !port.link)
        {
            return;
        }
        netlink_.setUp(*port.link, true);
        port.takenDown = false;
        tell(log::Level::notice, "a link was taken up again: its port is shut",
             {{"PORT", port.options.name}});
    }

    /** Removes all addresses of a port, also those that others added. */
    void forget(const Link& link)
    {
        for (const FdbEntry& entry : netlink_.fdb(*bridge_))
        {
            if (entry.port == link.index && !entry.own)
            {
                netlink_.removeFdb(link, entry.address);
            }
        }
    }

    void send(const std::string& name, ByteView frame) override
    {
        Port& port = portAt(name);
        if (port.socket)
        {
            port.socket->send(frame);
        }
    }

    bool elsewhere(const std::string& name, const MacAddress& address) override
    {
        Port& port = portAt(name);
        if (!bridge_)
        {
            return true;
        }
        for (const FdbEntry& entry : netlink_.fdb(*bridge_))
        {
            bool here = port.link && entry.port == port.link->index;
            if (entry.address == address && (!here || entry.own))
            {
                return true;
            }
        }
        return std::any_of(ports_.begin(), ports_.end(), [&](auto& other) {
            return other.first != name && other.second.agent->expects(address);
        });
    }

    std::optional<std::string> foreign(const std::string& name,
                                       const MacAddress& address) override
    {
        for (auto& [other, port] : ports_)
        {
            if (other == name)
            {
                continue;
            }
            // Of method quote there is nothing secret, and so no tag.
            auto tag = port.agent->tagOf(address);
            bool expected = port.agent->expects(address);
            if (expected)
            {
                port.agent->seenElsewhere(address, name);
            }
            if (tag || expected)
            {
                return tag.value_or(address.text());
            }
        }
        return std::nullopt;
    }

    void guardsChanged() override
    {
        std::vector<MacAddress> expected;
        std::vector<MacAddress> hidden;
        for (auto& [name, port] : ports_)
        {
            PortAgent::Guarded guarded = port.agent->guarded();
            expected.insert(expected.end(), guarded.expected.begin(),
                            guarded.expected.end());
            hidden.insert(hidden.end(), guarded.hidden.begin(),
                          guarded.hidden.end());
        }
        fence_.guard(expected, hidden);
        watchOthers();
    }

    AgentSettings settings_;
    EventSink events_;
    std::mutex mutex_;
    EnrolmentStore store_;
    Netlink netlink_;
    LinkMonitor monitor_;
    Fence fence_;
    WatchSocket watch_;
    UniqueFd wake_;
    std::optional<Link> bridge_;
    std::map<int, std::string> members_; ///< interfaces of the bridge
    std::map<std::string, Port> ports_;
    std::set<std::string> attached_; ///< ports with hooks of their own
    bool fenceLost_ = false;         ///< made anew, but for the ports' hooks
    std::uint64_t damage_ = 0;
    TimePoint nextCheck_ = now();
};

void fenceOff(const AgentSettings& settings)
{
    Fence(namesOf(settings), settings.etherType).install();
}

SwitchAgent::SwitchAgent(const AgentSettings& settings, EventSink events)
    : impl_(std::make_unique<Impl>(settings, std::move(events)))
{}

SwitchAgent::~SwitchAgent() = default;

void SwitchAgent::run(const std::stop_token& stop,
                      const std::function<void()>& alive)
{
    impl_->run(stop, alive);
}

Json SwitchAgent::status()
{
    return impl_->status();
}

Json SwitchAgent::status(const std::string& port)
{
    return impl_->status(port);
}

void SwitchAgent::cut(const std::string& port, const std::string& why)
{
    impl_->cut(port, why);
}

Json SwitchAgent::cutByHost(const std::string& host)
{
    return impl_->cutByHost(host);
}

Json SwitchAgent::statusOfHost(const std::string& host)
{
    return impl_->statusOfHost(host);
}

Json SwitchAgent::rotateByHost(const std::string& host, const Secret& root)
{
    return impl_->rotateByHost(host, root);
}

void SwitchAgent::enroll(const std::string& port, const Enrolment& enrolment)
{
    impl_->enroll(port, enrolment);
}

void SwitchAgent::rotate(const std::string& port, const Secret& root)
{
    impl_->rotate(port, root);
}

} // namespace airlock::sw
