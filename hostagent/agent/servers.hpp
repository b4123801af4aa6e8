#pragma once

#include "bootsrv/client.hpp"
#include "hostagent/domain/domain_spec.hpp"

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

/** Which boot server gets the next job. Safe to share between threads. */
class ServerPool
{
  public:
    ServerPool(std::vector<ServerSettings> servers,
               std::shared_ptr<const tls::Context> context);

    /** The server with the fewest jobs per weight among those that answer,
     * have room and are not in `avoid` (unless all are). Throws Error saying
     * of each server why it cannot be had. */
    std::string choose(const DomainSettings& domain,
                       const std::set<std::string>& avoid);

    /** A new connection; Error if the pool has no server of this name. */
    boot::Client connect(const std::string& name) const;

    /** Counts the jobs of each server, for choose(). */
    void started(const std::string& name);
    void ended(const std::string& name);

    const std::vector<ServerSettings>& servers() const { return servers_; }

  private:
    std::vector<ServerSettings> servers_;
    std::shared_ptr<const tls::Context> context_;
    mutable std::mutex mutex_;
    std::map<std::string, unsigned> jobs_;
};

} // namespace airlock::host
