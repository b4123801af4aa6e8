#include "common/error.hpp"
#include "common/metrics.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <thread>

namespace airlock::metrics
{
namespace
{

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(Metrics, AreWrittenAsPrometheusReadsThem)
{
    Registry registry;
    Counter reboots = registry.counter("airlock_reboots_total", "Reboots.");
    Gauge connected = registry.gauge("airlock_connected", "Connected.");
    registry.gauge("airlock_nothing", "Has no series.");
    reboots.add({{"domain", "web1"}, {"result", "done"}});
    reboots.add({{"domain", "web1"}, {"result", "done"}}, 2);
    reboots.add({{"domain", "db1"}, {"result", "held"}});
    connected.set({}, 1);
    EXPECT_EQ(registry.text(),
              "# HELP airlock_reboots_total Reboots.\n"
              "# TYPE airlock_reboots_total counter\n"
              "airlock_reboots_total{domain=\"db1\",result=\"held\"} 1\n"
              "airlock_reboots_total{domain=\"web1\",result=\"done\"} 3\n"
              "# HELP airlock_connected Connected.\n"
              "# TYPE airlock_connected gauge\n"
              "airlock_connected 1\n"
              "# HELP airlock_nothing Has no series.\n"
              "# TYPE airlock_nothing gauge\n");
}

TEST(Metrics, TextsFromOutsideAreEscaped)
{
    Registry registry;
    Gauge gauge = registry.gauge("g", "Back\\slash and\nline \"quoted\".");
    gauge.set({{"domain", "a\"b\\c\nd"}}, 1);
    EXPECT_EQ(registry.text(), "# HELP g Back\\\\slash and\\nline \"quoted\".\n"
                               "# TYPE g gauge\n"
                               "g{domain=\"a\\\"b\\\\c\\nd\"} 1\n");
    // No label can end its line and begin a series of its own.
    gauge.clear();
    gauge.set({{"domain", "\"} 7\ng{domain=\"x"}}, 1);
    EXPECT_THAT(registry.text(), Not(HasSubstr("\ng{domain=\"x\"}")));
    EXPECT_THAT(registry.text(),
                EndsWith("\ng{domain=\"\\\"} 7\\ng{domain=\\\"x\"} 1\n"));
}

TEST(Metrics, HistogramsAreCumulative)
{
    Registry registry;
    Histogram times = registry.histogram("t_seconds", "Times.", {0.5, 2, 10});
    // A bound belongs to its bucket.
    for (double value : {0.1, 0.5, 1.0, 3.0, 3.5, 99.0})
    {
        times.observe({{"stage", "boot"}}, value);
    }
    EXPECT_EQ(registry.text(),
              "# HELP t_seconds Times.\n"
              "# TYPE t_seconds histogram\n"
              "t_seconds_bucket{stage=\"boot\",le=\"0.5\"} 2\n"
              "t_seconds_bucket{stage=\"boot\",le=\"2\"} 3\n"
              "t_seconds_bucket{stage=\"boot\",le=\"10\"} 5\n"
              "t_seconds_bucket{stage=\"boot\",le=\"+Inf\"} 6\n"
              "t_seconds_sum{stage=\"boot\"} 107.1\n"
              "t_seconds_count{stage=\"boot\"} 6\n");
}

TEST(Metrics, HistogramsWithoutLabels)
{
    Registry registry;
    registry.histogram("t", "T.", {1}).observe({}, 2);
    EXPECT_THAT(registry.text(), HasSubstr("\nt_bucket{le=\"1\"} 0\n"
                                           "t_bucket{le=\"+Inf\"} 1\n"
                                           "t_sum 2\nt_count 1\n"));
}

TEST(Metrics, NumbersAreWrittenInFull)
{
    Registry registry;
    Gauge gauge = registry.gauge("g", "G.");
    auto text = [&](double value) {
        gauge.set({}, value);
        std::string all = registry.text();
        return all.substr(all.rfind(' ') + 1);
    };
    EXPECT_EQ(text(1795278605.25), "1795278605.25\n");
    EXPECT_EQ(text(0), "0\n");
    EXPECT_EQ(text(-0.001), "-0.001\n");
    EXPECT_EQ(text(1099511627776), "1099511627776\n");
    EXPECT_EQ(text(std::numeric_limits<double>::infinity()), "+Inf\n");
    EXPECT_EQ(text(-std::numeric_limits<double>::infinity()), "-Inf\n");
    EXPECT_EQ(text(std::nan("")), "NaN\n");
}

TEST(Metrics, CountersOnlyGrow)
{
    Registry registry;
    Counter counter = registry.counter("c_total", "C.");
    counter.add({}, 0);
    EXPECT_THAT(registry.text(), EndsWith("\nc_total 0\n"));
    counter.add({}, 2);
    counter.add({}, -1);
    counter.add({}, std::nan(""));
    EXPECT_THAT(registry.text(), EndsWith("\nc_total 2\n"));
}

TEST(Metrics, NamesAreCheckedAndUsedOnce)
{
    Registry registry;
    registry.counter("airlock_x_total", "X.");
    for (const char* name :
         {"airlock_x_total", "", "9lives", "a-b", "a b", "a\nb", "a{b"})
    {
        EXPECT_THROW(registry.gauge(name, "?"), Error) << name;
    }
}

TEST(Metrics, GaugesAreLookedUpWhenTheyAreAskedFor)
{
    Registry registry;
    Gauge gauge = registry.gauge("g", "G.");
    int asked = 0;
    registry.beforeText([&] {
        gauge.clear();
        gauge.set({{"n", std::to_string(++asked)}}, 1);
    });
    EXPECT_EQ(asked, 0);
    EXPECT_THAT(registry.text(), EndsWith("\ng{n=\"1\"} 1\n"));
    EXPECT_THAT(registry.text(), EndsWith("gauge\ng{n=\"2\"} 1\n"));
    registry.beforeText([] { throw Error("the store is gone"); });
    EXPECT_THROW(registry.text(), Error);
}

TEST(Metrics, AFamilyCannotFillTheMemory)
{
    Registry registry;
    Counter counter = registry.counter("c_total", "C.");
    for (std::size_t i = 0; i < Registry::maxSeries + 10; i++)
    {
        counter.add({{"n", std::to_string(i)}});
    }
    counter.add({{"n", "0"}});
    std::string text = registry.text();
    EXPECT_EQ(
        static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')),
        Registry::maxSeries + 2);
    EXPECT_THAT(text, HasSubstr("c_total{n=\"0\"} 2\n"));
}

TEST(Metrics, AreCountedFromSeveralThreads)
{
    Registry registry;
    Counter counter = registry.counter("c_total", "C.");
    Histogram histogram = registry.histogram("h", "H.", stageBuckets());
    {
        std::vector<std::jthread> threads;
        for (int i = 0; i < 4; i++)
        {
            threads.emplace_back([&] {
                for (int n = 0; n < 1000; n++)
                {
                    counter.add({{"a", "b"}});
                    histogram.observe({}, 0.2);
                    if (n % 100 == 0)
                    {
                        registry.text();
                    }
                }
            });
        }
    }
    EXPECT_THAT(registry.text(), HasSubstr("c_total{a=\"b\"} 4000\n"));
    EXPECT_THAT(registry.text(), HasSubstr("h_count 4000\n"));
}

TEST(Metrics, StageBucketsAscend)
{
    const std::vector<double>& bounds = stageBuckets();
    EXPECT_TRUE(std::is_sorted(bounds.begin(), bounds.end()));
    EXPECT_EQ(bounds.front(), 0.1);
    EXPECT_EQ(bounds.back(), 600);
}

} // namespace
} // namespace airlock::metrics
