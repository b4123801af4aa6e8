#pragma once

#include "bootsrv/job_store.hpp"
#include "common/metrics.hpp"
#include "common/status_server.hpp"

#include <string>

namespace airlock::boot
{

/** A boot server's figures and health; they are listed in airlock-bootd(8). */
class BootMetrics
{
  public:
    /** The store has to outlive it. */
    BootMetrics(JobStore& store, unsigned parallelBoots,
                const std::string& version);

    /** A stage of a boot is over. From any thread. */
    void stage(const std::string& stage, double seconds);
    /** A boot is over: "done", or the code of its failure. */
    void ended(const std::string& result);

    /** /metrics and /health. */
    StatusPage page(const std::string& path);

  private:
    void update();

    JobStore& store_;
    std::string version_;
    metrics::Registry registry_;
    metrics::Gauge build_;
    metrics::Gauge jobs_;
    metrics::Gauge jobsLimit_;
    metrics::Gauge bootsLimit_;
    metrics::Gauge bytes_;
    metrics::Gauge bytesLimit_;
    metrics::Counter boots_;
    metrics::Histogram stages_;
    HealthCheck storeCheck_;
};

} // namespace airlock::boot
