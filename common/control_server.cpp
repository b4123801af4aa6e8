#include "common/control_server.hpp"

#include "common/socket.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <list>
#include <map>
#include <mutex>

namespace airlock::control
{

namespace
{

constexpr std::size_t keptEvents = 256;
/** Events that run() has not taken yet. */
constexpr std::size_t maxQueued = 4096;
constexpr std::size_t chunk = 16U << 10;
constexpr int backlog = 16;
constexpr mode_t socketMode = 0660;

Peer peerOf(int socket)
{
    ucred credentials{};
    socklen_t size = sizeof(credentials);
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0)
    {
        throwErrno("cannot ask who connected");
    }
    Peer peer{credentials.pid, credentials.uid, {credentials.gid}};
    std::vector<gid_t> groups(NGROUPS_MAX);
    size = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, groups.data(), &size) ==
        0)
    {
        groups.resize(size / sizeof(gid_t));
        peer.groups.insert(peer.groups.end(), groups.begin(), groups.end());
    }
    return peer;
}

/** One peer: what it sent and what it has not taken yet. */
struct Connection
{
    UniqueFd fd;
    Peer peer;
    std::string in;
    std::string out;
    std::optional<Deadline> complete; ///< for the request that has begun
    bool follows = false;
    bool closing = false; ///< after `out` is gone
};

} // namespace

bool mayTalk(const Peer& peer, const ServerOptions& options, uid_t self)
{
    return peer.uid == 0 || (options.ownUser && peer.uid == self) ||
           (options.group && std::ranges::find(peer.groups, *options.group) !=
                                 peer.groups.end());
}

class Server::Impl
{
  public:
    explicit Impl(const ServerOptions& options) : options_(options)
    {
        removeStaleSocket(options.path);
        // Until its mode is right, peers are checked by who they are.
        listener_ = listenUnix(options.path, backlog);
        gid_t group = options.group.value_or(static_cast<gid_t>(-1));
        if (::chmod(options.path.c_str(), socketMode) != 0 ||
            ::chown(options.path.c_str(), static_cast<uid_t>(-1), group) != 0)
        {
            throwErrno("cannot give " + options.path.string() + " its owner");
        }
        wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        if (!wake_)
        {
            throwErrno("cannot create an eventfd");
        }
    }

    ~Impl() { ::unlink(options_.path.c_str()); }

    void handle(const std::string& method, Handler handler)
    {
        handlers_[method] = std::move(handler);
    }

    void publish(Json event)
    {
        event["time"] =
            timeText(std::chrono::time_point_cast<std::chrono::milliseconds>(
                std::chrono::system_clock::now()));
        {
            std::lock_guard lock(mutex_);
            if (queued_.size() < maxQueued)
            {
                queued_.push_back(std::move(event));
            }
        }
        wake();
    }

    void run(const std::stop_token& stop)
    {
        std::stop_callback onStop(stop, [this] { wake(); });
        while (!stop.stop_requested())
        {
            waitAndServe();
        }
    }

  private:
    void wake()
    {
        std::uint64_t one = 1;
        // Full means that it is awake anyway.
        [[maybe_unused]] ssize_t n = ::write(wake_.get(), &one, sizeof(one));
    }

    void waitAndServe()
    {
        std::vector<pollfd> entries = {{wake_.get(), POLLIN, 0},
                                       {listener_.get(), POLLIN, 0}};
        bool full = connections_.size() >= options_.maxConnections;
        entries[1].fd = full ? -1 : listener_.get();
        int timeout = -1;
        for (const Connection& connection : connections_)
        {
            short events = connection.closing ? 0 : POLLIN;
            events = static_cast<short>(events |
                                        (connection.out.empty() ? 0 : POLLOUT));
            entries.push_back({connection.fd.get(), events, 0});
            if (connection.complete)
            {
                int left = connection.complete->pollTimeout();
                timeout = timeout < 0 ? left : std::min(timeout, left);
            }
        }
        if (::poll(entries.data(), entries.size(), timeout) < 0 &&
            errno != EINTR)
        {
            throwErrno("cannot wait on the control socket");
        }
        std::size_t index = 2;
        connections_.remove_if([&](Connection& connection) {
            return !serve(connection, entries[index++].revents);
        });
        if ((entries[0].revents & POLLIN) != 0)
        {
            takeEvents();
        }
        if ((entries[1].revents & POLLIN) != 0)
        {
            acceptOne();
        }
    }

    void takeEvents()
    {
        std::uint64_t count = 0;
        [[maybe_unused]] ssize_t n = ::read(wake_.get(), &count, sizeof(count));
        std::vector<Json> events;
        {
            std::lock_guard lock(mutex_);
            events.swap(queued_);
        }
        for (Json& event : events)
        {
            for (Connection& connection : connections_)
            {
                if (connection.follows)
                {
                    reply(connection, {"", {{"event", event}}, true});
                }
            }
            recent_.push_back(std::move(event));
            if (recent_.size() > keptEvents)
            {
                recent_.pop_front();
            }
        }
    }

