#include "common/file.hpp"

#include <zstd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <random>
#include <string_view>
#include <vector>

/** Runs a fuzz target on its seeds, and on changed copies of them, without
 * libFuzzer: for every compiler and every test run.
 *
 * usage: NAME_replay [--mutations N] [--seed N] FILE-OR-DIRECTORY...
 * Files that end in .zst are unpacked. N changed copies are made of each.
 */
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size);

namespace
{

using airlock::Bytes;
namespace fs = std::filesystem;

constexpr std::size_t kMaxSeed = 64U << 20;

struct Options
{
    std::size_t mutations = 0;
    std::uint64_t seed = 1;
    std::vector<fs::path> paths;
};

Options parseOptions(int argc, char** argv)
{
    Options options;
    for (int i = 1; i < argc; ++i)
    {
        std::string_view word = argv[i];
        if (word == "--mutations" && i + 1 < argc)
        {
            options.mutations = std::stoul(argv[++i]);
        }
        else if (word == "--seed" && i + 1 < argc)
        {
            options.seed = std::stoull(argv[++i]);
        }
        else
        {
            options.paths.emplace_back(word);
        }
    }
    return options;
}

std::vector<fs::path> listSeeds(const std::vector<fs::path>& paths)
{
    std::vector<fs::path> seeds;
    for (const fs::path& path : paths)
    {
        if (!fs::is_directory(path))
        {
            seeds.push_back(path);
            continue;
        }
        for (const auto& entry : fs::directory_iterator(path))
        {
            if (entry.is_regular_file() && entry.path().extension() != ".sh")
            {
                seeds.push_back(entry.path());
            }
        }
    }
    std::sort(seeds.begin(), seeds.end());
    return seeds;
}

Bytes load(const fs::path& path)
{
    Bytes raw = airlock::readFile(path, kMaxSeed);
    if (path.extension() != ".zst")
    {
        return raw;
    }
    auto size = ZSTD_getFrameContentSize(raw.data(), raw.size());
    Bytes out(size <= kMaxSeed ? size : 0);
    if (ZSTD_decompress(out.data(), out.size(), raw.data(), raw.size()) != size)
    {
        throw airlock::Error("cannot unpack " + path.string());
    }
    return out;
}

/** One to four small changes, as a fuzzer makes them. */
Bytes mutate(Bytes data, std::mt19937_64& random)
{
    constexpr std::uint8_t edges[] = {0x00, 0x01, 0x05, 0x7e, 0x7f, 0x80, 0xff};
    for (std::uint64_t n = 1 + random() % 4; n > 0 && !data.empty(); --n)
    {
        std::size_t at = random() % data.size();
        auto here = data.begin() + static_cast<std::ptrdiff_t>(at);
        auto length = static_cast<std::ptrdiff_t>(
            random() % std::min<std::size_t>(64, data.size() - at));
        switch (random() % 5)
        {
        case 0:
            *here ^= static_cast<std::uint8_t>(1U << (random() % 8));
            break;
        case 1:
            *here = edges[random() % std::size(edges)];
            break;
        case 2:
            data.erase(here, here + length);
            break;
        case 3: {
            Bytes copy(here, here + length);
            data.insert(here, copy.begin(), copy.end());
            break;
        }
        default:
            *here = static_cast<std::uint8_t>(random());
        }
    }
    return data;
}

} // namespace

int main(int argc, char** argv)
{
    Options options = parseOptions(argc, argv);
    std::vector<fs::path> seeds = listSeeds(options.paths);
    std::mt19937_64 random(options.seed);
    for (const fs::path& path : seeds)
    {
        Bytes seed = load(path);
        LLVMFuzzerTestOneInput(seed.data(), seed.size());
        for (std::size_t i = 0; i < options.mutations; ++i)
        {
            Bytes changed = mutate(seed, random);
            LLVMFuzzerTestOneInput(changed.data(), changed.size());
        }
    }
    std::cout << seeds.size() << " seeds, " << seeds.size() * options.mutations
              << " changed copies\n";
    return seeds.empty() ? EXIT_FAILURE : EXIT_SUCCESS;
}
