#include "common/progress.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>

namespace airlock
{

namespace
{

constexpr auto redrawEvery = std::chrono::milliseconds(100);
constexpr auto printEvery = std::chrono::seconds(30);
constexpr std::size_t barWidth = 24;
constexpr const char* green = "\x1b[32m";
constexpr const char* red = "\x1b[31m";
constexpr const char* plain = "\x1b[0m";
constexpr const char* clearLine = "\r\x1b[K";

std::string bar(double part)
{
    auto filled = static_cast<std::size_t>(part * barWidth);
    return "[" + std::string(filled, '#') +
           std::string(barWidth - filled, '.') + "]";
}

std::string amount(std::uint64_t value, Step::Unit unit)
{
    return unit == Step::Unit::bytes ? formatBytes(value)
                                     : std::to_string(value);
}

} // namespace

ProgressStyle ProgressStyle::detect(std::FILE* out)
{
    ProgressStyle style;
    style.out = out;
    const char* term = std::getenv("TERM");
    style.live = ::isatty(::fileno(out)) == 1 && term != nullptr &&
                 std::string_view(term) != "dumb";
    const char* noColor = std::getenv("NO_COLOR");
    style.color = style.live && (noColor == nullptr || *noColor == '\0');
    winsize size = {};
    if (style.live && ::ioctl(::fileno(out), TIOCGWINSZ, &size) == 0 &&
        size.ws_col > 20)
    {
        style.width = size.ws_col;
    }
    return style;
}

std::string StepCounter::next()
{
    return fmt::format("[{:>{}}/{}]", ++current_, std::to_string(total_).size(),
                       total_);
}

Step::Step(const ProgressStyle& style, std::string title)
    : style_(style), title_(std::move(title))
{
    if (!style_.live)
    {
        fmt::print(style_.out, "{}\n", title_);
        std::fflush(style_.out);
        shown_ = start_;
        return;
    }
    note("");
}

Step::~Step()
{
    if (!over_)
    {
        fail();
    }
}

std::chrono::duration<double> Step::elapsed() const
{
    return Clock::now() - start_;
}

void Step::update(std::uint64_t done, std::uint64_t total, Unit unit)
{
    double part = total == 0 ? 1.0
                             : std::min(1.0, static_cast<double>(done) /
                                                 static_cast<double>(total));
    double seconds = elapsed().count();
    std::string detail = fmt::format("{} {:3.0f}% {}/{}", bar(part), part * 100,
                                     amount(done, unit), amount(total, unit));
    if (done > 0 && seconds > 1)
    {
        double rate = static_cast<double>(done) / seconds;
        detail +=
            unit == Unit::bytes
                ? fmt::format(" {}/s",
                              formatBytes(static_cast<std::uint64_t>(rate)))
                : fmt::format(" {:.1f}/s", rate);
        if (done < total)
        {
            detail += ", " +
                      formatDuration(std::chrono::duration<double>(
                          static_cast<double>(total - done) / rate)) +
                      " left";
        }
    }
    show(detail, static_cast<unsigned>(part * 10));
}

void Step::note(const std::string& text)
{
    std::string detail = formatDuration(elapsed());
    show(text.empty() ? detail : text + ", " + detail, tenth_);
}

void Step::show(const std::string& detail, unsigned tenth)
{
    auto now = Clock::now();
    if (style_.live)
    {
        if (now - shown_ < redrawEvery)
        {
            return;
        }
        std::string line = (title_ + "  " + detail).substr(0, style_.width - 1);
        fmt::print(style_.out, "{}{}", clearLine, line);
    }
    else
    {
        if (tenth == tenth_ && now - shown_ < printEvery)
        {
            return;
        }
        fmt::print(style_.out, "    {}\n", detail);
    }
    std::fflush(style_.out);
    shown_ = now;
    tenth_ = tenth;
}

void Step::done(const std::string& note)
{
    finish("ok", green, note);
}

void Step::fail(const std::string& note)
{
    finish("FAILED", red, note);
}

void Step::finish(const char* mark, const char* color, const std::string& note)
{
    if (over_)
    {
        return;
    }
    over_ = true;
    fmt::print(style_.out, "{}{}  {}{}{}  {}{}{}\n",
               style_.live ? clearLine : "", title_, style_.color ? color : "",
               mark, style_.color ? plain : "", formatDuration(elapsed()),
               note.empty() ? "" : ", ", note);
    std::fflush(style_.out);
}

std::string formatDuration(std::chrono::duration<double> time)
{
    double seconds = time.count();
    if (seconds < 1)
    {
        return fmt::format("{:.0f} ms", seconds * 1000);
    }
    if (seconds < 60)
    {
        return fmt::format("{:.1f} s", seconds);
    }
    auto whole = static_cast<std::uint64_t>(seconds);
    return fmt::format("{} min {:02} s", whole / 60, whole % 60);
}

std::string formatBytes(std::uint64_t bytes)
{
    constexpr std::array<const char*, 5> units = {"B", "KiB", "MiB", "GiB",
                                                  "TiB"};
    auto value = static_cast<double>(bytes);
    std::size_t unit = 0;
    while (value >= 1024 && unit + 1 < units.size())
    {
        value /= 1024;
        ++unit;
    }
    return unit == 0 ? fmt::format("{} B", bytes)
                     : fmt::format("{:.1f} {}", value, units[unit]);
}

} // namespace airlock
