#include "devmodel/vm/survey.hpp"

#include "common/error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <set>

namespace airlock::vm
{

namespace
{

constexpr std::size_t treeDepthMax = 16;
constexpr std::size_t treeObjectsMax = 20000;

/** Regions that stand for "nothing there": QEMU's own and our machine's. */
constexpr std::array<std::string_view, 4> empty = {"io", "system", "pci",
                                                   "airlock-void"};

std::set<std::string> deviceTypes(QmpCommands& qmp)
{
    Json types = qmp.execute("qom-list-types", {{"implements", "device"}});
    JsonField list(types, "qom-list-types");
    std::set<std::string> out;
    for (std::size_t i = 0; i < list.arraySize(); i++)
    {
        out.insert(list.element(i).at("name").string());
    }
    return out;
}

/** "child<TYPE>" -> TYPE */
std::optional<std::string> childType(const std::string& property)
{
    constexpr std::string_view prefix = "child<";
    if (!property.starts_with(prefix) || !property.ends_with('>'))
    {
        return std::nullopt;
    }
    return property.substr(prefix.size(), property.size() - prefix.size() - 1);
}

/** Walks QEMU's object tree below the machine and counts the devices. */
class DeviceCounter
{
  public:
    explicit DeviceCounter(QmpCommands& qmp)
        : qmp_(qmp), types_(deviceTypes(qmp))
    {}

    std::map<std::string, unsigned> count()
    {
        walk("/machine", 0);
        return std::move(counts_);
    }

  private:
    void walk(const std::string& path, std::size_t depth)
    {
        if (depth > treeDepthMax || ++visited_ > treeObjectsMax)
        {
            throw Refused("qom-list", "the object tree is too large");
        }
        Json properties = qmp_.execute("qom-list", {{"path", path}});
        JsonField list(properties, "qom-list");
        for (std::size_t i = 0; i < list.arraySize(); i++)
        {
            auto type = childType(list.element(i).at("type").string());
            if (!type || *type == "memory-region" || *type == "irq")
            {
                continue;
            }
            counts_[*type] += types_.count(*type) != 0 ? 1U : 0U;
            walk(path + "/" + list.element(i).at("name").string(), depth + 1);
        }
    }

