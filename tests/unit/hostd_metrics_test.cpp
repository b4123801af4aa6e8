#include "common/file.hpp"
#include "hostagent/daemon/metrics.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace airlock::host
{
namespace
{

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* anna = "00000000-0000-4000-8000-00000000000a";

/** A store, a pool of one server, and a VM that has been trapped once. */
class HostdMetrics : public ::testing::Test
{
  protected:
    HostdMetrics()
    {
        store.ensureVm(anna, "an\"na");
        metrics.emplace(store, pool, [this] { return connected; });
    }

    /** As the agent does it. */
    void enter(State to, const Change& change = {})
    {
        metrics->changed(
            store.transition(anna, store.vm(anna)->state, to, change));
    }

    void begin(const std::string& job)
    {
        Change change;
        change.jobId = job;
        change.bootServer = "boot1";
        change.openJob = JobRecord{};
        change.openJob->id = job;
        change.openJob->uuid = anna;
        change.openJob->server = "boot1";
        enter(State::exporting, change);
    }

    Change end(const std::string& result)
    {
        Change change;
        change.jobId = "";
        change.closeJob = JobEnd{store.vm(anna)->jobId,
                                 result,
                                 {{"exporting", 2},
                                  {"boot", 25},
                                  {"a word of its own", 7},
                                  {"hand-over: load", 0.05}}};
        return change;
    }

    std::string text() { return metrics->page("/metrics").body; }

    std::int64_t seconds = 1000;
    bool connected = true;
    TempDirectory directory;
    Store store{directory.path() / "state.db",
                [this] { return Timestamp(std::chrono::seconds(seconds)); }};
    ServerPool pool{{{"boot1", {"h", 1, "r"}, 1}}, nullptr};
    std::optional<HostMetrics> metrics;
};

TEST_F(HostdMetrics, AVmIsInOneState)
{
    EXPECT_THAT(
        text(),
        AllOf(HasSubstr(
                  "\nairlock_vm_state{domain=\"an\\\"na\",state=\"running\"} "
                  "1\n"),
              HasSubstr("{domain=\"an\\\"na\",state=\"held\"} 0\n"),
              HasSubstr("\nairlock_vm_state_since_seconds{domain=\"an\\\"na\"} "
                        "1000\n"),
              HasSubstr("\nairlock_build_info{version=\"0."),
              HasSubstr("\nairlock_alerts_total{what=\"held\"} 0\n")));
    enter(State::held);
    EXPECT_THAT(text(), AllOf(HasSubstr("state=\"running\"} 0\n"),
                              HasSubstr("state=\"held\"} 1\n")));
    store.forgetVm(anna);
    EXPECT_THAT(text(), Not(HasSubstr("airlock_vm_state{")));
}

TEST_F(HostdMetrics, ARebootIsCountedWithItsStages)
{
    enter(State::trapped);
    seconds += 1;
    begin("j1");
    EXPECT_THAT(text(),
                HasSubstr("airlock_boot_server_jobs{server=\"boot1\"} 1\n"));
    seconds += 3;
    enter(State::booting);
    seconds += 40;
    enter(State::returning);
    enter(State::admitting);
    enter(State::applying);
    seconds += 2;
    enter(State::running, end("done"));
    seconds += 100000;
    EXPECT_THAT(
        text(),
        AllOf(HasSubstr("airlock_reboots_total{domain=\"an\\\"na\",result="
                        "\"done\"} 1\n"),
              HasSubstr("airlock_stage_seconds_sum{stage=\"exporting\"} 3\n"),
              HasSubstr("airlock_stage_seconds_bucket{stage=\"booting\",le="
                        "\"30\"} 0\n"),
              HasSubstr("airlock_stage_seconds_bucket{stage=\"booting\",le="
                        "\"60\"} 1\n"),
              HasSubstr("airlock_stage_seconds_count{stage=\"applying\"} 1\n"),
              Not(HasSubstr("stage=\"running\"")),
              HasSubstr("airlock_step_seconds_sum{stage=\"booting\",step="
                        "\"boot\"} 25\n"),
              HasSubstr("airlock_step_seconds_sum{stage=\"booting\",step="
                        "\"other\"} 7\n"),
              HasSubstr("airlock_step_seconds_sum{stage=\"admitting\",step="
                        "\"load\"} 0.05\n"),
              Not(HasSubstr("step=\"exporting\"")),
              HasSubstr("airlock_jobs_total{server=\"boot1\",result=\"done\"} "
                        "1\n"),
              HasSubstr("airlock_boot_server_jobs{server=\"boot1\"} 0\n")));
}

TEST_F(HostdMetrics, FailuresAreCounted)
{
    enter(State::trapped);
    begin("j1");
    enter(State::retrying, end("failed: the guest did not come up"));
    begin("j2");
    enter(State::held, end("failed"));
    metrics->alerted({anna, "an\"na", "held", "why"});
    EXPECT_THAT(
        text(),
        AllOf(HasSubstr("airlock_jobs_total{server=\"boot1\",result="
                        "\"failed\"} 2\n"),
              HasSubstr("airlock_reboots_total{domain=\"an\\\"na\",result="
                        "\"held\"} 1\n"),
              HasSubstr("airlock_alerts_total{what=\"held\"} 1\n")));
    enter(State::trapped);
    Change again;
    again.generation = 7;
    enter(State::trapped, again);
    EXPECT_THAT(text(), HasSubstr("result=\"abandoned\"} 1\n"));
}

TEST_F(HostdMetrics, AGuestThatSomebodyElseResumedIsNoReboot)
{
    enter(State::trapped);
    begin("j1");
    enter(State::booting);
    enter(State::running, end("abandoned"));
    EXPECT_THAT(text(),
                AllOf(HasSubstr("airlock_reboots_total{domain=\"an\\\"na\","
                                "result=\"abandoned\"} 1\n"),
                      Not(HasSubstr("airlock_reboots_total{domain=\"an\\\"na\","
                                    "result=\"done\"}"))));
}

TEST_F(HostdMetrics, AServerThatWasNotAskedYetIsLeftOut)
{
    EXPECT_THAT(text(), Not(HasSubstr("airlock_boot_server_up{")));
    EXPECT_THROW(pool.choose({}, {}), Error);
    EXPECT_THAT(text(),
                HasSubstr("airlock_boot_server_up{server=\"boot1\"} 0\n"));
}

TEST_F(HostdMetrics, HealthSaysWhatIsWrong)
{
    StatusPage page = metrics->page("/health");
    EXPECT_EQ(page.status, 200U);
    EXPECT_EQ(page.type, "application/json");
    EXPECT_EQ(parseJson(page.body, "health")["status"], "ok");
    connected = false;
    page = metrics->page("/health");
    EXPECT_EQ(page.status, 503U);
    Json json = parseJson(page.body, "health");
    EXPECT_EQ(json["libvirt"], false);
    EXPECT_EQ(json["store"], true);
    EXPECT_EQ(json["reasons"][0], "libvirt is not connected");
    EXPECT_THAT(text(), HasSubstr("\nairlock_libvirt_connected 0\n"));
    EXPECT_EQ(metrics->page("/").status, 404U);
}

} // namespace
} // namespace airlock::host
