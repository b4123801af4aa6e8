#pragma once

#include "common/fd.hpp"
#include "common/json.hpp"

#include <cstdint>
#include <filesystem>
#include <mutex>

namespace airlock::sw
{

/** Passes events that an operator should see on to airlock-switch-alert, each
 * as a datagram: who runs commands and calls web servers is not who can open
 * ports.
 *
 * Never waits: what nobody takes is counted, and the next one that gets through
 * says how many were lost. */
class AlertSocket
{
  public:
    static constexpr std::size_t maxMessage = 8192;

    /** `path`: of the socket that somebody reads, now or later; empty: none. */
    explicit AlertSocket(std::filesystem::path path);

    /** From any thread. Events of less than a warning are left out. */
    void pass(const Json& event);

  private:
    /** An errno, 0 when it was taken. */
    int send(const std::string& message) const;

    std::filesystem::path path_;
    UniqueFd fd_;
    std::mutex mutex_;
    std::uint64_t lost_ = 0;
    int lastError_ = 0; ///< of the last one that was lost
};

} // namespace airlock::sw
