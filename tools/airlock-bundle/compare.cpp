#include "tools/airlock-bundle/compare.hpp"

#include <algorithm>
#include <map>
#include <utility>

namespace airlock::bundletool
{

using namespace handover;

namespace
{

constexpr std::size_t kNone = ~std::size_t{0};

std::size_t indexOf(const StateFile& file, const SectionId& id)
{
    auto found = std::find_if(
        file.sections.begin(), file.sections.end(),
        [&](const Section& section) { return section.id.sameDevice(id); });
    return found == file.sections.end()
               ? kNone
               : static_cast<std::size_t>(found - file.sections.begin());
}

bool samePaths(const std::vector<Leaf>& a, const std::vector<Leaf>& b)
{
    return std::equal(
        a.begin(), a.end(), b.begin(), b.end(),
        [](const Leaf& x, const Leaf& y) { return x.path == y.path; });
}

/** For lists of fields that do not run in step, as when one has a subsection
 * that the other lacks. */
std::vector<FieldDifference> matchByPath(const std::vector<Leaf>& a,
                                         const std::vector<Leaf>& b)
{
    std::map<std::string, std::pair<std::string, std::string>> values;
    for (const Leaf& leaf : a)
    {
        values[leaf.path].first = leaf.value;
    }
    for (const Leaf& leaf : b)
    {
        values[leaf.path].second = leaf.value;
    }
    std::vector<FieldDifference> out;
    for (auto& [path, sides] : values)
    {
        if (sides.first != sides.second)
        {
            out.push_back({path, sides.first, sides.second});
        }
    }
    return out;
}

std::vector<FieldDifference> matchFields(const std::vector<Leaf>& a,
                                         const std::vector<Leaf>& b)
{
    if (!samePaths(a, b))
    {
        return matchByPath(a, b);
    }
    std::vector<FieldDifference> out;
    for (std::size_t i = 0; i < a.size(); ++i)
    {
        if (a[i].value != b[i].value)
        {
            out.push_back({a[i].path, a[i].value, b[i].value});
        }
    }
    return out;
}

std::vector<FieldDifference> compareFields(const StateFile& a, std::size_t inA,
                                           const StateFile& b, std::size_t inB)
{
    for (Naming naming : {Naming::Schema, Naming::Description})
    {
        auto fieldsA = fieldsOf(a, inA, naming);
        auto fieldsB = fieldsOf(b, inB, naming);
        if (fieldsA && fieldsB)
        {
            return matchFields(*fieldsA, *fieldsB);
        }
    }
    return matchFields(*fieldsOf(a, inA, Naming::Payload),
                       *fieldsOf(b, inB, Naming::Payload));
}

void compareSection(Differences& out, const StateFile& a, std::size_t inA,
                    const StateFile& b, std::size_t inB)
{
    const Section& left = a.sections[inA];
    const Section& right = b.sections[inB];
    if (left.id.version != right.id.version)
    {
        out.sections.push_back({label(left.id), "version", {}});
    }
    if (left.payload != right.payload)
    {
        out.sections.push_back(
            {label(left.id), "contents", compareFields(a, inA, b, inB)});
    }
}

} // namespace

Differences compare(const StateFile& a, const StateFile& b)
{
    Differences out;
    out.machine = a.machine != b.machine;
    std::size_t before = 0;
    for (std::size_t i = 0; i < a.sections.size(); ++i)
    {
        std::size_t other = indexOf(b, a.sections[i].id);
        if (other == kNone)
        {
            out.sections.push_back({label(a.sections[i].id), "only in A", {}});
            continue;
        }
        out.order = out.order || other < before;
        before = other;
        compareSection(out, a, i, b, other);
    }
    for (const Section& section : b.sections)
    {
        if (indexOf(a, section.id) == kNone)
        {
            out.sections.push_back({label(section.id), "only in B", {}});
        }
    }
    return out;
}

} // namespace airlock::bundletool
