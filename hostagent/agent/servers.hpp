#pragma once

#include "bootsrv/client.hpp"
#include "hostagent/domain/domain_spec.hpp"

#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace airlock::host
{

/** A boot server of the pool. */
struct ServerSettings
{
    std::string name; ///< in logs, the store, weights of domains
    http::Endpoint endpoint;
    unsigned weight = 1; ///< 0: only for domains that name it
};

/** What a boot server was like when it was asked last. */
struct ServerState
{
    bool up = false;
    std::string why;                     ///< it is not up
    std::uint64_t jobs = 0, jobsMax = 0; ///< of all hosts
};

/** Which boot server gets the next job. Safe to share between threads. */
class ServerPool
{
  public:
    ServerPool(std::vector<ServerSettings> servers,
               std::shared_ptr<const tls::Context> context);

    /** The server with the fewest jobs per weight among those that answer and
     * have room. Those that did not answer when they were asked last come
     * after the others, and those in `avoid` after the rest of their kind.
     * The job counts from now on, until ended(): many who choose at once get
     * different servers. Throws Error saying of each server why it cannot be
     * had. */
    std::string choose(const DomainSettings& domain,
                       const std::set<std::string>& avoid);

    /** A new connection; Refused if the pool has no server of this name. */
    boot::Client connect(const std::string& name,
                         const http::ClientLimits& limits = {}) const;

    /** A job of a server that choose() was not asked for: one from before a
     * restart. */
    void started(const std::string& name);
    void ended(const std::string& name);

    /** Told of a server that came or went, by look() or choose(), in their
     * thread. Set it before other threads use the pool. */
    using OnChange =
        std::function<void(const std::string& name, const ServerState&)>;
    void onChange(OnChange told) { onChange_ = std::move(told); }

    /** Asks all of them how they are, one after the other; some seconds for
     * each that is cut off. */
    void look();
    /** As look() and choose() saw them; missing: not asked yet. */
    std::map<std::string, ServerState> states() const;

    const std::vector<ServerSettings>& servers() const { return servers_; }

  private:
    const ServerSettings* take(const DomainSettings& domain,
                               const std::set<std::string>& avoid,
                               const std::set<std::string>& tried);
    ServerState ask(const ServerSettings& server);
    void note(const std::string& name, const ServerState& now);

    std::vector<ServerSettings> servers_;
    std::shared_ptr<const tls::Context> context_;
    OnChange onChange_;
    mutable std::mutex mutex_;
    std::map<std::string, unsigned> jobs_;
    std::map<std::string, ServerState> states_;
};

} // namespace airlock::host
