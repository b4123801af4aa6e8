#include "common/socket.hpp"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <charconv>
#include <cstring>
#include <memory>
#include <thread>

namespace airlock
{

namespace
{

/** Waits for POLLIN or POLLOUT; false at the deadline. */
bool waitReady(int fd, short events, const Deadline& deadline)
{
    for (;;)
    {
        pollfd entry{fd, events, 0};
        int ready = ::poll(&entry, 1, deadline.pollTimeout());
        if (ready > 0)
        {
            return true;
        }
        if (ready < 0 && errno != EINTR)
        {
            throwErrno("cannot wait for a socket");
        }
        if (deadline.passed())
        {
            return false;
        }
    }
}

sockaddr_un unixAddress(const std::string& path)
{
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    if (path.size() >= sizeof(address.sun_path))
    {
        throw Error("the socket path " + path +
                    " is too long for a Unix socket; use a shorter one");
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    return address;
}

UniqueFd unixSocket()
{
    UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd)
    {
        throwErrno("cannot create a Unix socket");
    }
    return fd;
}

bool worthAnotherTry(int error)
{
    return error == ENOENT || error == ECONNREFUSED || error == EAGAIN ||
           error == EINTR;
}

ssize_t sendOnce(int socket, std::string_view data, std::optional<int> passFd)
{
    iovec part{const_cast<char*>(data.data()), data.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (passFd)
    {
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        std::memcpy(CMSG_DATA(header), &*passFd, sizeof(int));
    }
    return ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

struct FreeAddresses
{
    void operator()(addrinfo* list) const { ::freeaddrinfo(list); }
};

using Addresses = std::unique_ptr<addrinfo, FreeAddresses>;

Addresses findAddresses(const std::string& host, std::uint16_t port, int flags)
{
    addrinfo hints = {};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV | flags;
    addrinfo* found = nullptr;
    int result = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(),
                               &hints, &found);
    if (result != 0)
    {
        throw Error("cannot find " + host + " port " + std::to_string(port) +
                    ": " + ::gai_strerror(result));
    }
    return Addresses(found);
}

UniqueFd tcpSocket(const addrinfo& address)
{
    return UniqueFd(::socket(address.ai_family,
                             SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

/** Connects to one address; nothing when that fails (errno says why). */
UniqueFd connectOne(const addrinfo& address, const Deadline& deadline)
{
    UniqueFd socket = tcpSocket(address);
    if (!socket)
    {
        return {};
    }
    int one = 1;
    ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (::connect(socket.get(), address.ai_addr, address.ai_addrlen) == 0)
    {
        return socket;
    }
    if (errno != EINPROGRESS)
    {
        return {};
    }
    if (!waitReady(socket.get(), POLLOUT, deadline))
    {
        errno = ETIMEDOUT;
        return {};
    }
    int error = 0;
    socklen_t size = sizeof(error);
    ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    errno = error;
    return error == 0 ? std::move(socket) : UniqueFd();
}

/** "127.0.0.1:9557", "[::1]:9557" */
std::pair<std::string, std::uint16_t> splitAddress(const std::string& where)
{
    std::size_t colon = where.rfind(':');
    std::uint16_t port = 0;
    const char* end = where.data() + where.size();
    bool ok = colon != std::string::npos && colon > 0;
    if (ok)
    {
        auto parsed = std::from_chars(where.data() + colon + 1, end, port);
        ok = parsed.ec == std::errc() && parsed.ptr == end;
    }
    std::string host = ok ? where.substr(0, colon) : "";
    if (ok && host.front() == '[' && host.back() == ']')
    {
        host = host.substr(1, host.size() - 2);
    }
    else
    {
        ok = ok && host.find(':') == std::string::npos;
    }
    if (!ok)
    {
        throw Error(where + " is no address with a port, such as "
                            "127.0.0.1:9557 or [::1]:9557");
    }
    return {host, port};
}

} // namespace

UniqueFd connectTcp(const std::string& host, std::uint16_t port,
                    const Deadline& deadline)
{
    Addresses list = findAddresses(host, port, 0);
    int left = 0;
    for (addrinfo* at = list.get(); at != nullptr; at = at->ai_next)
    {
        left++;
    }
    for (addrinfo* at = list.get(); at != nullptr; at = at->ai_next)
    {
        // One that is cut off leaves the others their share of the time.
        if (UniqueFd socket =
                connectOne(*at, Deadline(deadline.left() / left--)))
        {
            return socket;
        }
    }
    throwErrno("cannot connect to " + host + " port " + std::to_string(port));
}

UniqueFd listenTcp(const std::string& where, int backlog)
{
    auto [host, port] = splitAddress(where);
    Addresses list = findAddresses(host, port, AI_PASSIVE | AI_NUMERICHOST);
    UniqueFd fd = tcpSocket(*list);
    int one = 1;
    if (!fd ||
        ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) !=
            0 ||
        ::bind(fd.get(), list->ai_addr, list->ai_addrlen) != 0 ||
        ::listen(fd.get(), backlog) != 0)
    {
        throwErrno("cannot listen at " + where);
    }
    return fd;
}

std::uint16_t localPort(int socket)
{
    sockaddr_storage address = {};
    socklen_t size = sizeof(address);
    if (::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) !=
        0)
    {
        throwErrno("cannot ask for the port of a socket");
    }
    // The port is at the same place for both families.
    sockaddr_in in = {};
    std::memcpy(&in, &address, sizeof(in));
    return ntohs(in.sin_port);
}

void removeStaleSocket(const std::filesystem::path& path)
{
    struct stat info = {};
    if (::lstat(path.c_str(), &info) != 0)
    {
        return;
    }
    if (!S_ISSOCK(info.st_mode))
    {
        throw Error(path.string() + " is there and is no socket: remove it");
    }
    try
    {
        connectUnix(path, Milliseconds(0));
    }
    catch (const Error&)
    {
        std::filesystem::remove(path);
        return;
    }
    throw Error("another process listens at " + path.string() +
                ": does the same daemon run already?");
}

UniqueFd connectUnix(const std::filesystem::path& path, Milliseconds timeout)
{
    const std::string& name = path.native();
    sockaddr_un address = unixAddress(name);
    Deadline deadline(timeout);
    for (;;)
    {
        UniqueFd fd = unixSocket();
        if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address),
                      sizeof(address)) == 0)
        {
            return fd;
        }
        if (!worthAnotherTry(errno))
        {
            throwErrno("cannot connect to " + name);
        }
        if (deadline.passed())
        {
            throw TimedOut("nobody listens at " + name + " after " +
                           std::to_string(timeout.count()) + " ms");
        }
        std::this_thread::sleep_for(Milliseconds(2));
    }
}

