#pragma once

#include "common/error.hpp"
#include "common/json.hpp"

#include <chrono>
#include <string>
#include <string_view>

/** The control socket of a daemon.
 *
 * A Unix stream socket. Each message is one JSON object and a NUL byte, as
 * Varlink has it:
 *
 *     request  {"method": "status", "parameters": {"vm": "web1"}}
 *     reply    {"parameters": {...}}
 *     error    {"error": "not-found", "parameters": {"message": "..."}}
 *
 * A request with "more": true may get several replies, all but the last one
 * with "continues": true. Requests of one connection are answered in their
 * order. The method "events" is every daemon's; the others are its own.
 */
namespace airlock::control
{

/** A request is at most this long, with its NUL. */
inline constexpr std::size_t maxRequest = 64U << 10;
/** A reply likewise. */
inline constexpr std::size_t maxReply = 16U << 20;

/** Words of the member "error". */
namespace errors
{
inline constexpr std::string_view malformed = "malformed-request";
inline constexpr std::string_view unknownMethod = "unknown-method";
inline constexpr std::string_view invalid = "invalid-parameter";
inline constexpr std::string_view notFound = "not-found";
inline constexpr std::string_view wrongState = "wrong-state";
inline constexpr std::string_view denied = "denied";
inline constexpr std::string_view failed = "failed";
} // namespace errors

/** What a handler throws to answer with an error, and what the client throws
 * when it got one. */
class CallError : public Error
{
  public:
    CallError(std::string_view name, const std::string& message)
        : Error(message), name_(name)
    {}

    const std::string& name() const { return name_; }

  private:
    std::string name_;
};

struct Request
{
    std::string method;
    Json parameters = Json::object();
    bool more = false;
};

/** Reads a message without its NUL. Throws Refused. */
Request parseRequest(std::string_view text);

struct Reply
{
    std::string error; ///< empty: none
    Json parameters = Json::object();
    bool continues = false;
};

/** Reads a message without its NUL. Throws Refused. */
Reply parseReply(std::string_view text);

/** Messages with their NUL. */
std::string write(const Request& request);
std::string write(const Reply& reply);

/** A point in time of the day, to the millisecond. */
using Timestamp = std::chrono::time_point<std::chrono::system_clock,
                                          std::chrono::milliseconds>;

/** "2026-11-21T16:30:05.123Z" */
std::string timeText(Timestamp time);

/** Which daemon is talked about in messages. */
struct Daemon
{
    std::string what;    ///< "the host agent"
    std::string program; ///< "airlock-hostd"
};

} // namespace airlock::control
