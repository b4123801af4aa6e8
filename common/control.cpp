#include "common/control.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

namespace airlock::control
{

namespace
{

constexpr JsonLimits requestLimits{maxRequest, 16};
constexpr JsonLimits replyLimits{maxReply, 32};

Json objectAt(const JsonField& message)
{
    auto parameters = message.find("parameters");
    if (!parameters)
    {
        return Json::object();
    }
    if (!parameters->json().is_object())
    {
        parameters->refuse("is no object");
    }
    return parameters->json();
}

bool flagAt(const JsonField& message, std::string_view name)
{
    auto flag = message.find(name);
    return flag && flag->boolean();
}

std::string framed(const Json& message)
{
    return dumpJson(message) + '\0';
}

} // namespace

Request parseRequest(std::string_view text)
{
    Json json = parseJson(text, "request", requestLimits);
    JsonField message(json, "request");
    message.onlyKeys({"method", "parameters", "more"});
    return {message.at("method").string(64), objectAt(message),
            flagAt(message, "more")};
}

Reply parseReply(std::string_view text)
{
    Json json = parseJson(text, "reply", replyLimits);
    JsonField message(json, "reply");
    auto error = message.find("error");
    return {error ? error->string(64) : "", objectAt(message),
            flagAt(message, "continues")};
}

std::string write(const Request& request)
{
    Json message = {{"method", request.method},
                    {"parameters", request.parameters}};
    if (request.more)
    {
        message["more"] = true;
    }
    return framed(message);
}

std::string write(const Reply& reply)
{
    Json message = {{"parameters", reply.parameters}};
    if (!reply.error.empty())
    {
        message["error"] = reply.error;
    }
    if (reply.continues)
    {
        message["continues"] = true;
    }
    return framed(message);
}

std::string timeText(Timestamp time)
{
    auto seconds = std::chrono::floor<std::chrono::seconds>(time);
    return fmt::format(
        "{:%Y-%m-%dT%H:%M:%S}.{:03}Z",
        fmt::gmtime(std::chrono::system_clock::to_time_t(seconds)),
        (time - seconds).count());
}

} // namespace airlock::control
