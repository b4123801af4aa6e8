#include "tools/switchd/netlink.hpp"

#include <fmt/format.h>
#include <linux/if_bridge.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>

#include <algorithm>
#include <functional>

namespace airlock::sw
{

namespace
{

constexpr unsigned lowerUp = 1U << 16; // IFF_LOWER_UP, see netdevice(7)

constexpr int receiveBuffer = 1 << 20;

struct FreeMessage
{
    void operator()(nl_msg* message) const { nlmsg_free(message); }
};
using Message = std::unique_ptr<nl_msg, FreeMessage>;

[[noreturn]] void fail(const std::string& doing, int code)
{
    throw Error(fmt::format("{}: {}", doing, nl_geterror(code)));
}

Message newMessage(int type, int flags)
{
    Message out(nlmsg_alloc_simple(type, flags));
    if (!out)
    {
        throw Error("no memory for a netlink message");
    }
    return out;
}

void check(int result, const char* doing)
{
    if (result < 0)
    {
        fail(doing, result);
    }
}

template <typename T>
void append(nl_msg* message, T header)
{
    check(nlmsg_append(message, &header, sizeof(header), NLMSG_ALIGNTO),
          "cannot build a netlink message");
}

void putFlag(nl_msg* message, int attribute, bool value)
{
    check(nla_put_u8(message, attribute, value ? 1 : 0),
          "cannot build a netlink message");
}

/** Sends it and waits for the kernel's answer; its error code, or 0. */
int exchange(nl_sock* socket, Message message)
{
    return nl_send_sync(socket, message.release());
}

void request(nl_sock* socket, Message message, const std::string& doing)
{
    if (int code = exchange(socket, std::move(message)); code < 0)
    {
        fail(doing, code);
    }
}

using OnMessage = std::function<void(nlmsghdr*)>;

/** Called from C: what is thrown has to wait. */
struct Collector
{
    const OnMessage& action;
    std::exception_ptr error;

