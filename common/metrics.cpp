#include "common/metrics.hpp"

#include "common/error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace airlock::metrics
{

namespace
{

constexpr std::string_view letters =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";

bool isName(std::string_view text)
{
    std::size_t other = text.find_first_not_of(letters);
    return !text.empty() && other != 0 &&
           text.find_first_not_of(std::string(letters) + "0123456789") ==
               std::string_view::npos;
}

std::string escaped(std::string_view text, bool quotes)
{
    std::string out;
    for (char c : text)
    {
        if (c == '\\')
        {
            out += "\\\\";
        }
        else if (c == '\n')
        {
            out += "\\n";
        }
        else if (c == '"' && quotes)
        {
            out += "\\\"";
        }
        else
        {
            out += c;
        }
    }
    return out;
}

/** `a="1",b="2"`, which also is what tells series apart. */
std::string labelText(const Labels& labels)
{
    std::string out;
    for (const auto& [name, value] : labels)
    {
        out += fmt::format("{}{}=\"{}\"", out.empty() ? "" : ",", name,
                           escaped(value, true));
    }
    return out;
}

std::string number(double value)
{
    if (std::isnan(value))
    {
        return "NaN";
    }
    if (std::isinf(value))
    {
        return value > 0 ? "+Inf" : "-Inf";
    }
    return fmt::format("{}", value);
}

std::string line(const std::string& name, const std::string& labels,
                 double value)
{
    return fmt::format("{}{} {}\n", name,
                       labels.empty() ? "" : "{" + labels + "}", number(value));
}

} // namespace

const std::vector<double>& stageBuckets()
{
    static const std::vector<double> bounds = {0.1, 0.25, 0.5, 1,   2.5, 5,  10,
                                               20,  30,   60,  120, 300, 600};
    return bounds;
}

/** One name with all its series. */
class Family
{
  public:
    Family(std::string name, std::string help, std::string_view type,
           std::vector<double> bounds)
        : name_(std::move(name)), help_(std::move(help)), type_(type),
          bounds_(std::move(bounds))
    {}

    const std::string& name() const { return name_; }

    void add(const Labels& labels, double amount)
    {
        std::lock_guard lock(mutex_);
        if (Series* series = find(labels); series != nullptr && amount > 0)
        {
            series->value += amount;
        }
    }

    void set(const Labels& labels, double value)
    {
        std::lock_guard lock(mutex_);
        if (Series* series = find(labels))
        {
            series->value = value;
        }
    }

    void observe(const Labels& labels, double value)
    {
        std::lock_guard lock(mutex_);
        Series* series = find(labels);
        if (series == nullptr || std::isnan(value))
        {
            return;
        }
        series->value += value;
        series->counts.resize(bounds_.size() + 1);
        auto bound = std::lower_bound(bounds_.begin(), bounds_.end(), value);
        series->counts[static_cast<std::size_t>(bound - bounds_.begin())]++;
    }

    void clear()
    {
        std::lock_guard lock(mutex_);
        series_.clear();
    }

    std::string text() const
    {
        std::lock_guard lock(mutex_);
        std::string out = fmt::format("# HELP {} {}\n# TYPE {} {}\n", name_,
                                      escaped(help_, false), name_, type_);
        for (const auto& [labels, series] : series_)
        {
            out += bounds_.empty() ? line(name_, labels, series.value)
                                   : histogramText(labels, series);
        }
        return out;
    }

  private:
    struct Series
    {
        double value = 0;                  ///< of a histogram: the sum
        std::vector<std::uint64_t> counts; ///< by bucket, not cumulative
    };

    /** Nothing when there are too many. */
    Series* find(const Labels& labels)
    {
        std::string key = labelText(labels);
        auto found = series_.find(key);
        if (found != series_.end())
        {
            return &found->second;
        }
        return series_.size() < Registry::maxSeries ? &series_[key] : nullptr;
    }

    std::string histogramText(const std::string& labels,
                              const Series& series) const
    {
        std::string out;
        std::string before = labels.empty() ? "" : labels + ",";
        double sum = 0;
        for (std::size_t i = 0; i < series.counts.size(); i++)
        {
            sum += static_cast<double>(series.counts[i]);
            std::string bound =
                i < bounds_.size() ? number(bounds_[i]) : "+Inf";
            out += line(name_ + "_bucket",
                        fmt::format("{}le=\"{}\"", before, bound), sum);
        }
        return out + line(name_ + "_sum", labels, series.value) +
               line(name_ + "_count", labels, sum);
    }

    std::string name_;
    std::string help_;
    std::string_view type_;
    std::vector<double> bounds_; ///< empty: no histogram
    mutable std::mutex mutex_;
    std::map<std::string, Series> series_; ///< by the text of their labels
};

void Counter::add(const Labels& labels, double amount)
{
    family_->add(labels, amount);
}

void Gauge::set(const Labels& labels, double value)
{
    family_->set(labels, value);
}

void Gauge::clear()
{
    family_->clear();
}

void Histogram::observe(const Labels& labels, double value)
{
    family_->observe(labels, value);
}

Registry::Registry() = default;
Registry::~Registry() = default;

Family& Registry::add(const std::string& name, const std::string& help,
                      std::string_view type, std::vector<double> bounds)
{
    bool used =
        std::any_of(families_.begin(), families_.end(),
                    [&](const auto& family) { return family->name() == name; });
    if (used || !isName(name))
    {
        throw Error("no metric can have the name " + name);
    }
    families_.push_back(
        std::make_unique<Family>(name, help, type, std::move(bounds)));
    return *families_.back();
}

Counter Registry::counter(const std::string& name, const std::string& help)
{
    return Counter(add(name, help, "counter", {}));
}

Gauge Registry::gauge(const std::string& name, const std::string& help)
{
    return Gauge(add(name, help, "gauge", {}));
}

Histogram Registry::histogram(const std::string& name, const std::string& help,
                              std::vector<double> bounds)
{
    return Histogram(add(name, help, "histogram", std::move(bounds)));
}

void Registry::beforeText(std::function<void()> update)
{
    updates_.push_back(std::move(update));
}

std::string Registry::text()
{
    std::lock_guard lock(updating_);
    for (const auto& update : updates_)
    {
        update();
    }
    std::string out;
    for (const auto& family : families_)
    {
        out += family->text();
    }
    return out;
}

} // namespace airlock::metrics
