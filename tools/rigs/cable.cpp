#include "tools/rigs/cable.hpp"

#include "common/error.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <ctime>

namespace airlock::rig
{

namespace
{

/** Between namespaces the kernel passes segments on as one large frame. */
constexpr std::size_t largest = 128U << 10;

template <typename Value>
bool set(int fd, int level, int option, const Value& value)
{
    return ::setsockopt(fd, level, option, &value, sizeof(value)) == 0;
}

std::chrono::system_clock::time_point timeOf(const timespec& time)
{
    using namespace std::chrono;
    return system_clock::time_point(duration_cast<system_clock::duration>(
        seconds(time.tv_sec) + nanoseconds(time.tv_nsec)));
}

/** What the kernel says of a frame beside its bytes. */
void readAbout(msghdr& message, Caught& out)
{
    for (cmsghdr* at = CMSG_FIRSTHDR(&message); at != nullptr;
         at = CMSG_NXTHDR(&message, at))
    {
        if (at->cmsg_level == SOL_PACKET && at->cmsg_type == PACKET_AUXDATA)
        {
            tpacket_auxdata extra{};
            std::memcpy(&extra, CMSG_DATA(at), sizeof(extra));
            if ((extra.tp_status & TP_STATUS_VLAN_VALID) != 0)
            {
                out.vlan = extra.tp_vlan_tci;
                out.vlanType = extra.tp_vlan_tpid;
            }
        }
        if (at->cmsg_level == SOL_SOCKET && at->cmsg_type == SO_TIMESTAMPNS)
        {
            timespec time{};
            std::memcpy(&time, CMSG_DATA(at), sizeof(time));
            out.time = timeOf(time);
        }
    }
}

} // namespace

MacAddress Caught::destination() const
{
    return MacAddress::from(bytes, "frame");
}

MacAddress Caught::source() const
{
    return MacAddress::from(ByteView(bytes).subspan(6), "frame");
}

std::uint16_t Caught::type() const
{
    return ByteReader(ByteView(bytes).subspan(12), "frame").be16();
}

CableEnd::CableEnd(const std::string& name, Sees sees, int room)
    : name_(name),
      fd_(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)),
      buffer_(largest)
{
    const int one = 1;
    const int ignore = sees == Sees::incoming ? 1 : 0;
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(::if_nametoindex(name.c_str()));
    packet_mreq all{};
    all.mr_ifindex = address.sll_ifindex;
    all.mr_type = PACKET_MR_PROMISC;
    const int fd = fd_.get();
    if (!fd_ || address.sll_ifindex == 0 ||
        !set(fd, SOL_PACKET, PACKET_AUXDATA, one) ||
        !set(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, ignore) ||
        !set(fd, SOL_SOCKET, SO_TIMESTAMPNS, one) ||
        !set(fd, SOL_SOCKET, SO_RCVBUFFORCE, room) ||
        !set(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, all) ||
        ::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
    {
        throwErrno("cannot open the cable " + name);
    }
}

void CableEnd::send(ByteView frame)
{
    ssize_t n = ::send(fd_.get(), frame.data(), frame.size(), 0);
    if (n < 0 && errno == ENETDOWN)
    {
        // It says once that the link was down at some time.
        n = ::send(fd_.get(), frame.data(), frame.size(), 0);
    }
    // ENOBUFS: nftables dropped it on the way out.
    if (n < 0 && errno != ENOBUFS)
    {
        throwErrno("cannot send at " + name_);
    }
}

void CableEnd::requireNoneLost() const
{
    tpacket_stats counts{};
    socklen_t size = sizeof(counts);
    if (::getsockopt(fd_.get(), SOL_PACKET, PACKET_STATISTICS, &counts,
                     &size) != 0)
    {
        throwErrno("cannot count the frames of " + name_);
    }
    if (counts.tp_drops > 0)
    {
        throw Error(
            fmt::format("{} frames were lost at {}", counts.tp_drops, name_));
    }
}

std::vector<Caught> CableEnd::take()
{
    std::vector<Caught> out;
    for (;;)
    {
        iovec part{buffer_.data(), buffer_.size()};
        sockaddr_ll from{};
        alignas(cmsghdr) std::array<char, 256> control{};
        msghdr message{};
        message.msg_name = &from;
        message.msg_namelen = sizeof(from);
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        const ssize_t n = ::recvmsg(fd_.get(), &message, 0);
        if (n < 0 && errno == ENETDOWN)
        {
            continue; // says once that the link was down
        }
        if (n < 0)
        {
            requireNoneLost();
            return out;
        }
        Caught caught;
        caught.bytes.assign(buffer_.begin(), buffer_.begin() + n);
        caught.outgoing = from.sll_pkttype == PACKET_OUTGOING;
        readAbout(message, caught);
        out.push_back(std::move(caught));
    }
}

} // namespace airlock::rig
