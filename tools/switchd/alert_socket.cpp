#include "tools/switchd/alert_socket.hpp"

#include "common/error.hpp"
#include "common/log.hpp"

#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>

namespace airlock::sw
{

namespace
{

bool isAlert(const Json& event)
{
    const std::string level = event.value("level", "");
    return level == "error" || level == "warning";
}

} // namespace

AlertSocket::AlertSocket(std::filesystem::path path) : path_(std::move(path))
{
    if (path_.empty())
    {
        return;
    }
    if (path_.string().size() >= sizeof(sockaddr_un::sun_path))
    {
        throw Error("alert-socket: the path is too long for a Unix socket");
    }
    fd_.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!fd_)
    {
        throwErrno("cannot make a socket for alerts");
    }
}

void AlertSocket::pass(const Json& event)
{
    if (!fd_ || !isAlert(event))
    {
        return;
    }
    const std::lock_guard lock(mutex_);
    Json message = event;
    if (lost_ > 0)
    {
        message["lost"] = lost_;
    }
    const std::string text = dumpJson(message);
    const int error = text.size() <= maxMessage ? send(text) : EMSGSIZE;
    if (error == 0)
    {
        lost_ = 0;
        return;
    }
    // The first one of each reason: another reason is news.
    if (lost_++ == 0 || error != lastError_)
    {
        log::error(
            "nobody takes the agent's alerts",
            {{"SOCKET", path_.string()}, {"REASON", std::strerror(error)}});
    }
    lastError_ = error;
}

/** By name each time: who reads may have been started anew. */
int AlertSocket::send(const std::string& message) const
{
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    std::strncpy(to.sun_path, path_.c_str(), sizeof(to.sun_path) - 1);
    return ::sendto(fd_.get(), message.data(), message.size(), MSG_NOSIGNAL,
                    reinterpret_cast<const sockaddr*>(&to), sizeof(to)) >= 0
               ? 0
               : errno;
}

} // namespace airlock::sw
