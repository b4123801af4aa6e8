#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/** Figures of a daemon for Prometheus (text exposition format 0.0.4).
 *
 * Names are airlock_…, units are seconds and bytes. Counters and histograms
 * begin at zero with each process, which Prometheus expects.
 */
namespace airlock::metrics
{

/** The content type of Registry::text(). */
inline constexpr const char* contentType =
    "text/plain; version=0.0.4; charset=utf-8";

/** Names and values, in the order in which they are printed. Values may be any
 * text; names are [a-zA-Z_][a-zA-Z0-9_]*. */
using Labels = std::vector<std::pair<std::string_view, std::string>>;

/** Upper bounds in seconds that fit what happens in a reboot: 0.1 to 600. */
const std::vector<double>& stageBuckets();

class Family;

/** Only grows. */
class Counter
{
  public:
    explicit Counter(Family& family) : family_(&family) {}
    /** A negative amount is ignored. With 0 the series is there from now on. */
    void add(const Labels& labels, double amount = 1);

  private:
    Family* family_;
};

/** Goes up and down. */
class Gauge
{
  public:
    explicit Gauge(Family& family) : family_(&family) {}
    void set(const Labels& labels, double value);
    /** Forgets all series, before those that there are now are set. */
    void clear();

  private:
    Family* family_;
};

/** Counts by size. */
class Histogram
{
  public:
    explicit Histogram(Family& family) : family_(&family) {}
    void observe(const Labels& labels, double value);

  private:
    Family* family_;
};

/** All figures of a process. Safe to use from several threads; the handles
 * live as long as the registry. */
class Registry
{
  public:
    /** A family has at most so many series, so that labels from outside cannot
     * fill the memory; what comes later is dropped. */
    static constexpr std::size_t maxSeries = 10000;

    Registry();
    Registry(const Registry&) = delete;
    Registry& operator=(const Registry&) = delete;
    ~Registry();

    /** Throws Error for a name that is used already or is none. */
    Counter counter(const std::string& name, const std::string& help);
    Gauge gauge(const std::string& name, const std::string& help);
    /** Bounds ascend; +Inf is added. */
    Histogram histogram(const std::string& name, const std::string& help,
                        std::vector<double> bounds);

    /** Called before each text(), to set gauges that are looked up. May throw:
     * then text() throws. Add them before other threads call text(). */
    void beforeText(std::function<void()> update);

    /** Everything, families in the order in which they were added. */
    std::string text();

  private:
    Family& add(const std::string& name, const std::string& help,
                std::string_view type, std::vector<double> bounds);

    std::mutex updating_; ///< one text() at a time
    std::vector<std::function<void()>> updates_;
    std::vector<std::unique_ptr<Family>> families_;
};

} // namespace airlock::metrics
