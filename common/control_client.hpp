#pragma once

#include "common/control.hpp"
#include "common/deadline.hpp"
#include "common/fd.hpp"

#include <filesystem>
#include <functional>
#include <string>

namespace airlock::control
{

/** The operator's end: one connection to a daemon. */
class Client
{
  public:
    /** Throws Error saying whether the daemon runs. */
    Client(const std::filesystem::path& path, Daemon daemon,
           Milliseconds timeout = std::chrono::seconds(10));

    /** The reply's parameters. Throws CallError for an error reply, TimedOut
     * when none comes, Refused when it is none, Error when the daemon went
     * away. */
    Json call(const std::string& method, Json parameters = Json::object());

    /** Calls `event` for each reply until it returns false or the daemon says
     * that there are no more. Waits without limit between replies. */
    void follow(const std::string& method,
                const std::function<bool(const Json& parameters)>& event);

  private:
    Reply receive(Milliseconds timeout);

    Daemon daemon_;
    UniqueFd fd_;
    Milliseconds timeout_;
    std::string in_;
};

} // namespace airlock::control
