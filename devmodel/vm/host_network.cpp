#include "devmodel/vm/host_network.hpp"

#include "common/bytes.hpp"
#include "common/error.hpp"
#include "common/file.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

namespace airlock::vm
{

namespace
{

constexpr Milliseconds pingInterval{500};

void writeProc(const std::string& path, std::string_view text)
{
    UniqueFd file = openFile(path, O_WRONLY);
    writeAll(file.get(), asBytes(text));
}

/** Root in a user namespace of one's own, which is enough for a network. */
void enterUserNamespace()
{
    std::string uid = std::to_string(::getuid());
    std::string gid = std::to_string(::getgid());
    if (::unshare(CLONE_NEWUSER) != 0)
    {
        throwErrno("cannot make a user namespace: run this as root");
    }
    writeProc("/proc/self/setgroups", "deny");
    writeProc("/proc/self/uid_map", "0 " + uid + " 1");
    writeProc("/proc/self/gid_map", "0 " + gid + " 1");
}

sockaddr_in ipv4(const std::string& address)
{
    sockaddr_in out = {};
    out.sin_family = AF_INET;
    if (::inet_pton(AF_INET, address.c_str(), &out.sin_addr) != 1)
    {
        throw Error(address + " is no IPv4 address");
    }
    return out;
}

ifreq request(const std::string& name)
{
    ifreq out = {};
    if (name.empty() || name.size() >= sizeof(out.ifr_name))
    {
        throw Error("'" + name + "' cannot be the name of an interface");
    }
    std::copy(name.begin(), name.end(), out.ifr_name);
    return out;
}

void call(int fd, unsigned long number, ifreq& argument, const char* what)
{
    if (::ioctl(fd, number, &argument) != 0)
    {
        throwErrno(std::string("cannot ") + what + " the tap device");
    }
}

/** RFC 1071 over an even number of bytes in host order. */
std::uint16_t internetChecksum(const void* data, std::size_t size)
{
    std::uint32_t sum = 0;
    for (std::size_t i = 0; i + 1 < size; i += 2)
    {
        std::uint16_t word = 0;
        std::memcpy(&word, static_cast<const char*>(data) + i, sizeof(word));
        sum += word;
    }
    while ((sum >> 16) != 0)
    {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return static_cast<std::uint16_t>(~sum);
}

void sendEcho(int socket, const sockaddr_in& to, std::uint16_t id,
              std::uint16_t sequence)
{
    icmphdr echo = {};
    echo.type = ICMP_ECHO;
    echo.un.echo.id = htons(id);
    echo.un.echo.sequence = htons(sequence);
    echo.checksum = internetChecksum(&echo, sizeof(echo));
    // What cannot be sent yet (no carrier, no ARP answer) is sent again.
    static_cast<void>(::sendto(socket, &echo, sizeof(echo), 0,
                               reinterpret_cast<const sockaddr*>(&to),
                               sizeof(to)));
}

/** Whether an answer to one of our requests has come; takes one packet. */
bool receiveEcho(int socket, const sockaddr_in& from, std::uint16_t id)
{
    std::array<std::uint8_t, 512> packet = {};
    sockaddr_in sender = {};
    socklen_t length = sizeof(sender);
    ssize_t size =
        ::recvfrom(socket, packet.data(), packet.size(), MSG_DONTWAIT,
                   reinterpret_cast<sockaddr*>(&sender), &length);
    if (size < static_cast<ssize_t>(sizeof(iphdr)))
    {
        return false;
    }
    std::size_t header = static_cast<std::size_t>(packet[0] & 0xf) * 4;
    icmphdr answer = {};
    if (static_cast<std::size_t>(size) < header + sizeof(answer))
    {
        return false;
    }
    std::memcpy(&answer, packet.data() + header, sizeof(answer));
    return sender.sin_addr.s_addr == from.sin_addr.s_addr &&
           answer.type == ICMP_ECHOREPLY && answer.un.echo.id == htons(id);
}

} // namespace

void enterPrivateNetwork()
{
    if (::geteuid() != 0)
    {
        enterUserNamespace();
    }
    if (::unshare(CLONE_NEWNET) != 0)
    {
        throwErrno("cannot make a network namespace");
    }
}

Tap::Tap(const std::string& name, const std::string& address)
    : fd_(openFile("/dev/net/tun", O_RDWR | O_NONBLOCK))
{
    ifreq device = request(name);
    device.ifr_flags = IFF_TAP | IFF_NO_PI;
    call(fd_.get(), TUNSETIFF, device, "create");

    UniqueFd control(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq setting = request(name);
    sockaddr_in value = ipv4(address);
    std::memcpy(&setting.ifr_addr, &value, sizeof(value));
    call(control.get(), SIOCSIFADDR, setting, "address");
    value = ipv4("255.255.255.0");
    std::memcpy(&setting.ifr_netmask, &value, sizeof(value));
    call(control.get(), SIOCSIFNETMASK, setting, "set the netmask of");
    setting = request(name);
    setting.ifr_flags = IFF_UP | IFF_RUNNING;
    call(control.get(), SIOCSIFFLAGS, setting, "set up");
}

bool ping(const std::string& address, Milliseconds timeout)
{
    UniqueFd socket(::socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP));
    if (!socket)
    {
        throwErrno("cannot open a socket for ICMP");
    }
    sockaddr_in peer = ipv4(address);
    auto id = static_cast<std::uint16_t>(::getpid());
    Deadline deadline(timeout);
    for (std::uint16_t sequence = 1; !deadline.passed(); sequence++)
    {
        sendEcho(socket.get(), peer, id, sequence);
        Deadline next(std::min(pingInterval, deadline.left()));
        while (!next.passed())
        {
            pollfd ready = {socket.get(), POLLIN, 0};
            if (::poll(&ready, 1, next.pollTimeout()) == 1 &&
                receiveEcho(socket.get(), peer, id))
            {
                return true;
            }
        }
    }
    return false;
}

} // namespace airlock::vm
