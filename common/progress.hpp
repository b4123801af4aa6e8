#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

namespace airlock
{

/** How progress is shown; made from the environment by detect(). */
struct ProgressStyle
{
    std::FILE* out = stderr;
    bool live = false;  ///< redraw one line (a terminal)
    bool color = false; ///< ANSI colours
    std::size_t width = 80;

    /** Live on a terminal that is not "dumb"; colours unless NO_COLOR is
     * set (no-color.org). */
    static ProgressStyle detect(std::FILE* out = stderr);
};

/** Counts the steps of a job for their titles: "[ 3/12]". */
class StepCounter
{
  public:
    explicit StepCounter(unsigned total) : total_(total) {}
    std::string next();

  private:
    unsigned total_;
    unsigned current_ = 0;
};

/** One step of long work, from construction to done() or fail().
 *
 * On a terminal one line is redrawn, at most ten times a second, with a bar,
 * rate and remaining time when the amount of work is known, else with the
 * time passed. Elsewhere there is a line at the start, one for each tenth of
 * the work or each half minute, and one at the end. A step that goes out of
 * scope without done() is shown as failed (an exception passes).
 */
class Step
{
  public:
    enum class Unit
    {
        count, ///< "3/25"
        bytes, ///< "12.0/512.0 MiB"
    };

    Step(const ProgressStyle& style, std::string title);
    Step(const Step&) = delete;
    Step& operator=(const Step&) = delete;
    ~Step();

    /** Work done so far, out of `total`. */
    void update(std::uint64_t done, std::uint64_t total,
                Unit unit = Unit::count);
    /** What is being done, when the amount of work is not known; call it
     * often, it also keeps the clock on the line going. */
    void note(const std::string& text);

    /** Ends the step; the note stands behind the title ("cached", "70 KiB"). */
    void done(const std::string& note = {});
    void fail(const std::string& note = {});

    std::chrono::duration<double> elapsed() const;

  private:
    using Clock = std::chrono::steady_clock;

    void show(const std::string& detail, unsigned tenth);
    void finish(const char* mark, const char* color, const std::string& note);

    ProgressStyle style_;
    std::string title_;
    Clock::time_point start_ = Clock::now();
    Clock::time_point shown_;
    unsigned tenth_ = 0;
    bool over_ = false;
};

/** "12.3 s", "1 min 05 s", "45 ms". */
std::string formatDuration(std::chrono::duration<double> time);
/** "512 B", "70.1 KiB", "1.0 GiB". */
std::string formatBytes(std::uint64_t bytes);

} // namespace airlock
