#pragma once

#include "common/json.hpp"

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

/** Two ways to the same end, measured one after the other, again and again, so
 * that what else the machine does falls on both. */
namespace airlock::bench
{

/** Seconds of one round. */
struct Pair
{
    double baseline = 0;
    double ours = 0;
};

/** Baseline divided by ours: how many times faster ours is. */
struct Ratio
{
    double mean = 0; ///< geometric, over the pairs
    double low = 0;  ///< 95 % confidence interval (Student's t on logarithms)
    double high = 0;
};

/** Throws Error with fewer than two pairs. */
Ratio speedUp(const std::vector<Pair>& pairs);

/** Measures `rounds` pairs; every other round takes ours first. Prints each
 * round to stdout. */
std::vector<Pair> measurePairs(unsigned rounds,
                               const std::function<double()>& baseline,
                               const std::function<double()>& ours);

/** {"pairs": [...], "ratio": ..., "low": ..., "high": ...} */
Json toJson(const std::vector<Pair>& pairs, const Ratio& ratio);

/** Every bench takes these. */
struct Options
{
    unsigned rounds = 5;
    std::optional<std::string> json;
};

/** Parses the command line; runs `bench` and writes what it returns. The
 * process's exit status. */
int benchMain(int argc, char** argv, const std::string& description,
              const std::function<Json(const Options&)>& bench);

} // namespace airlock::bench
