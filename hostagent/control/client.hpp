#pragma once

#include "common/control_client.hpp"
#include "hostagent/control/protocol.hpp"

namespace airlock::host::control
{

/** The operator's end: one connection to the host agent. */
class Client : public airlock::control::Client
{
  public:
    explicit Client(const std::filesystem::path& path,
                    Milliseconds timeout = std::chrono::seconds(10))
        : airlock::control::Client(path, {"the host agent", "airlock-hostd"},
                                   timeout)
    {}
};

} // namespace airlock::host::control
