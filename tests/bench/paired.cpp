#include "paired.hpp"

#include "common/error.hpp"
#include "common/file.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <exception>

namespace airlock::bench
{

namespace
{

/** The 97.5 % quantile of Student's t for 1, 2... degrees of freedom. */
constexpr std::array<double, 30> quantiles = {
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201,  2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080,  2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042};

double quantile(std::size_t freedom)
{
    return quantiles.at(std::min(freedom, quantiles.size()) - 1);
}

} // namespace

Ratio speedUp(const std::vector<Pair>& pairs)
{
    if (pairs.size() < 2)
    {
        throw Error("a ratio takes at least two pairs of runs");
    }
    auto count = static_cast<double>(pairs.size());
    double sum = 0;
    for (const Pair& pair : pairs)
    {
        sum += std::log(pair.baseline / pair.ours);
    }
    double mean = sum / count;
    double squares = 0;
    for (const Pair& pair : pairs)
    {
        squares += std::pow(std::log(pair.baseline / pair.ours) - mean, 2);
    }
    double margin = quantile(pairs.size() - 1) *
                    std::sqrt(squares / (count - 1)) / std::sqrt(count);
    return {std::exp(mean), std::exp(mean - margin), std::exp(mean + margin)};
}

std::vector<Pair> measurePairs(unsigned rounds,
                               const std::function<double()>& baseline,
                               const std::function<double()>& ours)
{
    std::vector<Pair> pairs;
    for (unsigned round = 0; round < rounds; round++)
    {
        Pair pair;
        if (round % 2 == 0)
        {
            pair.baseline = baseline();
            pair.ours = ours();
        }
        else
        {
            pair.ours = ours();
            pair.baseline = baseline();
        }
        fmt::print("  round {}: baseline {:8.3f} s   ours {:8.3f} s\n",
                   round + 1, pair.baseline, pair.ours);
        std::fflush(stdout);
        pairs.push_back(pair);
    }
    return pairs;
}

Json toJson(const std::vector<Pair>& pairs, const Ratio& ratio)
{
    Json rounds = Json::array();
    for (const Pair& pair : pairs)
    {
        rounds.push_back({{"baseline", pair.baseline}, {"ours", pair.ours}});
    }
    return {{"pairs", rounds},
            {"ratio", ratio.mean},
            {"low", ratio.low},
            {"high", ratio.high}};
}

int benchMain(int argc, char** argv, const std::string& description,
              const std::function<Json(const Options&)>& bench)
{
    CLI::App app(description);
    Options options;
    std::string json;
    app.add_option("--count", options.rounds, "pairs of runs")
        ->check(CLI::Range(2, 1000))
        ->capture_default_str();
    app.add_option("--json", json, "also write the result to this file");
    CLI11_PARSE(app, argc, argv);
    try
    {
        Json result = bench(options);
        if (!json.empty())
        {
            writeFileAtomic(json, dumpJson(result) + "\n");
        }
        return 0;
    }
    catch (const std::exception& error)
    {
        fmt::print(stderr, "bench: {}\n", error.what());
        return 1;
    }
}

} // namespace airlock::bench
