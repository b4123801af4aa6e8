#include "common/status_server.hpp"

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/json.hpp"
#include "common/socket.hpp"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <list>
#include <stop_token>
#include <thread>
#include <vector>

namespace airlock
{

namespace
{

constexpr std::size_t maxHead = 8U << 10;
constexpr std::size_t readStep = 2048;
constexpr mode_t socketMode = 0660;
constexpr Milliseconds afterTrouble{100};

std::string_view reasonOf(unsigned status)
{
    switch (status)
    {
    case 200:
        return "OK";
    case 400:
        return "Bad Request";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 431:
        return "Request Header Fields Too Large";
    case 503:
        return "Service Unavailable";
    default:
        return "Internal Server Error";
    }
}

StatusPage textPage(unsigned status, const std::string& text)
{
    StatusPage page;
    page.status = status;
    page.body = text + "\n";
    return page;
}

std::string answerText(const StatusPage& page, bool withBody)
{
    return fmt::format("HTTP/1.1 {} {}\r\nContent-Type: {}\r\n"
                       "Content-Length: {}\r\nCache-Control: no-store\r\n"
                       "X-Content-Type-Options: nosniff\r\n"
                       "Connection: close\r\n\r\n{}",
                       page.status, reasonOf(page.status), page.type,
                       page.body.size(), withBody ? page.body : "");
}

/** "GET /metrics?x HTTP/1.1": method and path without query. */
struct RequestLine
{
    std::string method;
    std::string path;
};

RequestLine parseRequestLine(std::string_view head)
{
    std::string_view line = head.substr(0, head.find("\r\n"));
    std::size_t first = line.find(' ');
    std::size_t last = line.rfind(' ');
    if (first == std::string_view::npos || last == first ||
        !line.substr(last).starts_with(" HTTP/1."))
    {
        throw Refused("request", "is no HTTP/1");
    }
    std::string_view target = line.substr(first + 1, last - first - 1);
    return {std::string(line.substr(0, first)),
            std::string(target.substr(0, target.find('?')))};
}

struct Connection
{
    UniqueFd fd;
    Deadline end;
    std::string in;
    std::string out;
    bool answered = false;
};

UniqueFd listenPath(const std::string& path)
{
    removeStaleSocket(path);
    UniqueFd fd = listenUnix(path);
    if (::chmod(path.c_str(), socketMode) != 0)
    {
        throwErrno("cannot set the mode of " + path);
    }
    return fd;
}

StatusPage healthPage(const std::string& version,
                      const std::vector<HealthPart>& parts)
{
    Json reasons = Json::array();
    Json out = {{"version", version}};
    for (const HealthPart& part : parts)
    {
        out[part.name] = part.trouble.empty();
        if (!part.trouble.empty())
        {
            reasons.push_back(part.trouble);
        }
    }
    bool well = reasons.empty();
    out["status"] = well ? "ok" : "failing";
    out["reasons"] = reasons;
    return {well ? 200U : 503U, "application/json", dumpJson(out) + "\n"};
}

} // namespace

StatusPage daemonPage(const std::string& path, metrics::Registry& registry,
                      const std::string& version,
                      const std::function<std::vector<HealthPart>()>& health)
{
    if (path == "/metrics")
    {
        return {200, metrics::contentType, registry.text()};
    }
    if (path == "/health")
    {
        return healthPage(version, health());
    }
    return textPage(404, "there are /metrics and /health");
}

std::string HealthCheck::trouble()
{
    std::lock_guard lock(mutex_);
    if (fresh_ && !fresh_->passed())
    {
        return trouble_;
    }
    try
    {
        check_();
        trouble_.clear();
    }
    catch (const std::exception& error)
    {
        trouble_ = error.what();
    }
    fresh_.emplace(every_);
    return trouble_;
}

class StatusServer::Impl
{
  public:
    Impl(const std::string& listen, Handler handler, const Limits& limits)
        : handler_(std::move(handler)), limits_(limits)
    {
        if (listen.starts_with('/'))
        {
            path_ = listen;
            listener_ = listenPath(listen);
        }
        else
        {
            listener_ = listenTcp(listen);
            port_ = localPort(listener_.get());
        }
        wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        if (!wake_)
        {
            throwErrno("cannot create an eventfd");
        }
        thread_ =
            std::jthread([this](const std::stop_token& stop) { run(stop); });
    }