    void acceptOne()
    {
        UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr,
                              SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!fd)
        {
            return; // it went away, or we are out of descriptors for now
        }
        Connection connection;
        connection.peer = peerOf(fd.get());
        connection.fd = std::move(fd);
        if (!mayTalk(connection.peer, options_, ::geteuid()))
        {
            reply(connection,
                  errorReply(errors::denied,
                             "only root and the members of the socket's group "
                             "may talk to " +
                                 options_.daemon.what));
            connection.closing = true;
        }
        connections_.push_back(std::move(connection));
    }

    /** False when the connection is over. */
    bool serve(Connection& connection, short ready)
    {
        if ((ready & POLLOUT) != 0 && !flush(connection))
        {
            return false;
        }
        if (connection.closing)
        {
            return !connection.out.empty() &&
                   (ready & (POLLERR | POLLHUP)) == 0;
        }
        if ((ready & (POLLIN | POLLHUP | POLLERR)) != 0 && !receive(connection))
        {
            return false;
        }
        return !connection.complete || !connection.complete->passed();
    }

    bool receive(Connection& connection)
    {
        char buffer[chunk];
        ssize_t n = ::recv(connection.fd.get(), buffer, sizeof(buffer), 0);
        if (n == 0)
        {
            return false;
        }
        if (n < 0)
        {
            return errno == EAGAIN || errno == EINTR;
        }
        connection.in.append(buffer, static_cast<std::size_t>(n));
        takeRequests(connection);
        return connection.out.size() <= options_.maxUnsent;
    }

    void takeRequests(Connection& connection)
    {
        std::size_t end = 0;
        while (!connection.closing &&
               (end = connection.in.find('\0')) != std::string::npos)
        {
            std::string text = connection.in.substr(0, end);
            connection.in.erase(0, end + 1);
            answer(connection, text);
        }
        if (connection.in.size() >= maxRequest)
        {
            reply(connection,
                  errorReply(errors::malformed, "the request is too long"));
            connection.closing = true;
        }
        if (connection.in.empty())
        {
            connection.complete.reset();
        }
        else if (!connection.complete)
        {
            connection.complete.emplace(options_.requestTime);
        }
    }

    void answer(Connection& connection, const std::string& text)
    {
        if (text.size() >= maxRequest)
        {
            reply(connection,
                  errorReply(errors::malformed, "the request is too long"));
            connection.closing = true;
            return;
        }
        try
        {
            Request request = parseRequest(text);
            if (request.method == "events")
            {
                events(connection, request);
                return;
            }
            reply(connection, call(request, connection.peer));
        }
        catch (const Refused& e)
        {
            reply(connection, errorReply(errors::malformed, e.what()));
        }
    }

    void events(Connection& connection, const Request& request)
    {
        if (!request.parameters.empty())
        {
            reply(connection,
                  errorReply(errors::invalid, "events has no parameters"));
            return;
        }
        if (!request.more)
        {
            Json all = Json::array();
            for (const Json& event : recent_)
            {
                all.push_back(event);
            }
            reply(connection, {"", {{"events", all}}, false});
            return;
        }
        for (const Json& event : recent_)
        {
            reply(connection, {"", {{"event", event}}, true});
        }
        connection.follows = true;
    }

    Reply call(const Request& request, const Peer& peer)
    {
        auto handler = handlers_.find(request.method);
        if (handler == handlers_.end())
        {
            return errorReply(errors::unknownMethod,
                              "there is no method " +
                                  printable(request.method));
        }
        try
        {
            return {"",
                    handler->second(
                        JsonField(request.parameters, request.method), peer),
                    false};
        }
        catch (const CallError& e)
        {
            return errorReply(e.name(), e.what());
        }
        catch (const Refused& e)
        {
            return errorReply(errors::invalid, e.what());
        }
        catch (const Error& e)
        {
            return errorReply(errors::failed, e.what());
        }
    }

    static Reply errorReply(std::string_view name, const std::string& message)
    {
        return {std::string(name), {{"message", message}}, false};
    }

    void reply(Connection& connection, const Reply& message)
    {
        connection.out += write(message);
        if (!flush(connection) || connection.out.size() > options_.maxUnsent)
        {
            connection.out.clear();
            connection.closing = true;
        }
    }

    /** False when the peer has gone. */
    bool flush(Connection& connection)
    {
        while (!connection.out.empty())
        {
            ssize_t n =
                ::send(connection.fd.get(), connection.out.data(),
                       connection.out.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
            if (n < 0 && errno != EINTR)
            {
                return errno == EAGAIN;
            }
            connection.out.erase(
                0, static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
        }
        return true;
    }

    ServerOptions options_;
    UniqueFd listener_;
    UniqueFd wake_;
    std::map<std::string, Handler> handlers_;
    std::list<Connection> connections_;
    std::deque<Json> recent_;
    std::mutex mutex_;
    std::vector<Json> queued_;
};

Server::Server(const ServerOptions& options)
    : impl_(std::make_unique<Impl>(options))
{}

Server::~Server() = default;

void Server::handle(const std::string& method, Handler handler)
{
    impl_->handle(method, std::move(handler));
}

void Server::publish(Json event)
{
    impl_->publish(std::move(event));
}

void Server::run(const std::stop_token& stop)
{
    impl_->run(stop);
}

} // namespace airlock::control
