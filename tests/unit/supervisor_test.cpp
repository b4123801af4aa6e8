#include "bootsrv/capsule/pool.hpp"
#include "common/error.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <deque>
#include <mutex>
#include <thread>

// Who starts what after what, with modes that only say how they ended.

namespace airlock::capsule
{
namespace
{

using testing::ElementsAre;
using testing::HasSubstr;
using State = SupervisorStatus::State;

constexpr auto enough = std::chrono::minutes(1);

bool becomes(const std::function<bool()>& what)
{
    for (const Deadline deadline(enough); !deadline.passed();)
    {
        if (what())
        {
            return true;
        }
        std::this_thread::sleep_for(Milliseconds(1));
    }
    return false;
}

/** How the modes of a capsule end, one after the other; the last one is at work
 * until the power goes. */
class Script
{
  public:
    struct Life
    {
        bool starts = true;
        bool hangs = false;  ///< until it is ended
        bool blocks = false; ///< who asks how it is, until release()
        bool dirtyNext = false;
        int code = 0;
    };

    explicit Script(std::deque<Life> lives) : lives_(std::move(lives)) {}

    StartMode starter()
    {
        return [this](bool dirty) { return start(dirty); };
    }
    /** What was started: "clean", "dirty". */
    std::vector<std::string> started() const
    {
        const std::lock_guard lock(mutex_);
        return started_;
    }
    std::size_t count() const { return started().size(); }
    void release() { released_ = true; }
    /** Modes whose object is there. */
    int alive() const { return alive_; }

  private:
    class Mode : public ModeAtWork
    {
      public:
        Mode(Life life, Script& script) : life_(life), script_(script)
        {
            script_.alive_++;
        }
        ~Mode() override { script_.alive_--; }
        bool ended(Milliseconds) override
        {
            do
            {
                std::this_thread::sleep_for(Milliseconds(1));
            } while (life_.blocks && !script_.released_);
            return !life_.hangs;
        }
        ModeEnd finish(Milliseconds) override
        {
            return {.timedOut = life_.hangs,
                    .status = {.code = life_.code},
                    .dirtyNext = life_.dirtyNext,
                    .console = "last words"};
        }

      private:
        Life life_;
        Script& script_;
    };

    std::unique_ptr<ModeAtWork> start(bool dirty)
    {
        const std::lock_guard lock(mutex_);
        started_.emplace_back(dirty ? "dirty" : "clean");
        Life life{.hangs = true};
        if (!lives_.empty())
        {
            life = lives_.front();
            lives_.pop_front();
        }
        if (!life.starts)
        {
            throw Error("there is no tap device");
        }
        return std::make_unique<Mode>(life, *this);
    }

    mutable std::mutex mutex_;
    std::deque<Life> lives_;
    std::vector<std::string> started_;
    std::atomic<int> alive_ = 0;
    std::atomic<bool> released_ = false;
};

constexpr Script::Life asks{.dirtyNext = true};
constexpr Script::Life ends{};
constexpr Script::Life crashes{.code = 1};
constexpr Script::Life hangs{.hangs = true};
constexpr Script::Life blocks{.blocks = true};
constexpr Script::Life noStart{.starts = false};

SupervisorLimits quick()
{
    SupervisorLimits out;
    out.pause = Milliseconds(0);
    return out;
}

/** run() in a thread. */
class AtWork
{
  public:
    AtWork(Script& script, SupervisorLimits limits)
        : supervisor("one", script.starter(), limits),
          thread_([this](const std::stop_token& stop) { supervisor.run(stop); })
    {}

    Supervisor supervisor;