UniqueFd listenUnix(const std::filesystem::path& path, int backlog)
{
    sockaddr_un address = unixAddress(path.native());
    UniqueFd fd = unixSocket();
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address),
               sizeof(address)) != 0 ||
        ::listen(fd.get(), backlog) != 0)
    {
        throwErrno("cannot listen at " + path.native());
    }
    return fd;
}

std::pair<UniqueFd, UniqueFd> socketPair()
{
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    {
        throwErrno("cannot create a pair of sockets");
    }
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

void sendAll(int socket, std::string_view data, const Deadline& deadline,
             std::optional<int> passFd)
{
    while (!data.empty())
    {
        ssize_t n = sendOnce(socket, data, passFd);
        if (n >= 0)
        {
            data.remove_prefix(static_cast<std::size_t>(n));
            passFd.reset();
        }
        else if (errno == EAGAIN)
        {
            if (!waitReady(socket, POLLOUT, deadline))
            {
                throw TimedOut("the peer of a socket takes no more data");
            }
        }
        else if (errno != EINTR)
        {
            throwErrno("cannot send on a socket");
        }
    }
}

bool receiveSome(int fd, std::string& out, std::size_t max,
                 const Deadline& deadline)
{
    if (!waitReady(fd, POLLIN, deadline))
    {
        return false;
    }
    std::size_t used = out.size();
    out.resize(used + max);
    ssize_t n = ::read(fd, out.data() + used, max);
    int error = errno;
    out.resize(used + static_cast<std::size_t>(n > 0 ? n : 0));
    if (n == 0 || (n < 0 && error == ECONNRESET))
    {
        throw Error("the peer closed the connection");
    }
    if (n < 0 && error != EINTR && error != EAGAIN)
    {
        throw SystemError("cannot receive from a socket", error);
    }
    return true;
}

} // namespace airlock
