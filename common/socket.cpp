#include "common/socket.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
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

} // namespace

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
