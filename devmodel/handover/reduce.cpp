#include "devmodel/handover/reduce.hpp"

#include "devmodel/catalog/catalog.hpp"
#include "devmodel/handover/stream.hpp"

#include <numeric>

namespace airlock::handover
{

namespace
{

void sortInto(Reduced& out, Section section)
{
    std::size_t bytes = section.payload.size();
    if (isBookkeeping(section.id))
    {
        out.dropped.push_back(
            {std::move(section.id), "migration bookkeeping", "", bytes});
        return;
    }
    const catalog::Device* device = catalog::findBySection(section.id.idstr);
    if (device == nullptr)
    {
        throw Refused(label(section.id),
                      "section is of no device in the catalog");
    }
    if (device->deviceClass == catalog::DeviceClass::Required)
    {
        out.kept.push_back(std::move(section));
        return;
    }
    out.dropped.push_back({std::move(section.id),
                           std::string(toString(device->deviceClass)),
                           std::string(device->id), bytes});
}

} // namespace

std::size_t Reduced::keptBytes() const
{
    return std::accumulate(kept.begin(), kept.end(), std::size_t{0},
                           [](std::size_t sum, const Section& section) {
                               return sum + section.payload.size();
                           });
}

std::size_t Reduced::droppedBytes() const
{
    return std::accumulate(dropped.begin(), dropped.end(), std::size_t{0},
                           [](std::size_t sum, const DroppedSection& section) {
                               return sum + section.bytes;
                           });
}

bool isBookkeeping(const SectionId& id)
{
    return id.idstr == "globalstate" || id.idstr == "slirp";
}

Reduced reduce(std::vector<Section> sections)
{
    refuseDuplicates(sections);
    Reduced out;
    for (Section& section : sections)
    {
        sortInto(out, std::move(section));
    }
    return out;
}

} // namespace airlock::handover
