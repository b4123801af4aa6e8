#include "tools/airlock-bundle/report.hpp"

#include "common/table.hpp"
#include "devmodel/catalog/catalog.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace airlock::bundletool
{

using namespace handover;
using Align = Table::Align;

namespace
{

constexpr std::size_t kFieldsShown = 20;
constexpr std::size_t kValueShown = 40;

/** Class and id in the catalog, as the reducer will see it. */
struct Classified
{
    std::string deviceClass;
    std::string device;
};

Classified classify(const SectionId& id)
{
    if (isBookkeeping(id))
    {
        return {"bookkeeping", ""};
    }
    const catalog::Device* device = catalog::findBySection(id.idstr);
    if (device == nullptr)
    {
        return {"unknown", ""};
    }
    return {std::string(toString(device->deviceClass)),
            std::string(device->id)};
}

Json blockJson(const RamBlock& block)
{
    const catalog::Device* device = catalog::findByMemoryBlock(block.name);
    return {{"name", block.name},
            {"bytes", block.size},
            {"pages", block.pages},
            {"zero_pages", block.zeroPages},
            {"device", device != nullptr ? Json(device->id) : Json()}};
}

std::string blocksText(const RamSummary& ram)
{
    Table table({{"memory block"},
                 {"bytes", Align::right},
                 {"pages", Align::right},
                 {"zero pages", Align::right}});
    for (const RamBlock& block : ram.blocks)
    {
        table.row({block.name, fmt::to_string(block.size),
                   fmt::to_string(block.pages),
                   fmt::to_string(block.zeroPages)});
    }
    return table.empty() ? "" : "\n" + table.render();
}

/** The part of a value that a table has room for: from `from` on. */
std::string excerpt(const std::string& value, std::size_t from)
{
    if (value.empty())
    {
        return "-";
    }
    std::string text = value.substr(from, kValueShown);
    return from + text.size() < value.size() ? text + "..." : text;
}

/** Long values are cut to where they begin to differ. */
std::vector<std::string> fieldRow(const FieldDifference& field)
{
    std::size_t from = 0;
    std::string path = field.path;
    if (std::max(field.a.size(), field.b.size()) > kValueShown)
    {
        auto differ = std::mismatch(field.a.begin(), field.a.end(),
                                    field.b.begin(), field.b.end());
        // Values are "0x" and two digits per byte.
        auto same = static_cast<std::size_t>(differ.first - field.a.begin());
        from = same & ~std::size_t{1};
        path += from < 2 ? "" : fmt::format(" from byte {}", from / 2 - 1);
    }
    return {path, excerpt(field.a, std::min(from, field.a.size())),
            excerpt(field.b, std::min(from, field.b.size()))};
}

std::string fieldsText(const std::vector<FieldDifference>& fields)
{
    Table table({{"field"}, {"A"}, {"B"}});
    for (std::size_t i = 0; i < std::min(fields.size(), kFieldsShown); ++i)
    {
        table.row(fieldRow(fields[i]));
    }
    std::string text = table.empty() ? "" : table.render(4);
    if (fields.size() > kFieldsShown)
    {
        text += fmt::format("    and {} more\n", fields.size() - kFieldsShown);
    }
    return text;
}

} // namespace

Json inspectJson(const StateFile& file)
{
    Json sections = Json::array();
    for (const Section& section : file.sections)
    {
        Classified what = classify(section.id);
        sections.push_back({{"name", section.id.idstr},
                            {"instance", section.id.instance},
                            {"version", section.id.version},
                            {"bytes", section.payload.size()},
                            {"class", what.deviceClass},
                            {"device", what.device}});
    }
    Json blocks = Json::array();
    for (const RamBlock& block : file.ram.blocks)
    {
        blocks.push_back(blockJson(block));
    }
    return {{"machine", file.machine},
            {"form", file.production ? "production" : "boot"},
            {"sections", sections},
            {"memory_blocks", blocks}};
}

std::string inspectText(const StateFile& file)
{
    Table table({{"section"},
                 {"version", Align::right},
                 {"bytes", Align::right},
                 {"class"},
                 {"device"}});
    std::size_t total = 0;
    for (const Section& section : file.sections)
    {
        Classified what = classify(section.id);
        total += section.payload.size();
        table.row({label(section.id), fmt::to_string(section.id.version),
                   fmt::to_string(section.payload.size()), what.deviceClass,
                   what.device});
    }
    return fmt::format("machine {}, {} form, {} sections, {} bytes of state\n",
                       file.machine, file.production ? "production" : "boot",
                       file.sections.size(), total) +
           table.render() + blocksText(file.ram);
}

Json reduceJson(const Reduced& reduced, std::size_t bytesWritten)
{
    Json kept = Json::array();
    for (const Section& section : reduced.kept)
    {
        kept.push_back({{"section", label(section.id)},
                        {"bytes", section.payload.size()}});
    }
    Json dropped = Json::array();
    for (const DroppedSection& section : reduced.dropped)
    {
        dropped.push_back({{"section", label(section.id)},
                           {"bytes", section.bytes},
                           {"why", section.why},
                           {"device", section.device}});
    }
    return {{"kept", kept}, {"dropped", dropped}, {"written", bytesWritten}};
}

std::string reduceText(const Reduced& reduced, std::size_t bytesWritten)
{
    Table table(
        {{"dropped section"}, {"bytes", Align::right}, {"why"}, {"device"}});
    for (const DroppedSection& section : reduced.dropped)
    {
        table.row({label(section.id), fmt::to_string(section.bytes),
                   section.why, section.device});
    }
    return table.render() +
           fmt::format("kept {} sections with {} bytes, dropped {} with {}; "
                       "wrote {} bytes, not yet admitted\n",
                       reduced.kept.size(), reduced.keptBytes(),
                       reduced.dropped.size(), reduced.droppedBytes(),
                       bytesWritten);
}

Json diffJson(const Differences& differences)
{
    Json sections = Json::array();
    for (const SectionDifference& section : differences.sections)
    {
        Json fields = Json::array();
        for (const FieldDifference& field : section.fields)
        {
            fields.push_back(
                {{"field", field.path}, {"a", field.a}, {"b", field.b}});
        }
        sections.push_back({{"section", section.section},
                            {"what", section.what},
                            {"fields", fields}});
    }
    return {{"equal", differences.none()},
            {"machine_differs", differences.machine},
            {"order_differs", differences.order},
            {"sections", sections}};
}

std::string diffText(const Differences& differences)
{
    std::string text;
    if (differences.machine)
    {
        text += "the machine names differ\n";
    }
    if (differences.order)
    {
        text += "the sections come in another order\n";
    }
    for (const SectionDifference& section : differences.sections)
    {
        text += section.section + ": " + section.what + "\n" +
                fieldsText(section.fields);
    }
    return differences.none() ? "no differences\n" : text;
}

} // namespace airlock::bundletool
