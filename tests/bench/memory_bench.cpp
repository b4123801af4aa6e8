/** How long the memory of a guest takes from one file to the other.
 *
 * The image is what a booted guest leaves: runs of 4 KiB pages that hold
 * something, with holes between them. "first" copies to an empty file, "again"
 * to one that has its pages already, as every later hand-over does.
 *
 * Ways that were measured and not taken (300 MiB, one core's time, SHA-NI):
 * hashing a mapping of the source instead of a private buffer saves the copy
 * (54 ms) and pays as much in page faults (40 to 80 ms); memcpy into a mapping
 * of the destination costs 75 ms more than pwrite, which need not clear a page
 * that it is about to fill.
 */
#include "common/file.hpp"
#include "devmodel/handover/memory_image.hpp"

#include <benchmark/benchmark.h>

#include <random>

namespace airlock::handover
{
namespace
{

constexpr std::uint64_t mib = 1U << 20;

UniqueFd makeImage(std::uint64_t bytes, std::uint64_t dataBytes)
{
    UniqueFd fd = createMemfd("bench", bytes);
    std::mt19937_64 random(1);
    std::vector<std::uint64_t> run(64U << 10);
    for (std::uint64_t written = 0; written < dataBytes;)
    {
        for (auto& word : run)
        {
            word = random();
        }
        std::uint64_t pages = 1 + random() % 128;
        std::uint64_t first = random() % (bytes / memoryPageBytes - pages);
        writeAllAt(fd.get(),
                   {reinterpret_cast<const std::uint8_t*>(run.data()),
                    pages * memoryPageBytes},
                   first * memoryPageBytes);
        written += pages * memoryPageBytes;
    }
    return fd;
}

void report(benchmark::State& state, const MemoryFigures& figures)
{
    state.counters["MiB"] =
        static_cast<double>(figures.bytes()) / static_cast<double>(mib);
    state.SetBytesProcessed(static_cast<std::int64_t>(figures.bytes()) *
                            static_cast<std::int64_t>(state.iterations()));
}

/** Arguments: guest size and data in MiB, threads. */
void describe(benchmark::State& state)
{
    auto bytes = static_cast<std::uint64_t>(state.range(0)) * mib;
    UniqueFd source =
        makeImage(bytes, static_cast<std::uint64_t>(state.range(1)) * mib);
    MemoryResult result;
    for (auto _ : state)
    {
        result = describeMemory(source.get(), bytes,
                                static_cast<unsigned>(state.range(2)));
    }
    report(state, result.figures);
}

void copyFirst(benchmark::State& state)
{
    auto bytes = static_cast<std::uint64_t>(state.range(0)) * mib;
    UniqueFd source =
        makeImage(bytes, static_cast<std::uint64_t>(state.range(1)) * mib);
    MemoryResult result;
    for (auto _ : state)
    {
        state.PauseTiming();
        UniqueFd destination = createMemfd("bench", bytes);
        state.ResumeTiming();
        result = copyMemory(source.get(), destination.get(), bytes, nullptr,
                            static_cast<unsigned>(state.range(2)));
        state.PauseTiming();
        destination.reset();
        state.ResumeTiming();
    }
    report(state, result.figures);
}

void copyAgain(benchmark::State& state)
{
    auto bytes = static_cast<std::uint64_t>(state.range(0)) * mib;
    UniqueFd source =
        makeImage(bytes, static_cast<std::uint64_t>(state.range(1)) * mib);
    UniqueFd destination = createMemfd("bench", bytes);
    MemoryResult result = copyMemory(source.get(), destination.get(), bytes);
    for (auto _ : state)
    {
        result =
            copyMemory(source.get(), destination.get(), bytes, &result.digest,
                       static_cast<unsigned>(state.range(2)));
    }
    report(state, result.figures);
}

void guests(benchmark::internal::Benchmark* bench)
{
    bench->ArgNames({"guest", "data", "threads"})
        ->Args({1024, 200, 1})
        ->Args({1024, 200, 2})
        ->Args({1024, 400, 2})
        ->Args({4096, 400, 2})
        ->Unit(benchmark::kMillisecond)
        ->MeasureProcessCPUTime()
        ->UseRealTime();
}

BENCHMARK(describe)->Apply(guests);
BENCHMARK(copyFirst)->Apply(guests);
BENCHMARK(copyAgain)->Apply(guests);

} // namespace
} // namespace airlock::handover

BENCHMARK_MAIN();
