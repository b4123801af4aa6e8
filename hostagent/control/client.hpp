#pragma once

#include "common/deadline.hpp"
#include "common/fd.hpp"
#include "hostagent/control/protocol.hpp"

#include <filesystem>
#include <functional>
#include <string>

namespace airlock::host::control
{

/** The operator's end: one connection to the host agent. */
class Client
{
  public:
    /** Throws Error saying whether the host agent runs. */
    explicit Client(const std::filesystem::path& path,
                    Milliseconds timeout = std::chrono::seconds(10));

    /** The reply's parameters. Throws CallError for an error reply, TimedOut
     * when none comes, Refused when it is none, Error when the host agent went
     * away. */
    Json call(const std::string& method, Json parameters = Json::object());

    /** Calls `event` for each reply until it returns false or the host agent
     * says that there are no more. Waits without limit between replies. */
    void follow(const std::string& method,
                const std::function<bool(const Json& parameters)>& event);

  private:
    Reply receive(Milliseconds timeout);

    UniqueFd fd_;
    Milliseconds timeout_;
    std::string in_;
};

} // namespace airlock::host::control