    ~Impl()
    {
        thread_.request_stop();
        std::uint64_t one = 1;
        [[maybe_unused]] ssize_t n = ::write(wake_.get(), &one, sizeof(one));
        thread_.join();
        if (!path_.empty())
        {
            ::unlink(path_.c_str());
        }
    }

    std::uint16_t port() const { return port_; }

  private:
    void run(const std::stop_token& stop)
    {
        while (!stop.stop_requested())
        {
            waitAndServe();
        }
    }

    void waitAndServe()
    {
        bool full = connections_.size() >= limits_.connections;
        std::vector<pollfd> entries = {
            {wake_.get(), POLLIN, 0}, {full ? -1 : listener_.get(), POLLIN, 0}};
        int timeout = -1;
        for (const Connection& connection : connections_)
        {
            short events = connection.out.empty() ? POLLIN : POLLOUT;
            entries.push_back({connection.fd.get(), events, 0});
            int left = connection.end.pollTimeout();
            timeout = timeout < 0 ? left : std::min(timeout, left);
        }
        if (::poll(entries.data(), entries.size(), timeout) < 0)
        {
            std::this_thread::sleep_for(afterTrouble);
            return;
        }
        std::size_t index = 2;
        connections_.remove_if([&](Connection& connection) {
            bool ready = entries[index++].revents != 0;
            return connection.end.passed() || (ready && !serve(connection));
        });
        if (entries[1].revents != 0)
        {
            acceptOne();
        }
    }

    void acceptOne()
    {
        UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr,
                              SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (fd)
        {
            connections_.push_back(
                {std::move(fd), Deadline(limits_.time), "", "", false});
        }
        else if (errno == EMFILE || errno == ENFILE)
        {
            std::this_thread::sleep_for(afterTrouble);
        }
    }

    /** False when the connection is over. */
    bool serve(Connection& connection)
    {
        return connection.out.empty() ? receive(connection) : send(connection);
    }

    bool receive(Connection& connection)
    {
        std::array<char, readStep> buffer;
        ssize_t n =
            ::recv(connection.fd.get(), buffer.data(), buffer.size(), 0);
        if (n <= 0)
        {
            return n < 0 && (errno == EAGAIN || errno == EINTR);
        }
        if (connection.answered)
        {
            return true; // nothing that it says now matters
        }
        connection.in.append(buffer.data(), static_cast<std::size_t>(n));
        if (connection.in.find("\r\n\r\n") != std::string::npos)
        {
            connection.out = answer(connection.in);
        }
        else if (connection.in.size() > maxHead)
        {
            connection.out =
                answerText(textPage(431, "the request is too long"), true);
        }
        connection.answered = !connection.out.empty();
        return !connection.answered || send(connection);
    }

    bool send(Connection& connection)
    {
        ssize_t n = ::send(connection.fd.get(), connection.out.data(),
                           connection.out.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0)
        {
            return errno == EAGAIN || errno == EINTR;
        }
        connection.out.erase(0, static_cast<std::size_t>(n));
        if (connection.out.empty())
        {
            // Its end of the connection comes next.
            ::shutdown(connection.fd.get(), SHUT_WR);
        }
        return true;
    }

    std::string answer(const std::string& head) const
    {
        try
        {
            RequestLine line = parseRequestLine(head);
            if (line.method != "GET" && line.method != "HEAD")
            {
                return answerText(textPage(405, "only GET and HEAD"), true);
            }
            return answerText(handler_(line.path), line.method == "GET");
        }
        catch (const Refused& refused)
        {
            return answerText(textPage(400, refused.what()), true);
        }
        catch (const std::exception& error)
        {
            return answerText(textPage(500, plainText(error.what())), true);
        }
    }

    Handler handler_;
    Limits limits_;
    std::string path_; ///< of a Unix socket
    UniqueFd listener_;
    UniqueFd wake_;
    std::uint16_t port_ = 0;
    std::list<Connection> connections_;
    std::jthread thread_;
};

StatusServer::StatusServer(const std::string& listen, Handler handler,
                           const Limits& limits)
    : impl_(std::make_unique<Impl>(listen, std::move(handler), limits))
{}

StatusServer::StatusServer(const std::string& listen, Handler handler)
    : StatusServer(listen, std::move(handler), Limits())
{}

StatusServer::~StatusServer() = default;

std::uint16_t StatusServer::port() const
{
    return impl_->port();
}

} // namespace airlock
