#pragma once

#include "common/deadline.hpp"
#include "common/metrics.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace airlock
{

/** A check that costs something, done at most once in a while however often
 * somebody asks. Safe to share between threads. */
class HealthCheck
{
  public:
    /** `check` throws Error when something is wrong. */
    explicit HealthCheck(std::function<void()> check,
                         Milliseconds every = std::chrono::seconds(5))
        : check_(std::move(check)), every_(every)
    {}

    /** What was wrong when it was done last; empty: nothing. */
    std::string trouble();

  private:
    std::function<void()> check_;
    Milliseconds every_;
    std::mutex mutex_;
    std::optional<Deadline> fresh_;
    std::string trouble_;
};

/** What a path answers. */
struct StatusPage
{
    unsigned status = 200;
    std::string type = "text/plain; charset=utf-8";
    std::string body;
};

/** A part of a daemon whose health is looked at. */
struct HealthPart
{
    std::string name;    ///< member of /health: "store"
    std::string trouble; ///< what is wrong; empty: nothing
};

/** The pages of a daemon: /metrics, and /health, which is 503 while a part is
 * in trouble. */
StatusPage daemonPage(const std::string& path, metrics::Registry& registry,
                      const std::string& version,
                      const std::function<std::vector<HealthPart>()>& health);

/** A small HTTP server for monitoring: GET and HEAD of a few pages, without
 * TLS, one answer for each connection. Bind it to loopback or a Unix socket:
 * who can connect can read.
 *
 * Runs in a thread of its own from construction to destruction. Peers can make
 * it hold no more than a few kilobytes each, for a few seconds.
 */
class StatusServer
{
  public:
    /** The page for a path without its query; Error and others become 500. */
    using Handler = std::function<StatusPage(const std::string& path)>;

    struct Limits
    {
        std::size_t connections = 32;
        Milliseconds time = std::chrono::seconds(10); ///< of a connection
    };

    /** `listen` is "127.0.0.1:9557", "[::1]:9557" or an absolute path (mode
     * 0660; a socket that nobody listens at any more is replaced). Throws Error
     * when it cannot listen there. */
    StatusServer(const std::string& listen, Handler handler,
                 const Limits& limits);
    StatusServer(const std::string& listen, Handler handler);
    StatusServer(const StatusServer&) = delete;
    StatusServer& operator=(const StatusServer&) = delete;
    ~StatusServer();

    /** 0 for a Unix socket. */
    std::uint16_t port() const;

  private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace airlock