    static int call(nl_msg* message, void* self)
    {
        auto& collector = *static_cast<Collector*>(self);
        try
        {
            collector.action(nlmsg_hdr(message));
        }
        catch (...)
        {
            collector.error = std::current_exception();
        }
        return NL_OK;
    }
};

void receive(nl_sock* socket, const OnMessage& action, const char* doing)
{
    Collector collector{action, nullptr};
    nl_socket_modify_cb(socket, NL_CB_VALID, NL_CB_CUSTOM, Collector::call,
                        &collector);
    int code = nl_recvmsgs_default(socket);
    nl_socket_modify_cb(socket, NL_CB_VALID, NL_CB_DEFAULT, nullptr, nullptr);
    if (collector.error)
    {
        std::rethrow_exception(collector.error);
    }
    check(code, doing);
}

void dump(nl_sock* socket, Message message, const OnMessage& action,
          const char* doing)
{
    check(nl_send_auto(socket, message.get()), doing);
    receive(socket, action, doing);
}

using Attributes = std::vector<nlattr*>;

/** Attributes by number, those that are missing as null. */
Attributes attributesOf(nlmsghdr* header, std::size_t length, int max)
{
    Attributes out(static_cast<std::size_t>(max) + 1);
    check(
        nlmsg_parse(header, static_cast<int>(length), out.data(), max, nullptr),
        "cannot read a netlink message");
    return out;
}

Attributes nested(nlattr* attribute, int max)
{
    Attributes out(static_cast<std::size_t>(max) + 1);
    check(nla_parse_nested(out.data(), max, attribute, nullptr),
          "cannot read a netlink message");
    return out;
}

MacAddress addressOf(nlattr* attribute)
{
    MacAddress out;
    if (attribute != nullptr &&
        nla_len(attribute) == static_cast<int>(out.bytes.size()))
    {
        nla_memcpy(out.bytes.data(), attribute,
                   static_cast<int>(out.bytes.size()));
    }
    return out;
}

std::optional<Link> linkOf(nlmsghdr* header)
{
    if (header->nlmsg_type != RTM_NEWLINK && header->nlmsg_type != RTM_DELLINK)
    {
        return std::nullopt;
    }
    const auto* info = static_cast<const ifinfomsg*>(nlmsg_data(header));
    Attributes attributes = attributesOf(header, sizeof(*info), IFLA_MAX);
    Link out;
    out.index = info->ifi_index;
    out.up = (info->ifi_flags & IFF_UP) != 0;
    out.carrier = out.up && (info->ifi_flags & lowerUp) != 0;
    if (attributes[IFLA_IFNAME] != nullptr)
    {
        out.name = nla_get_string(attributes[IFLA_IFNAME]);
    }
    if (attributes[IFLA_MASTER] != nullptr)
    {
        out.master = nla_get_s32(attributes[IFLA_MASTER]);
    }
    out.address = addressOf(attributes[IFLA_ADDRESS]);
    return out;
}

/** Where the flags of PortFlags are in a message. */
struct FlagAttribute
{
    bool PortFlags::*member;
    int attribute;
};
constexpr FlagAttribute flagAttributes[] = {
    {&PortFlags::locked, IFLA_BRPORT_LOCKED},
    {&PortFlags::learning, IFLA_BRPORT_LEARNING},
    {&PortFlags::flood, IFLA_BRPORT_UNICAST_FLOOD},
    {&PortFlags::multicastFlood, IFLA_BRPORT_MCAST_FLOOD},
    {&PortFlags::broadcastFlood, IFLA_BRPORT_BCAST_FLOOD},
    {&PortFlags::isolated, IFLA_BRPORT_ISOLATED},
    {&PortFlags::hairpin, IFLA_BRPORT_MODE},
    {&PortFlags::proxyArp, IFLA_BRPORT_PROXYARP},
    {&PortFlags::neighbourSuppress, IFLA_BRPORT_NEIGH_SUPPRESS},
    {&PortFlags::multicastToUnicast, IFLA_BRPORT_MCAST_TO_UCAST},
    {&PortFlags::guard, IFLA_BRPORT_GUARD},
};

Message fdbMessage(int type, int flags, const Link& port,
                   const MacAddress& address)
{
    Message message = newMessage(type, flags);
    ndmsg header{};
    header.ndm_family = AF_BRIDGE;
    header.ndm_ifindex = port.index;
    header.ndm_state = NUD_NOARP;
    header.ndm_flags = NTF_MASTER | NTF_STICKY;
    append(message.get(), header);
    check(nla_put(message.get(), NDA_LLADDR,
                  static_cast<int>(address.bytes.size()), address.bytes.data()),
          "cannot build a netlink message");
    return message;
}

nl_sock* openSocket()
{
    nl_sock* socket = nl_socket_alloc();
    if (socket == nullptr)
    {
        throw Error("no memory for a netlink socket");
    }
    return socket;
}

} // namespace

void Netlink::Free::operator()(nl_sock* socket) const
{
    nl_socket_free(socket);
}

Netlink::Netlink() : socket_(openSocket())
{
    check(nl_connect(socket_.get(), NETLINK_ROUTE),
          "cannot talk to the kernel about links");
    nl_socket_set_buffer_size(socket_.get(), receiveBuffer, 0);
}

Netlink::~Netlink() = default;

std::vector<Link> Netlink::links()
{
    Message message = newMessage(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP);
    append(message.get(), ifinfomsg{});
    std::vector<Link> out;
    dump(
        socket_.get(), std::move(message),
        [&](nlmsghdr* header) {
            if (auto link = linkOf(header))
            {
                out.push_back(*link);
            }
        },
        "cannot list the links");
    return out;
}

std::optional<Link> Netlink::link(std::string_view name)
{
    for (const Link& link : links())
    {
        if (link.name == name)
        {
            return link;
        }
    }
    return std::nullopt;
}

void Netlink::setUpBridge(const Link& bridge)
{
    Message message = newMessage(RTM_NEWLINK, NLM_F_REQUEST);
    ifinfomsg header{};
    header.ifi_index = bridge.index;
    append(message.get(), header);
    nl_msg* raw = message.get();
    nlattr* info = nla_nest_start(raw, IFLA_LINKINFO);
    check(nla_put_string(raw, IFLA_INFO_KIND, "bridge"), "bridge");
    nlattr* data = nla_nest_start(raw, IFLA_INFO_DATA);
    check(nla_put_u32(raw, IFLA_BR_STP_STATE, 0), "bridge");
    check(nla_put_u16(raw, IFLA_BR_GROUP_FWD_MASK, 0), "bridge");
    check(nla_put_u8(raw, IFLA_BR_MCAST_SNOOPING, 0), "bridge");
    br_boolopt_multi options{};
    options.optmask = 1U << BR_BOOLOPT_NO_LL_LEARN;
    options.optval = options.optmask;
    check(nla_put(raw, IFLA_BR_MULTI_BOOLOPT, sizeof(options), &options),
          "bridge");
    nla_nest_end(raw, data);
    nla_nest_end(raw, info);
    request(socket_.get(), std::move(message),
            "cannot set up the bridge " + bridge.name);
}

bool Netlink::isSetUp(const Link& bridge)
{
    Message message = newMessage(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP);
    append(message.get(), ifinfomsg{});
    bool out = false;
    dump(
        socket_.get(), std::move(message),
        [&](nlmsghdr* reply) {
            const auto* header =
                static_cast<const ifinfomsg*>(nlmsg_data(reply));
            nlattr* info =
                attributesOf(reply, sizeof(*header), IFLA_MAX)[IFLA_LINKINFO];
            if (header->ifi_index != bridge.index || info == nullptr)
            {
                return;
            }
            nlattr* data = nested(info, IFLA_INFO_MAX)[IFLA_INFO_DATA];
            if (data == nullptr)
            {
                return;
            }
            Attributes values = nested(data, IFLA_BR_MAX);
            br_boolopt_multi options{};
            nlattr* multi = values[IFLA_BR_MULTI_BOOLOPT];
            if (multi != nullptr)
            {
                nla_memcpy(&options, multi, sizeof(options));
            }
            auto zero = [&](int attribute) {
                nlattr* value = values[static_cast<std::size_t>(attribute)];
                const auto* bytes =
                    value == nullptr
                        ? nullptr
                        : static_cast<const std::uint8_t*>(nla_data(value));
                return bytes != nullptr &&
                       std::all_of(bytes, bytes + nla_len(value),
                                   [](std::uint8_t byte) { return byte == 0; });
            };
            out = zero(IFLA_BR_STP_STATE) && zero(IFLA_BR_GROUP_FWD_MASK) &&
                  zero(IFLA_BR_MCAST_SNOOPING) &&
                  (options.optval & 1U << BR_BOOLOPT_NO_LL_LEARN) != 0;
        },
        "cannot look at the bridge");
    return out;
}

void Netlink::setPortFlags(const Link& port, const PortFlags& flags)
{
    Message message = newMessage(RTM_SETLINK, NLM_F_REQUEST);
    ifinfomsg header{};
    header.ifi_family = AF_BRIDGE;
    header.ifi_index = port.index;
    append(message.get(), header);
    nl_msg* raw = message.get();
    nlattr* info = nla_nest_start(raw, IFLA_PROTINFO | NLA_F_NESTED);
    for (const FlagAttribute& flag : flagAttributes)
    {
        putFlag(raw, flag.attribute, flags.*flag.member);
    }
    putFlag(raw, IFLA_BRPORT_MULTICAST_ROUTER, false);
    nla_nest_end(raw, info);
    request(socket_.get(), std::move(message),
            "cannot lock the bridge port " + port.name);
}

std::optional<PortFlags> Netlink::portFlags(const Link& port)
{
    Message message = newMessage(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP);
    ifinfomsg header{};
    header.ifi_family = AF_BRIDGE;
    append(message.get(), header);
    std::optional<PortFlags> out;
    dump(
        socket_.get(), std::move(message),
        [&](nlmsghdr* reply) {
            const auto* info = static_cast<const ifinfomsg*>(nlmsg_data(reply));
            Attributes attributes =
                attributesOf(reply, sizeof(*info), IFLA_MAX);
            nlattr* port_info = attributes[IFLA_PROTINFO];
            if (info->ifi_index != port.index || port_info == nullptr)
            {
                return;
            }
            Attributes values = nested(port_info, IFLA_BRPORT_LOCKED);
            PortFlags flags;
            for (const FlagAttribute& flag : flagAttributes)
            {
                nlattr* value =
                    values.at(static_cast<std::size_t>(flag.attribute));
                flags.*flag.member = value != nullptr && nla_get_u8(value) != 0;
            }
            out = flags;
        },
        "cannot list the bridge ports");
    return out;
}

void Netlink::addFdb(const Link& port, const MacAddress& address)
{
    request(socket_.get(),
            fdbMessage(RTM_NEWNEIGH,
                       NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE, port,
                       address),
            "cannot admit an address at " + port.name);
}

void Netlink::removeFdb(const Link& port, const MacAddress& address)
{
    int code = exchange(socket_.get(),
                        fdbMessage(RTM_DELNEIGH, NLM_F_REQUEST, port, address));
    if (code < 0 && code != -NLE_OBJ_NOTFOUND)
    {
        fail("cannot remove an address from " + port.name, code);
    }
}

std::vector<FdbEntry> Netlink::fdb(const Link& bridge)
{
    Message message = newMessage(RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP);
    ifinfomsg filter{}; // what the kernel expects here for AF_BRIDGE
    filter.ifi_family = AF_BRIDGE;
    append(message.get(), filter);
    std::vector<FdbEntry> out;
    dump(
        socket_.get(), std::move(message),
        [&](nlmsghdr* reply) {
            const auto* entry = static_cast<const ndmsg*>(nlmsg_data(reply));
            Attributes attributes =
                attributesOf(reply, sizeof(*entry), NDA_MAX);
            nlattr* master = attributes[NDA_MASTER];
            bool ours =
                entry->ndm_ifindex == bridge.index ||
                (master != nullptr && nla_get_s32(master) == bridge.index);
            if (ours && attributes[NDA_LLADDR] != nullptr)
            {
                out.push_back({entry->ndm_ifindex,
                               addressOf(attributes[NDA_LLADDR]),
                               (entry->ndm_state & NUD_PERMANENT) != 0,
                               (entry->ndm_state & NUD_NOARP) != 0,
                               (entry->ndm_flags & NTF_STICKY) != 0});
            }
        },
        "cannot list the forwarding table");
    return out;
}

void Netlink::setUp(const Link& link, bool up)
{
    Message message = newMessage(RTM_NEWLINK, NLM_F_REQUEST);
    ifinfomsg header{};
    header.ifi_index = link.index;
    header.ifi_change = IFF_UP;
    header.ifi_flags = up ? IFF_UP : 0;
    append(message.get(), header);
    request(socket_.get(), std::move(message),
            fmt::format("cannot take the link {} {}", link.name,
                        up ? "up" : "down"));
}

void LinkMonitor::Free::operator()(nl_sock* socket) const
{
    nl_socket_free(socket);
}

LinkMonitor::LinkMonitor() : socket_(openSocket())
{
    nl_socket_disable_seq_check(socket_.get());
    check(nl_connect(socket_.get(), NETLINK_ROUTE),
          "cannot follow the kernel's links");
    nl_socket_set_buffer_size(socket_.get(), receiveBuffer, 0);
    check(nl_socket_add_memberships(socket_.get(), RTNLGRP_LINK, 0),
          "cannot follow the kernel's links");
    check(nl_socket_set_nonblocking(socket_.get()),
          "cannot follow the kernel's links");
}

LinkMonitor::~LinkMonitor() = default;

int LinkMonitor::fd() const
{
    return nl_socket_get_fd(socket_.get());
}

LinkMonitor::Changes LinkMonitor::take()
{
    Changes out;
    OnMessage note = [&](nlmsghdr* header) {
        out.any = true;
        auto link = linkOf(header);
        if (link && (header->nlmsg_type == RTM_DELLINK || !link->carrier))
        {
            out.lost.push_back(link->index);
        }
    };
    Collector collector{note, nullptr};
    nl_socket_modify_cb(socket_.get(), NL_CB_VALID, NL_CB_CUSTOM,
                        Collector::call, &collector);
    for (;;)
    {
        int code = nl_recvmsgs_default(socket_.get());
        if (code == -NLE_AGAIN)
        {
            return out;
        }
        if (code < 0 || collector.error)
        {
            out.any = true;
            out.lost.push_back(0); // the kernel had to drop some
            return out;
        }
    }
}

} // namespace airlock::sw
