#pragma once

#include "common/mac_address.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

struct nl_sock;

namespace airlock::sw
{

/** One interface of this network namespace. */
struct Link
{
    int index = 0;
    std::string name;
    int master = 0; ///< index of its bridge; 0: none
    bool up = false;
    bool carrier = false;
    MacAddress address;
};

/** Flags of a bridge port, see bridge(8). */
struct PortFlags
{
    bool locked = true;
    bool learning = false;
    bool flood = false;
    bool multicastFlood = false;
    bool broadcastFlood = false;
    bool isolated = true;
    bool hairpin = false;
    bool proxyArp = false;
    bool neighbourSuppress = false;
    bool multicastToUnicast = false;
    bool guard = true; ///< BPDU guard

    bool operator==(const PortFlags&) const = default;
};

/** An entry of a bridge's forwarding table. */
struct FdbEntry
{
    int port = 0;
    MacAddress address;
    bool own = false; ///< the bridge's or the port's own address
    bool isStatic = false;
    bool sticky = false;
};

/** What the kernel is asked over rtnetlink. Every change waits for the kernel's
 * acknowledgement. Not shared between threads. Throws Error saying what was
 * asked; addresses are not in the texts, for they may be secret. */
class Netlink
{
  public:
    Netlink();
    ~Netlink();
    Netlink(const Netlink&) = delete;
    Netlink& operator=(const Netlink&) = delete;

    std::vector<Link> links();
    std::optional<Link> link(std::string_view name);

    /** STP off, no learning from link-local frames, no multicast snooping, no
     * forwarding of link-local frames. */
    void setUpBridge(const Link& bridge);
    /** Whether the bridge is as setUpBridge() leaves it. */
    bool isSetUp(const Link& bridge);

    void setPortFlags(const Link& port, const PortFlags& flags);
    /** Nothing when the interface is no bridge port. */
    std::optional<PortFlags> portFlags(const Link& port);

    /** Adds or moves an entry: static and sticky. */
    void addFdb(const Link& port, const MacAddress& address);
    /** No error when there is none. */
    void removeFdb(const Link& port, const MacAddress& address);
    /** Entries of a bridge. */
    std::vector<FdbEntry> fdb(const Link& bridge);

    /** Takes a link up or down. */
    void setUp(const Link& link, bool up);

  private:
    struct Free
    {
        void operator()(nl_sock* socket) const;
    };
    std::unique_ptr<nl_sock, Free> socket_;
};

/** Says when links of this namespace change. */
class LinkMonitor
{
  public:
    LinkMonitor();
    ~LinkMonitor();
    LinkMonitor(const LinkMonitor&) = delete;
    LinkMonitor& operator=(const LinkMonitor&) = delete;

    int fd() const;
    /** What has happened since the last call. */
    struct Changes
    {
        bool any = false;
        /** Indexes of links that had no carrier, or went away, at some time:
         * a link that has come back in the meantime is among them. 0 stands
         * for all of them, when messages were lost. */
        std::vector<int> lost;
    };
    Changes take();

  private:
    struct Free
    {
        void operator()(nl_sock* socket) const;
    };
    std::unique_ptr<nl_sock, Free> socket_;
};

} // namespace airlock::sw
