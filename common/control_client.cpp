#include "common/control_client.hpp"

#include "common/socket.hpp"

namespace airlock::control
{

namespace
{

constexpr std::size_t chunk = 64U << 10;
constexpr Milliseconds connectTime = std::chrono::milliseconds(500);
constexpr Milliseconds forever = std::chrono::hours(24 * 365);

UniqueFd connectTo(const std::filesystem::path& path, const Daemon& daemon)
{
    try
    {
        return connectUnix(path, connectTime);
    }
    catch (const Error& e)
    {
        throw Error(daemon.what + " cannot be reached (" +
                    std::string(e.what()) + "); does " + daemon.program +
                    " run, and may you talk to it?");
    }
}

Json checked(const Reply& reply)
{
    if (reply.error.empty())
    {
        return reply.parameters;
    }
    auto message = JsonField(reply.parameters, "reply").find("message");
    throw CallError(reply.error,
                    message ? message->string(1U << 16) : reply.error);
}

} // namespace

Client::Client(const std::filesystem::path& path, Daemon daemon,
               Milliseconds timeout)
    : daemon_(std::move(daemon)), fd_(connectTo(path, daemon_)),
      timeout_(timeout)
{}

Reply Client::receive(Milliseconds timeout)
{
    Deadline deadline(timeout);
    std::size_t searched = 0;
    for (;;)
    {
        std::size_t end = in_.find('\0', searched);
        if (end != std::string::npos)
        {
            Reply reply = parseReply(std::string_view(in_).substr(0, end));
            in_.erase(0, end + 1);
            return reply;
        }
        if (in_.size() > maxReply)
        {
            throw Refused(daemon_.what, "its reply is too long");
        }
        searched = in_.size();
        if (!receiveSome(fd_.get(), in_, chunk, deadline))
        {
            throw TimedOut(daemon_.what + " does not answer");
        }
    }
}

Json Client::call(const std::string& method, Json parameters)
{
    sendAll(fd_.get(), write(Request{method, std::move(parameters), false}),
            Deadline(timeout_));
    return checked(receive(timeout_));
}

void Client::follow(const std::string& method,
                    const std::function<bool(const Json&)>& event)
{
    sendAll(fd_.get(), write(Request{method, Json::object(), true}),
            Deadline(timeout_));
    for (;;)
    {
        Reply reply = receive(forever);
        if (!event(checked(reply)) || !reply.continues)
        {
            return;
        }
    }
}

} // namespace airlock::control
