#pragma once

#include "bootsrv/boot_runner.hpp"
#include "bootsrv/config.hpp"
#include "bootsrv/job_store.hpp"
#include "bootsrv/metrics.hpp"
#include "common/http_server.hpp"

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

namespace airlock::boot
{

/** A boot server at work: the store, the HTTP server, and one thread for each
 * boot that may go on at a time. */
class BootServer
{
  public:
    /** Throws Error when something of the configuration cannot be used. */
    explicit BootServer(const Config& config);
    /** Ends the boots that go on; their jobs stay `booting` and are queued
     * again by the next process. */
    ~BootServer();

    std::uint16_t port() const { return http_->port(); }
    /** Call it now and then. */
    void housekeeping() { store_.expire(); }

  private:
    void work();
    void runOne(const Work& work);
    JobResult boot(const Work& work);
    void fail(const Work& work, const std::string& code,
              const std::string& message);

    Config config_;
    JobStore store_;
    BootMetrics metrics_;
    std::atomic<bool> stopping_ = false;
    std::optional<http::Server> http_;
    std::optional<StatusServer> status_;
    std::vector<std::jthread> workers_;
};

/** The program airlock-bootd. Returns its exit code: 0, 1 error, 2 usage. */
int runDaemon(int argc, const char* const* argv);

} // namespace airlock::boot
