#pragma once

#include <csignal>
#include <stop_token>
#include <thread>

namespace airlock
{

/** SIGTERM and SIGINT as a stop token. They are taken by a thread that waits
 * for them and are blocked in all others: make this before any other thread. */
class StopSignals
{
  public:
    StopSignals();
    StopSignals(const StopSignals&) = delete;
    StopSignals& operator=(const StopSignals&) = delete;
    ~StopSignals();

    std::stop_token token() const { return source_.get_token(); }

  private:
    sigset_t set_{};
    std::stop_source source_;
    std::thread thread_;
};

} // namespace airlock
