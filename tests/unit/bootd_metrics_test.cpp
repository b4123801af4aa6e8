#include "boot_request.hpp"
#include "bootsrv/metrics.hpp"
#include "common/file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace airlock::boot
{
namespace
{

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(BootdMetrics, JobsAndBootsAreCounted)
{
    TempDirectory directory;
    Quota quota;
    quota.jobs = 9;
    quota.totalBytes = 1ULL << 30;
    JobStore store(directory.path() / "state", quota);
    BootMetrics metrics(store, 3, "1.2");
    store.create("host1", test::smallRequest());
    metrics.stage("boot", 42);
    metrics.ended("done");
    metrics.ended("timeout");
    StatusPage page = metrics.page("/metrics");
    EXPECT_EQ(page.status, 200U);
    EXPECT_THAT(
        page.body,
        AllOf(HasSubstr("\nairlock_build_info{version=\"1.2\"} 1\n"),
              HasSubstr("\nairlock_boot_jobs{state=\"receiving\"} 1\n"),
              HasSubstr("\nairlock_boot_jobs{state=\"booting\"} 0\n"),
              HasSubstr("\nairlock_boot_jobs_limit 9\n"),
              HasSubstr("\nairlock_boots_limit 3\n"),
              HasSubstr("\nairlock_boot_bytes 68157440\n"),
              HasSubstr("\nairlock_boot_bytes_limit 1073741824\n"),
              HasSubstr("\nairlock_boots_total{result=\"done\"} 1\n"),
              HasSubstr("\nairlock_boots_total{result=\"timeout\"} 1\n"),
              HasSubstr("\nairlock_boot_stage_seconds_bucket{stage=\"boot\","
                        "le=\"60\"} 1\n")));
}

TEST(BootdMetrics, HealthSaysWhatIsWrong)
{
    TempDirectory directory;
    JobStore store(directory.path() / "state", {});
    {
        BootMetrics metrics(store, 3, "1.2");
        EXPECT_EQ(metrics.page("/health").status, 200U);
        EXPECT_EQ(metrics.page("/v1/jobs").status, 404U);
    }
    std::filesystem::remove_all(directory.path() / "state");
    BootMetrics metrics(store, 3, "1.2");
    StatusPage page = metrics.page("/health");
    EXPECT_EQ(page.status, 503U);
    EXPECT_EQ(parseJson(page.body, "health")["store"], false);
}

} // namespace
} // namespace airlock::boot
