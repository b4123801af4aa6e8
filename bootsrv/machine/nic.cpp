#include "bootsrv/machine/nic.hpp"

#include "common/bytes.hpp"
#include "common/error.hpp"
#include "common/fd.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <cstring>

namespace airlock::machine
{

namespace
{

struct FreeMessage
{
    void operator()(nl_msg* message) const { nlmsg_free(message); }
};
using Message = std::unique_ptr<nl_msg, FreeMessage>;

void check(int code, const char* doing)
{
    if (code < 0)
    {
        throw Error(fmt::format("{}: {}", doing, nl_geterror(code)));
    }
}

template <typename T>
Message newMessage(int type, int flags, T header)
{
    Message out(nlmsg_alloc_simple(type, flags));
    if (!out)
    {
        throw Error("no memory for a netlink message");
    }
    check(nlmsg_append(out.get(), &header, sizeof(header), NLMSG_ALIGNTO),
          "cannot build a netlink message");
    return out;
}

void request(nl_sock* socket, Message message, const char* doing)
{
    check(nl_send_sync(socket, message.release()), doing);
}

/** An IP address as the kernel takes it. */
struct Ip
{
    unsigned char family = AF_INET;
    std::array<std::uint8_t, 16> bytes{};

    int size() const { return family == AF_INET ? 4 : 16; }

    static Ip parse(const std::string& text)
    {
        Ip out;
        if (::inet_pton(AF_INET, text.c_str(), out.bytes.data()) == 1)
        {
            return out;
        }
        out.family = AF_INET6;
        if (::inet_pton(AF_INET6, text.c_str(), out.bytes.data()) != 1)
        {
            throw Refused("network", "has no IP address");
        }
        return out;
    }
};

void put(nl_msg* message, int attribute, const Ip& ip)
{
    check(nla_put(message, attribute, ip.size(), ip.bytes.data()),
          "cannot build a netlink message");
}

int indexOf(const std::string& name)
{
    unsigned index = ::if_nametoindex(name.c_str());
    if (index == 0)
    {
        throwErrno("there is no interface " + name);
    }
    return static_cast<int>(index);
}

/** An ARP request for the address itself, to all. */
Bytes gratuitousArp(const Ip& ip, const MacAddress& mac)
{
    constexpr std::uint16_t ethernet = 1;
    constexpr std::uint16_t request = 1;
    ByteView address = ByteView(ip.bytes).first(4);
    ByteWriter out;
    out.bytes(Bytes(6, 0xFF));
    out.bytes(mac.view());
    out.be16(ETH_P_ARP);
    out.be16(ethernet);
    out.be16(ETH_P_IP);
    out.u8(6);
    out.u8(4);
    out.be16(request);
    out.bytes(mac.view());
    out.bytes(address);
    out.bytes(Bytes(6));
    out.bytes(address);
    Bytes frame = out.release();
    frame.resize(60);
    return frame;
}

void announceIpv4(int link, const Ip& ip, const MacAddress& mac)
{
    UniqueFd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0));
    sockaddr_ll to{};
    to.sll_family = AF_PACKET;
    to.sll_ifindex = link;
    Bytes frame = gratuitousArp(ip, mac);
    if (!fd || ::sendto(fd.get(), frame.data(), frame.size(), 0,
                        reinterpret_cast<const sockaddr*>(&to), sizeof(to)) < 0)
    {
        throwErrno("cannot announce the IP address");
    }
}

void announceIpv6(int link, const Ip& ip, const MacAddress& mac)
{
    constexpr std::uint8_t advertisement = 136;
    constexpr std::uint32_t overrides = 1U << 29;
    constexpr std::uint8_t targetAddress = 2;
    ByteWriter out; // the kernel puts the checksum in
    out.u8(advertisement);
    out.u8(0);
    out.be16(0);
    out.be32(overrides);
    out.bytes(ip.bytes);
    out.u8(targetAddress);
    out.u8(1);
    out.bytes(mac.view());
    UniqueFd fd(::socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMPV6));
    int hops = 255;
    sockaddr_in6 to{};
    to.sin6_family = AF_INET6;
    to.sin6_scope_id = static_cast<std::uint32_t>(link);
    ::inet_pton(AF_INET6, "ff02::1", &to.sin6_addr);
    if (!fd ||
        ::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_MULTICAST_HOPS, &hops,
                     sizeof(hops)) != 0 ||
        ::sendto(fd.get(), out.data().data(), out.size(), 0,
                 reinterpret_cast<const sockaddr*>(&to), sizeof(to)) < 0)
    {
        throwErrno("cannot announce the IP address");
    }
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

