#include "tools/switchd/packet.hpp"

#include "common/error.hpp"
#include "common/quarantine.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/socket.h>

#include <array>
#include <cstring>

namespace airlock::sw
{

namespace
{

constexpr int receiveBuffer = 4 << 20;
constexpr std::uint32_t whole = 0xFFFF;
constexpr std::uint32_t beginning = quarantine::headerBytes;

std::uint32_t word(const MacAddress& address, std::size_t at)
{
    ByteReader in(address.view().subspan(at), "address");
    return in.be32();
}

std::uint32_t half(const MacAddress& address, std::size_t at)
{
    ByteReader in(address.view().subspan(at), "address");
    return in.be16();
}

/** Classic BPF, as in socket(7), SO_ATTACH_FILTER. */
sock_filter load(std::uint16_t size, std::uint32_t offset)
{
    return BPF_STMT(static_cast<std::uint16_t>(BPF_LD | BPF_ABS | size),
                    offset);
}

/** An ancillary value, such as the interface. */
sock_filter loadExtra(std::int32_t what)
{
    return load(BPF_W, static_cast<std::uint32_t>(SKF_AD_OFF + what));
}

sock_filter unlessEqual(std::uint32_t value, std::uint8_t skip)
{
    return BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skip);
}

sock_filter jump(std::uint32_t skip)
{
    return BPF_STMT(BPF_JMP | BPF_JA, skip);
}

sock_filter give(std::uint32_t bytes)
{
    return BPF_STMT(BPF_RET | BPF_K, bytes);
}

constexpr std::uint32_t sourceAt = 6;
constexpr std::uint32_t typeAt = 12;

void check(int result, const char* doing)
{
    if (result != 0)
    {
        throwErrno(doing);
    }
}

void setOption(int fd, int level, int option, int value, const char* doing)
{
    check(::setsockopt(fd, level, option, &value, sizeof(value)), doing);
}

/** Whether the kernel took a VLAN tag out of the frame. */
bool tagTaken(msghdr& message)
{
    for (cmsghdr* at = CMSG_FIRSTHDR(&message); at != nullptr;
         at = CMSG_NXTHDR(&message, at))
    {
        if (at->cmsg_level == SOL_PACKET && at->cmsg_type == PACKET_AUXDATA)
        {
            tpacket_auxdata extra{};
            std::memcpy(&extra, CMSG_DATA(at), sizeof(extra));
            return (extra.tp_status & TP_STATUS_VLAN_VALID) != 0;
        }
    }
    return false;
}

/** Whether it is still in there: a second tag, or a driver that leaves it. */
bool tagInside(ByteView bytes)
{
    ByteReader in(bytes.subspan(typeAt), "frame");
    std::uint16_t type = in.be16();
    return type == ETH_P_8021Q || type == ETH_P_8021AD || type == ETH_P_QINQ1;
}

} // namespace

PacketSocket::PacketSocket()
    // Protocol 0: nothing comes in before bindTo().
    : fd_(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0))
{
    const char* doing = "cannot look at frames";
    if (!fd_)
    {
        throwErrno(doing);
    }
    setOption(fd_.get(), SOL_PACKET, PACKET_AUXDATA, 1, doing);
    setOption(fd_.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, 1, doing);
    setOption(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, receiveBuffer, doing);
}

void PacketSocket::setFilter(const Program& program)
{
    sock_fprog filter{};
    filter.len = static_cast<unsigned short>(program.size());
    filter.filter = const_cast<sock_filter*>(program.data());
    check(::setsockopt(fd_.get(), SOL_SOCKET, SO_ATTACH_FILTER, &filter,
                       sizeof(filter)),
          "cannot choose the frames to look at");
}

void PacketSocket::bindTo(int link)
{
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = link;
    check(::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address),
                 sizeof(address)),
          "cannot look at frames of an interface");
}

bool PacketSocket::receive(std::size_t max, const Sink& sink)
{
    std::array<std::uint8_t, quarantine::maxFrame + 4> buffer;
    for (std::size_t i = 0; i < max; i++)
    {
        iovec part{buffer.data(), buffer.size()};
        sockaddr_ll from{};
        alignas(cmsghdr) std::array<char, 256> control{};
        msghdr message{};
        message.msg_name = &from;
        message.msg_namelen = sizeof(from);
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        ssize_t n = ::recvmsg(fd_.get(), &message, 0);
        if (n < 0)
        {
            return errno == EAGAIN || errno == EINTR;
        }
        ByteView bytes(buffer.data(), static_cast<std::size_t>(n));
        bool tagged =
            tagTaken(message) ||
            (bytes.size() >= quarantine::headerBytes && tagInside(bytes));
        sink({from.sll_ifindex, bytes, tagged});
    }
    return true;
}

void PacketSocket::send(ByteView frame)
{
    if (::send(fd_.get(), frame.data(), frame.size(), MSG_NOSIGNAL) < 0)
    {
        throwErrno("cannot send a frame");
    }
}

PortSocket::PortSocket(int link, std::uint16_t etherType)
    : etherType_(etherType)
{
    ignore(std::nullopt);
    bindTo(link);
}

void PortSocket::ignore(const std::optional<MacAddress>& address)
{
    if (filtered_ && address == ignored_)
    {
        return;
    }
    Program program;
    auto put = [&](sock_filter one) { program.push_back(one); };
    put(load(BPF_H, typeAt));
    put(unlessEqual(etherType_, 1));
    put(give(whole));
    if (address)
    {
        put(load(BPF_W, sourceAt + 2));
        put(unlessEqual(word(*address, 2), 3));
        put(load(BPF_H, sourceAt));
        put(unlessEqual(half(*address, 0), 1));
        put(give(0));
    }
    put(give(beginning));
    setFilter(program);
    ignored_ = address;
    filtered_ = true;
}

WatchSocket::WatchSocket()
{
    watch({}, {});
    bindTo(0);
}

void WatchSocket::watch(const std::vector<MacAddress>& addresses,
                        const std::vector<int>& exceptLinks)
{
    Program program;
    auto put = [&](sock_filter one) { program.push_back(one); };
    put(load(BPF_W, sourceAt + 2));
    // Each two instructions; "found" comes after them and one more.
    std::size_t end = 2 * addresses.size() + 2;
    for (const MacAddress& address : addresses)
    {
        put(unlessEqual(word(address, 2), 1));
        put(jump(static_cast<std::uint32_t>(end - program.size() - 1)));
    }
    put(give(0));
    put(loadExtra(SKF_AD_IFINDEX));
    for (int link : exceptLinks)
    {
        put(unlessEqual(static_cast<std::uint32_t>(link), 1));
        put(give(0));
    }
    put(give(beginning));
    setFilter(program);
}

void WatchSocket::requireRoom(std::size_t addresses)
{
    try
    {
        watch(std::vector<MacAddress>(addresses), {});
    }
    catch (const Error& error)
    {
        throw Error(fmt::format("the kernel does not let {} addresses be "
                                "watched (window and one, for each port): {}; "
                                "raise the sysctl net.core.optmem_max to "
                                "131072, or make lease.window smaller",
                                addresses, error.what()));
    }
    watch({}, {});
}

} // namespace airlock::sw