    QmpCommands& qmp_;
    std::set<std::string> types_;
    std::map<std::string, unsigned> counts_;
    std::size_t visited_ = 0;
};

std::optional<std::uint64_t> takeHex(std::string_view& text)
{
    std::uint64_t value = 0;
    auto [end, error] =
        std::from_chars(text.data(), text.data() + text.size(), value, 16);
    if (error != std::errc{})
    {
        return std::nullopt;
    }
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return value;
}

struct FlatLine
{
    AddressRange range;
    std::string type; ///< "i/o", "ram", "rom", "romd", ...
};

/** "  0000000000000061-0000000000000061 (prio 10, i/o): name @offset" */
std::optional<FlatLine> parseFlatLine(std::string_view line)
{
    line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
    FlatLine out;
    auto first = takeHex(line);
    if (!first || !line.starts_with('-'))
    {
        return std::nullopt;
    }
    line.remove_prefix(1);
    auto last = takeHex(line);
    std::size_t comma = line.find(", ");
    std::size_t close = line.find("): ");
    if (!last || !line.starts_with(" (prio ") ||
        comma == std::string_view::npos || close == std::string_view::npos ||
        close < comma)
    {
        return std::nullopt;
    }
    out.range.first = *first;
    out.range.last = *last;
    out.type = line.substr(comma + 2, close - comma - 2);
    std::string_view name = line.substr(close + 3);
    out.range.name = name.substr(0, name.find(" @"));
    return out;
}

bool isDevice(const FlatLine& line)
{
    return (line.type == "i/o" || line.type == "romd") &&
           std::find(empty.begin(), empty.end(), line.range.name) ==
               empty.end();
}

void append(std::vector<AddressRange>& ranges, AddressRange range)
{
    if (!ranges.empty() && ranges.back().name == range.name &&
        ranges.back().last + 1 == range.first)
    {
        ranges.back().last = range.last;
        return;
    }
    ranges.push_back(std::move(range));
}

/** Where the guest (or its firmware) has put the BARs. */
std::vector<AddressRange> barRanges(QmpCommands& qmp, std::string_view kind)
{
    Json buses = qmp.execute("query-pci");
    std::vector<AddressRange> out;
    JsonField list(buses, "query-pci");
    for (std::size_t bus = 0; bus < list.arraySize(); bus++)
    {
        JsonField devices = list.element(bus).at("devices");
        for (std::size_t i = 0; i < devices.arraySize(); i++)
        {
            JsonField regions = devices.element(i).at("regions");
            for (std::size_t r = 0; r < regions.arraySize(); r++)
            {
                JsonField region = regions.element(r);
                std::int64_t address = region.at("address").i64();
                std::uint64_t size = region.at("size").u64();
                if (address < 0 || size == 0 ||
                    region.at("type").string() != kind)
                {
                    continue;
                }
                auto first = static_cast<std::uint64_t>(address);
                out.push_back({first, first + size - 1, ""});
            }
        }
    }
    return out;
}

std::vector<AddressRange> outside(std::vector<AddressRange> ranges,
                                  const std::vector<AddressRange>& bars)
{
    std::erase_if(ranges, [&bars](const AddressRange& range) {
        return std::any_of(
            bars.begin(), bars.end(), [&range](const AddressRange& bar) {
                return range.first >= bar.first && range.last <= bar.last;
            });
    });
    return ranges;
}

std::uint64_t total(const std::vector<AddressRange>& ranges)
{
    std::uint64_t sum = 0;
    for (const AddressRange& range : ranges)
    {
        sum += range.last - range.first + 1;
    }
    return sum;
}

} // namespace

unsigned Survey::deviceCount() const
{
    unsigned sum = 0;
    for (const auto& [type, count] : devices)
    {
        sum += count;
    }
    return sum;
}

std::uint64_t Survey::portCount() const
{
    return total(ports);
}

std::uint64_t Survey::mmioBytes() const
{
    return total(mmio);
}

std::vector<AddressRange> flatRanges(std::string_view text,
                                     std::string_view addressSpace)
{
    std::string heading = " AS \"" + std::string(addressSpace) + "\",";
    bool wanted = false;
    std::vector<AddressRange> out;
    while (!text.empty())
    {
        std::size_t end = std::min(text.find('\n'), text.size());
        std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        if (line.ends_with('\r'))
        {
            line.remove_suffix(1);
        }
        if (line.starts_with("FlatView"))
        {
            wanted = false;
        }
        wanted = wanted || line.starts_with(heading);
        auto parsed = wanted ? parseFlatLine(line) : std::nullopt;
        if (parsed && isDevice(*parsed))
        {
            append(out, std::move(parsed->range));
        }
    }
    return out;
}

Survey survey(QmpCommands& qmp)
{
    Survey out;
    out.devices = DeviceCounter(qmp).count();
    std::erase_if(out.devices, [](const auto& row) { return row.second == 0; });
    Json answer = qmp.execute("human-monitor-command",
                              {{"command-line", "info mtree -f"}});
    std::string tree =
        JsonField(answer, "info mtree").string(std::size_t{4} << 20);
    out.ports = outside(flatRanges(tree, "I/O"), barRanges(qmp, "io"));
    out.mmio = outside(flatRanges(tree, "memory"), barRanges(qmp, "memory"));
    if (out.ports.empty() || out.mmio.empty())
    {
        throw Refused("info mtree", "shows no address space");
    }
    return out;
}

std::string describe(const AddressRange& range)
{
    return range.first == range.last
               ? fmt::format("{:#x}", range.first)
               : fmt::format("{:#x}-{:#x}", range.first, range.last);
}

} // namespace airlock::vm