  private:
    std::jthread thread_;
};

TEST(SupervisorTest, CleanDirtyCleanForEachJob)
{
    Script script({asks, ends, asks, ends});
    const AtWork work(script, quick());
    ASSERT_TRUE(becomes([&] { return script.count() == 5; }));
    EXPECT_THAT(script.started(),
                ElementsAre("clean", "dirty", "clean", "dirty", "clean"));
    ASSERT_TRUE(becomes([&] {
        return work.supervisor.status().state == State::clean &&
               work.supervisor.status().starts == 5;
    }));
    EXPECT_EQ(work.supervisor.status().runs, 2U);
    EXPECT_EQ(work.supervisor.status().failures, 0U);
    EXPECT_THAT(work.supervisor.status().reason, HasSubstr("dirty mode ended"));
}

TEST(SupervisorTest, DirtyModeIsEndedAndNotAskedWhatComesNext)
{
    // It says that it wants to be dirty again.
    Script script({asks, {.hangs = true, .dirtyNext = true}});
    SupervisorLimits limits = quick();
    limits.dirty = std::chrono::seconds(0);
    const AtWork work(script, limits);
    ASSERT_TRUE(becomes([&] { return script.count() == 3; }));
    EXPECT_THAT(script.started(), ElementsAre("clean", "dirty", "clean"));
    EXPECT_EQ(work.supervisor.status().reason, "dirty mode took too long");
    EXPECT_EQ(work.supervisor.status().failures, 0U);
}

TEST(SupervisorTest, CleanModeThatHangsIsEnded)
{
    Script script({hangs});
    SupervisorLimits limits = quick();
    limits.clean = std::chrono::seconds(0);
    limits.longestPause = std::chrono::hours(1);
    limits.pause = std::chrono::hours(1);
    const AtWork work(script, limits);
    ASSERT_TRUE(becomes([&] {
        return work.supervisor.status().state == State::waiting &&
               work.supervisor.status().failures == 1;
    }));
    EXPECT_EQ(work.supervisor.status().reason, "clean mode took too long");
}

TEST(SupervisorTest, WhatFailsIsCountedUntilItWorks)
{
    Script script({crashes, noStart, ends, asks, hangs});
    std::vector<std::uint64_t> failures;
    std::mutex mutex;
    Supervisor supervisor("one", script.starter(), quick(),
                          [&](const SupervisorStatus& status) {
                              const std::lock_guard lock(mutex);
                              failures.push_back(status.failures);
                          });
    std::jthread thread(
        [&](const std::stop_token& stop) { supervisor.run(stop); });
    ASSERT_TRUE(becomes([&] { return supervisor.status().runs == 1; }));
    thread.request_stop();
    thread.join();
    EXPECT_THAT(script.started(),
                ElementsAre("clean", "clean", "clean", "clean", "dirty"));
    EXPECT_EQ(*std::max_element(failures.begin(), failures.end()), 3U);
    EXPECT_EQ(failures.back(), 0U);
}

TEST(SupervisorTest, ReasonOfAFailureIsKept)
{
    Script script({noStart});
    SupervisorLimits limits;
    limits.pause = std::chrono::hours(1);
    limits.longestPause = std::chrono::hours(1);
    const AtWork work(script, limits);
    ASSERT_TRUE(
        becomes([&] { return work.supervisor.status().failures == 1; }));
    EXPECT_EQ(work.supervisor.status().reason, "there is no tap device");
    EXPECT_EQ(work.supervisor.status().starts, 0U);
    const Json json = work.supervisor.status().toJson();
    EXPECT_EQ(json.at("state"), "waiting");
    EXPECT_THAT(json.at("since").get<std::string>(), HasSubstr("T"));
}

TEST(SupervisorTest, PauseGrowsToItsLimit)
{
    SupervisorLimits limits;
    limits.pause = std::chrono::seconds(10);
    limits.longestPause = std::chrono::seconds(60);
    EXPECT_EQ(pauseAfter(limits, 1), std::chrono::seconds(10));
    EXPECT_EQ(pauseAfter(limits, 2), std::chrono::seconds(20));
    EXPECT_EQ(pauseAfter(limits, 3), std::chrono::seconds(40));
    EXPECT_EQ(pauseAfter(limits, 4), std::chrono::seconds(60));
    EXPECT_EQ(pauseAfter(limits, 1000000), std::chrono::seconds(60));
}

TEST(SupervisorTest, StopPullsThePlug)
{
    Script script({});
    {
        const AtWork work(script, quick());
        ASSERT_TRUE(becomes([&] { return script.alive() == 1; }));
    }
    EXPECT_EQ(script.alive(), 0);
}

TEST(PoolTest, OneThatFailsIsNoneOfTheOthersBusiness)
{
    Script broken(std::deque<Script::Life>(1000, noStart));
    Script stays({});
    Script busy({asks, ends, asks, ends, asks, ends});
    std::atomic<int> news = 0;
    {
        std::vector<Pool::Member> members;
        members.push_back({"broken", "tap0", broken.starter(), quick()});
        members.push_back({"stays", "tap1", stays.starter(), quick()});
        members.push_back({"busy", "tap2", busy.starter(), quick()});
        const Pool pool(std::move(members), [&](const Json&) { news++; });
        ASSERT_TRUE(
            becomes([&] { return busy.count() == 7 && broken.count() > 10; }));
        EXPECT_EQ(stays.count(), 1U);
        const Json status = pool.status().at("capsules");
        ASSERT_EQ(status.size(), 3U);
        EXPECT_EQ(status[0].at("name"), "broken");
        EXPECT_GE(status[0].at("failures").get<int>(), 10);
        EXPECT_EQ(status[1].at("tap"), "tap1");
        EXPECT_EQ(status[1].at("starts"), 1);
        EXPECT_EQ(status[1].at("state"), "clean");
        EXPECT_EQ(status[2].at("runs"), 3);
        EXPECT_FALSE(status[2].contains("stuck"));
    }
    EXPECT_EQ(stays.alive() + busy.alive() + broken.alive(), 0);
    EXPECT_GT(news, 0);
}

TEST(PoolTest, OneThatCannotBeEndedIsShown)
{
    Script script({blocks});
    std::vector<Pool::Member> members;
    members.push_back({"blocks", "tap0", script.starter(), quick()});
    const Pool pool(std::move(members), {}, Milliseconds(200));
    const auto stuck = [&] {
        return pool.status().at("capsules")[0].contains("stuck");
    };
    EXPECT_TRUE(becomes(stuck));
    script.release();
    EXPECT_TRUE(becomes([&] { return !stuck(); }));
}

} // namespace
} // namespace airlock::capsule
