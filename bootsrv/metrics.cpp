#include "bootsrv/metrics.hpp"

namespace airlock::boot
{

BootMetrics::BootMetrics(JobStore& store, unsigned parallelBoots,
                         const std::string& version)
    : store_(store), version_(version),
      build_(registry_.gauge("airlock_build_info",
                             "Version of this program; always 1.")),
      jobs_(registry_.gauge("airlock_boot_jobs", "Jobs by their state.")),
      jobsLimit_(registry_.gauge("airlock_boot_jobs_limit",
                                 "Jobs that there may be at once.")),
      bootsLimit_(
          registry_.gauge("airlock_boots_limit", "Boots at the same time.")),
      bytes_(registry_.gauge("airlock_boot_bytes",
                             "Disks and memory of all jobs that are not over, "
                             "as the guests see them.")),
      bytesLimit_(registry_.gauge("airlock_boot_bytes_limit",
                                  "The most that these may be.")),
      boots_(registry_.counter("airlock_boots_total",
                               "Boots that ended, by result: done, or the "
                               "code of the failure.")),
      stages_(registry_.histogram("airlock_boot_stage_seconds",
                                  "How long the stages of boots took.",
                                  metrics::stageBuckets())),
      storeCheck_([&store] { store.tryWrite(); })
{
    build_.set({{"version", version}}, 1);
    jobsLimit_.set({}, static_cast<double>(store.quota().jobs));
    bytesLimit_.set({}, static_cast<double>(store.quota().totalBytes));
    bootsLimit_.set({}, parallelBoots);
    boots_.add({{"result", "done"}}, 0);
    registry_.beforeText([this] { update(); });
}

void BootMetrics::update()
{
    auto counts = store_.countByState();
    for (JobState state : {JobState::receiving, JobState::queued,
                           JobState::booting, JobState::done, JobState::failed})
    {
        jobs_.set({{"state", toText(state)}},
                  static_cast<double>(counts[state]));
    }
    bytes_.set({}, static_cast<double>(store_.health().bytes));
}

void BootMetrics::stage(const std::string& stage, double seconds)
{
    stages_.observe({{"stage", stage}}, seconds);
}

void BootMetrics::ended(const std::string& result)
{
    boots_.add({{"result", result}});
}

StatusPage BootMetrics::page(const std::string& path)
{
    return daemonPage(path, registry_, version_, [this] {
        return std::vector<HealthPart>{{"store", storeCheck_.trouble()}};
    });
}

} // namespace airlock::boot
