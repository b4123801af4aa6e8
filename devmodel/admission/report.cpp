#include "devmodel/admission/report.hpp"

#include "common/error.hpp"
#include "common/json.hpp"

#include <limits>

namespace airlock::admission
{

namespace
{

constexpr const char* where = "admission's report";
constexpr std::size_t sectionsMax = 4096;
constexpr std::size_t textMax = 1024;
constexpr std::uint64_t u32Max = std::numeric_limits<std::uint32_t>::max();

Json toJson(const handover::SectionId& id)
{
    return {
        {"name", id.idstr}, {"instance", id.instance}, {"version", id.version}};
}

handover::SectionId parseId(const JsonField& field)
{
    handover::SectionId id;
    id.idstr = field.at("name").string(textMax);
    id.instance = static_cast<std::uint32_t>(field.at("instance").u64(u32Max));
    id.version = static_cast<std::uint32_t>(field.at("version").u64(u32Max));
    return id;
}

handover::DroppedSection parseDropped(const JsonField& field)
{
    handover::DroppedSection out;
    out.id = parseId(field);
    out.why = field.at("why").string(textMax);
    out.device = field.at("device").string(textMax);
    out.bytes = field.at("bytes").u64();
    return out;
}

} // namespace

std::string writeReport(const Admitted& admitted)
{
    Json kept = Json::array();
    for (const handover::SectionId& id : admitted.kept)
    {
        kept.push_back(toJson(id));
    }
    Json dropped = Json::array();
    for (const handover::DroppedSection& section : admitted.dropped)
    {
        Json entry = toJson(section.id);
        entry["why"] = section.why;
        entry["device"] = section.device;
        entry["bytes"] = section.bytes;
        dropped.push_back(std::move(entry));
    }
    return dumpJson({{"kept", kept}, {"dropped", dropped}});
}

std::string writeReport(const Refused& refused)
{
    return dumpJson(
        {{"refused",
          {{"where", refused.where()}, {"reason", refused.reason()}}}});
}

Admitted readReport(std::string_view text)
{
    Json json = parseJson(text, where);
    JsonField report(json, where);
    if (auto refused = report.find("refused"))
    {
        throw Refused(plainText(refused->at("where").string(), textMax),
                      plainText(refused->at("reason").string(), textMax));
    }
    Admitted out;
    JsonField kept = report.at("kept");
    for (std::size_t i = 0; i < kept.arraySize(sectionsMax); i++)
    {
        out.kept.push_back(parseId(kept.element(i)));
    }
    JsonField dropped = report.at("dropped");
    for (std::size_t i = 0; i < dropped.arraySize(sectionsMax); i++)
    {
        out.dropped.push_back(parseDropped(dropped.element(i)));
    }
    return out;
}

} // namespace airlock::admission
