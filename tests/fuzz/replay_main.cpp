#include "common/file.hpp"

#include <sys/wait.h>
#include <unistd.h>
#include <zstd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <random>
#include <string_view>
#include <thread>
#include <vector>

/** Runs a fuzz target on its seeds, and on changed copies of them, without
 * libFuzzer: for every compiler and every test run.
 *
 * usage: NAME_replay [--mutations N] [--cases N] [--jobs N] [--seed N]
 *                    FILE-OR-DIRECTORY...
 * Files that end in .zst are unpacked. --mutations: changed copies of each;
 * --cases: changed copies of all together, at least; --jobs: processes that
 * share the work (0: one for each processor).
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
    std::size_t cases = 0;
    std::size_t jobs = 1;
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
        else if (word == "--cases" && i + 1 < argc)
        {
            options.cases = std::stoul(argv[++i]);
        }
        else if (word == "--jobs" && i + 1 < argc)
        {
            options.jobs = std::stoul(argv[++i]);
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

/** Each seed, and a job's part of the changed copies. */
void run(const std::vector<fs::path>& seeds, std::size_t mutations,
         std::uint64_t seedOfRandom)
{
    std::mt19937_64 random(seedOfRandom);
    for (const fs::path& path : seeds)
    {
        Bytes seed = load(path);
        LLVMFuzzerTestOneInput(seed.data(), seed.size());
        for (std::size_t i = 0; i < mutations; ++i)
        {
            Bytes changed = mutate(seed, random);
            LLVMFuzzerTestOneInput(changed.data(), changed.size());
        }
    }
}

/** Runs `jobs` processes; whether all of them ended well. */
bool runJobs(const std::vector<fs::path>& seeds, const Options& options)
{
    std::vector<pid_t> children;
    for (std::size_t job = 0; job < options.jobs; ++job)
    {
        const pid_t child = ::fork();
        if (child < 0)
        {
            airlock::throwErrno("cannot fork");
        }
        if (child == 0)
        {
            run(seeds, options.mutations, options.seed + job);
            ::_exit(EXIT_SUCCESS);
        }
        children.push_back(child);
    }
    bool well = true;
    for (pid_t child : children)
    {
        int status = 0;
        well = ::waitpid(child, &status, 0) == child && status == 0 && well;
    }
    return well;
}

/** Copies of each seed, so that there are enough cases in all. */
void share(Options& options, std::size_t seeds)
{
    if (options.jobs == 0)
    {
        options.jobs = std::max(1U, std::thread::hardware_concurrency());
    }
    const std::size_t parts = std::max<std::size_t>(1, seeds * options.jobs);
    if (options.cases != 0)
    {
        options.mutations = (options.cases + parts - 1) / parts;
    }
}

} // namespace

int main(int argc, char** argv)
{
    Options options = parseOptions(argc, argv);
    std::vector<fs::path> seeds = listSeeds(options.paths);
    share(options, seeds.size());
    const auto start = std::chrono::steady_clock::now();
    const bool well = runJobs(seeds, options);
    const std::chrono::duration<double> time =
        std::chrono::steady_clock::now() - start;
    const std::size_t cases = seeds.size() * options.mutations * options.jobs;
    std::cout << seeds.size() << " seeds, " << cases << " changed copies, "
              << static_cast<double>(cases) / time.count() << " per second\n";
    return seeds.empty() || !well ? EXIT_FAILURE : EXIT_SUCCESS;
}
