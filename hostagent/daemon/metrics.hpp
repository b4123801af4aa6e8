#pragma once

#include "common/metrics.hpp"
#include "common/status_server.hpp"
#include "hostagent/agent/cycle.hpp"

#include <functional>
#include <map>
#include <mutex>
#include <string>

namespace airlock::host
{

/** The host agent's figures and health; they are listed in airlock-hostd(8).
 *
 * What is counted while it happens comes through changed() and alerted(), what
 * is so and so at a moment is looked up when it is asked for. */
class HostMetrics
{
  public:
    /** `connected`: whether libvirt is. All have to outlive it. */
    HostMetrics(Store& store, const ServerPool& servers,
                std::function<bool()> connected);

    /** A VM changed its state, or something beside it. From any thread; never
     * fails. */
    void changed(const VmRecord& now);
    void alerted(const Alert& alert);

    /** /metrics and /health. */
    StatusPage page(const std::string& path);
    metrics::Registry& registry() { return registry_; }

  private:
    void update();
    /** `job`: the first word of the result of the job that ended, if any. */
    void ended(const VmRecord& before, const VmRecord& now,
               const std::string& job);
    std::string observeJob(const std::string& id);

    Store& store_;
    const ServerPool& servers_;
    std::function<bool()> connected_;
    metrics::Registry registry_;
    metrics::Gauge build_;
    metrics::Gauge connectedGauge_;
    metrics::Gauge state_;
    metrics::Gauge since_;
    metrics::Counter reboots_;
    metrics::Counter jobs_;
    metrics::Counter alerts_;
    metrics::Histogram stages_;
    metrics::Histogram steps_;
    metrics::Gauge serverUp_;
    metrics::Gauge serverJobs_;

    std::mutex mutex_;
    std::map<std::string, VmRecord> last_; ///< by UUID
    HealthCheck storeCheck_;
};

} // namespace airlock::host
