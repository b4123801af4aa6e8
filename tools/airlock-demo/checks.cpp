#include "checks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace airlock::demo
{

namespace
{

constexpr const char* source = "airlock-probe";
constexpr std::size_t detailMax = 100;

JsonField field(const Json& report, std::string_view key)
{
    return JsonField(report, source).at(key);
}

std::vector<std::uint64_t> timers(const Json& report)
{
    JsonField list = field(report, "timers");
    std::vector<std::uint64_t> out;
    for (std::size_t i = 0; i < list.arraySize(1024); i++)
    {
        out.push_back(list.element(i).u64());
    }
    return out;
}

std::string firstOf(const JsonField& list)
{
    return list.arraySize() == 0
               ? "none"
               : printable(list.element(0).string(), detailMax);
}

} // namespace

void Checks::add(std::string name, bool ok, std::string detail)
{
    checks_.push_back({std::move(name), ok, std::move(detail)});
}

void Checks::addTimers(const std::string& life, const Json& before,
                       const Json& after, unsigned vcpus)
{
    std::vector<std::uint64_t> first = timers(before);
    std::vector<std::uint64_t> second = timers(after);
    bool ok = first.size() == vcpus && second.size() == vcpus;
    std::string detail;
    for (std::size_t i = 0; ok && i < vcpus; i++)
    {
        ok = second[i] > first[i];
        detail += fmt::format("{}+{}", i == 0 ? "" : ", ",
                              second[i] - std::min(first[i], second[i]));
    }
    add(life + ": every vCPU takes timer interrupts", ok,
        ok ? detail : fmt::format("{} of {} vCPUs", second.size(), vcpus));
}

void Checks::addLife(const std::string& life, const Json& first,
                     const Json& second, unsigned vcpus)
{
    std::string boot = field(first, "boot_id").string();
    add(life + ": the same boot goes on",
        field(second, "boot_id").string() == boot,
        "boot id " + printable(boot.substr(0, 8)));

    double before = field(first, "uptime").number();
    double after = field(second, "uptime").number();
    add(life + ": uptime goes on", before < after,
        fmt::format("{:.1f} s, {:.1f} s", before, after));

    addTimers(life, first, second, vcpus);

    std::string system = field(second, "system").string();
    add(life + ": systemd says running", system == "running",
        printable(system) +
            ", failed units: " + firstOf(field(second, "failed_units")));

    JsonField trouble = field(second, "trouble");
    add(life + ": no oops, warning or I/O error in dmesg",
        trouble.arraySize() == 0, firstOf(trouble));
}

void Checks::addMarkers(const Json& expected, const Json& report)
{
    JsonField markers = field(report, "markers");
    for (const auto& [name, digest] : expected.items())
    {
        auto found = markers.find(name);
        std::string seen = found ? found->string() : "missing";
        add("file " + name + " is there, unchanged", seen == digest,
            "sha256 " + printable(seen.substr(0, 12)));
    }
}

bool Checks::allHeld() const
{
    return std::all_of(checks_.begin(), checks_.end(),
                       [](const Check& check) { return check.ok; });
}

Json Checks::toJson() const
{
    Json out = Json::array();
    for (const Check& check : checks_)
    {
        out.push_back({{"check", check.name},
                       {"held", check.ok},
                       {"seen", check.detail}});
    }
    return out;
}

} // namespace airlock::demo