void Nic::Free::operator()(nl_sock* socket) const
{
    nl_socket_free(socket);
}

Nic::Nic(const std::string& name)
    : name_(name), index_(indexOf(name)), socket_(openSocket())
{
    check(nl_connect(socket_.get(), NETLINK_ROUTE),
          "cannot talk to the kernel about the interface");
}

Nic::~Nic() = default;

void Nic::set(bool up, const MacAddress* address)
{
    ifinfomsg header{};
    header.ifi_index = index_;
    header.ifi_flags = up ? unsigned{IFF_UP} : 0U;
    header.ifi_change = IFF_UP;
    Message message = newMessage(RTM_NEWLINK, NLM_F_REQUEST, header);
    if (address != nullptr)
    {
        check(nla_put(message.get(), IFLA_ADDRESS,
                      static_cast<int>(address->bytes.size()),
                      address->bytes.data()),
              "cannot build a netlink message");
    }
    request(socket_.get(), std::move(message), "cannot change the interface");
}

/** Its own announcements would come from the address before the switch has let
 * it through. */
void Nic::quietIpv6() const
{
    std::string file = "/proc/sys/net/ipv6/conf/" + name_ + "/addr_gen_mode";
    UniqueFd fd(::open(file.c_str(), O_WRONLY | O_CLOEXEC));
    if (fd)
    {
        static_cast<void>(!::write(fd.get(), "1", 1));
    }
}

void Nic::come(const MacAddress& address)
{
    set(false, nullptr);
    quietIpv6();
    // An address is changed while it is down: not every driver can otherwise.
    set(false, &address);
    set(true, nullptr);
}

void Nic::leave()
{
    set(false, nullptr);
    set(false, &genericAddress);
}

bool Nic::carrier() const
{
    UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq ask{};
    name_.copy(ask.ifr_name, IFNAMSIZ - 1);
    return fd && ::ioctl(fd.get(), SIOCGIFFLAGS, &ask) == 0 &&
           (ask.ifr_flags & IFF_RUNNING) != 0;
}

void Nic::addIp(const std::string& address)
{
    std::size_t slash = address.find('/');
    Ip ip = Ip::parse(address.substr(0, slash));
    unsigned prefix = 0;
    std::from_chars(address.data() + slash + 1, address.data() + address.size(),
                    prefix);
    ifaddrmsg header{};
    header.ifa_family = ip.family;
    header.ifa_prefixlen = static_cast<unsigned char>(prefix);
    header.ifa_index = static_cast<unsigned>(index_);
    // The address is ours by configuration: nobody is asked for it.
    header.ifa_flags = IFA_F_NODAD;
    Message message = newMessage(
        RTM_NEWADDR, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE, header);
    put(message.get(), IFA_LOCAL, ip);
    put(message.get(), IFA_ADDRESS, ip);
    request(socket_.get(), std::move(message), "cannot set the IP address");
}

void Nic::addRoute(const std::string& gateway)
{
    Ip ip = Ip::parse(gateway);
    rtmsg header{};
    header.rtm_family = ip.family;
    header.rtm_table = RT_TABLE_MAIN;
    header.rtm_protocol = RTPROT_STATIC;
    header.rtm_scope = RT_SCOPE_UNIVERSE;
    header.rtm_type = RTN_UNICAST;
    Message message = newMessage(
        RTM_NEWROUTE, NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE, header);
    put(message.get(), RTA_GATEWAY, ip);
    check(
        nla_put_u32(message.get(), RTA_OIF, static_cast<std::uint32_t>(index_)),
        "cannot build a netlink message");
    request(socket_.get(), std::move(message), "cannot set the default route");
}

void Nic::announce(const std::string& address, const MacAddress& mac)
{
    Ip ip = Ip::parse(address.substr(0, address.find('/')));
    ip.family == AF_INET ? announceIpv4(index_, ip, mac)
                         : announceIpv6(index_, ip, mac);
}

} // namespace airlock::machine
