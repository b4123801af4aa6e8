#pragma once

#include "tools/airlock-bundle/state_file.hpp"

#include <string>
#include <vector>

namespace airlock::bundletool
{

/** A value that differs; an empty side does not have the field. */
struct FieldDifference
{
    std::string path;
    std::string a;
    std::string b;
};

struct SectionDifference
{
    std::string section; ///< "cpu/1"
    std::string what;    ///< "only in A", "only in B", "version", "contents"
    std::vector<FieldDifference> fields; ///< for "contents"
};

struct Differences
{
    bool machine = false; ///< the machine names differ
    bool order = false;   ///< sections that both have come in another order
    std::vector<SectionDifference> sections;

    bool none() const { return !machine && !order && sections.empty(); }
};

/** Compares two device states; fields get the best names that fit both. */
Differences compare(const StateFile& a, const StateFile& b);

} // namespace airlock::bundletool
