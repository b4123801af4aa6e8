#include "report.hpp"

#include "common/table.hpp"
#include "devmodel/catalog/catalog.hpp"
#include "tools/rigs/job_stages.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

namespace airlock::demo
{

namespace
{

constexpr std::size_t indent = 2;
constexpr std::size_t rangesShown = 64;
constexpr std::size_t purposeWidth = 34; ///< a table line has 80 columns

std::string shorten(std::string_view text, std::size_t width)
{
    return text.size() <= width
               ? std::string(text)
               : std::string(text.substr(0, width - 3)) + "...";
}

std::string seconds(double value)
{
    return fmt::format("{:.3f} s", value);
}

/** Devices of this row of the catalog. */
unsigned countOf(const vm::Survey& survey, const catalog::Device& row)
{
    unsigned sum = 0;
    for (const auto& [type, number] : survey.devices)
    {
        sum += catalog::findByType(type) == &row ? number : 0;
    }
    return sum;
}

/** Rows of the catalog that the machine has devices of. */
std::uint64_t modelCount(const vm::Survey& survey)
{
    auto has = [&survey](const catalog::Device& row) {
        return countOf(survey, row) > 0;
    };
    return static_cast<std::uint64_t>(
        std::ranges::count_if(catalog::devices(), has));
}

/** Devices of both machines as rows of the catalog. */
std::string deviceTable(const Outcome& outcome)
{
    Table table({{"device"},
                 {"class"},
                 {"before", Table::Align::right},
                 {"after", Table::Align::right},
                 {"purpose"}});
    for (const catalog::Device& row : catalog::devices())
    {
        unsigned before = countOf(outcome.full, row);
        unsigned after = countOf(outcome.stripped, row);
        if (before + after > 0)
        {
            table.row({std::string(row.id),
                       std::string(catalog::toString(row.deviceClass)),
                       std::to_string(before),
                       after == 0 ? "-" : std::to_string(after),
                       shorten(row.purpose, purposeWidth)});
        }
    }
    return table.render(indent);
}

std::string rangeTable(const std::string& title,
                       const std::vector<vm::AddressRange>& before,
                       const std::vector<vm::AddressRange>& after)
{
    std::map<std::string, std::string> left;
    std::set<std::string> seen;
    for (const vm::AddressRange& range : after)
    {
        left[vm::describe(range)] = range.name;
    }
    Table table({{title}, {"before"}, {"after"}});
    for (const vm::AddressRange& range : before)
    {
        std::string key = vm::describe(range);
        seen.insert(key);
        if (seen.size() <= rangesShown)
        {
            table.row(
                {key, range.name, left.count(key) != 0 ? left.at(key) : "-"});
        }
    }
    for (const auto& [key, name] : left)
    {
        if (seen.count(key) == 0)
        {
            table.row({key, "-", name});
        }
    }
    return table.render(indent);
}

std::string summaryTable(const Outcome& outcome)
{
    const Json& moved = outcome.lives.back().job.at("figures");
    auto kept = moved.at("sections-kept").get<std::uint64_t>();
    auto dropped = moved.at("sections-dropped").get<std::uint64_t>();
    Table table({{"what the guest can reach"},
                 {"before", Table::Align::right},
                 {"after", Table::Align::right}});
    auto row = [&table](const char* what, std::uint64_t before,
                        std::uint64_t after) {
        table.row({what, std::to_string(before), std::to_string(after)});
    };
    row("device models (catalog)", modelCount(outcome.full),
        modelCount(outcome.stripped));
    row("devices (QOM)", outcome.full.deviceCount(),
        outcome.stripped.deviceCount());
    row("savevm sections", kept + dropped, kept);
    row("I/O ports, without BARs", outcome.full.portCount(),
        outcome.stripped.portCount());
    row("I/O port ranges", outcome.full.ports.size(),
        outcome.stripped.ports.size());
    row("MMIO ranges, without BARs", outcome.full.mmio.size(),
        outcome.stripped.mmio.size());
    return table.render(indent);
}

std::string stepTable(const Outcome& outcome)
{
    Table table({{"step"}, {"time", Table::Align::right}});
    for (const StepTime& step : outcome.steps)
    {
        table.row({step.name, seconds(step.seconds)});
    }
    return table.render(indent);
}

} // namespace

std::string jobTable(const std::vector<Json>& jobs)
{
    std::vector<Table::Column> columns = {{"stage"}};
    for (std::size_t i = 0; i < jobs.size(); i++)
    {
        columns.push_back(
            {"boot " + std::to_string(i + 1), Table::Align::right});
    }
    Table table(columns);
    for (const rig::JobStage& stage : rig::jobStages)
    {
        std::vector<std::string> cells = {std::string(2 * stage.depth, ' ') +
                                          stage.name};
        for (const Json& job : jobs)
        {
            auto time = rig::secondsOf(job, stage);
            cells.push_back(time ? seconds(*time) : "-");
        }
        table.row(std::move(cells));
    }
    return table.render(indent);
}

std::string checkTable(const Checks& checks)
{
    Table table({{"held"}, {"check"}, {"seen"}});
    for (const Check& check : checks.list())
    {
        table.row({check.ok ? "yes" : "NO", check.name, check.detail});
    }
    return table.render(indent);
}

std::string render(const Outcome& outcome)
{
    std::string out = "\nDevices: before (full machine, booting), after "
                      "(stripped machine, living)\n\n";
    out += deviceTable(outcome) + "\n";
    out += rangeTable("I/O ports", outcome.full.ports, outcome.stripped.ports) +
           "\n";
    out += rangeTable("MMIO", outcome.full.mmio, outcome.stripped.mmio) + "\n";
    out += summaryTable(outcome) + "\nTime of each step\n\n";
    out += stepTable(outcome) + "\nTime of each stage of the boots\n\n";
    std::vector<Json> jobs;
    for (const Life& life : outcome.lives)
    {
        jobs.push_back(life.job);
    }
    out += jobTable(jobs) + "\nWhat was seen\n\n";
    out += checkTable(outcome.checks);
    return out;
}

} // namespace airlock::demo
