#include "devmodel/handover/memory_image.hpp"

#include "common/file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

namespace airlock::handover
{

namespace
{

constexpr std::string_view rootLabel = "airlock-memory-1";
constexpr std::size_t entryBytes = sizeof(std::uint64_t) + sizeof(Digest);
/** What a thread takes at a time: enough that holes of gigabytes cost
 * nothing, little enough that all threads end together. */
constexpr std::uint64_t unitBytes = 32 * memoryChunkBytes;

/** Bit n: page n of a chunk holds something. */
using PageMask = std::uint64_t;

std::uint64_t chunkCount(std::uint64_t bytes)
{
    return (bytes + memoryChunkBytes - 1) / memoryChunkBytes;
}

std::string chunkName(std::uint64_t index)
{
    return fmt::format("memory: chunk {} (file offset {:#x})", index,
                       index * memoryChunkBytes);
}

PageMask findPages(ByteView chunk)
{
    PageMask mask = 0;
    for (std::size_t page = 0; page * memoryPageBytes < chunk.size(); ++page)
    {
        if (!isZeroPage(chunk.subspan(page * memoryPageBytes, memoryPageBytes)))
        {
            mask |= PageMask{1} << page;
        }
    }
    return mask;
}

/** Calls action(first byte, length, set) for each run of equal bits that
 * covers the chunk. */
template <typename Action>
void forEachRun(PageMask mask, std::size_t chunkSize, const Action& action)
{
    std::size_t pages = chunkSize / memoryPageBytes;
    for (std::size_t first = 0; first < pages;)
    {
        PageMask rest = mask >> first;
        bool set = (rest & 1) != 0;
        auto same = static_cast<std::size_t>(set ? std::countr_one(rest)
                                                 : std::countr_zero(rest));
        std::size_t length = std::min(same, pages - first);
        action(first * memoryPageBytes, length * memoryPageBytes, set);
        first += length;
    }
}

Digest digestOf(Sha256& hash, ByteView chunk, PageMask mask)
{
    hash.updateBe64(mask);
    forEachRun(mask, chunk.size(),
               [&](std::size_t begin, std::size_t length, bool set) {
                   if (set)
                   {
                       hash.update(chunk.subspan(begin, length));
                   }
               });
    return hash.finish();
}

/** The first byte at or after `begin` that the file may have data at; `end`
 * when there is none before it. */
std::uint64_t nextData(int fd, std::uint64_t begin, std::uint64_t end)
{
    off_t found = ::lseek(fd, static_cast<off_t>(begin), SEEK_DATA);
    if (found < 0 && errno != ENXIO)
    {
        throwErrno("cannot look for data in a memory image");
    }
    return found < 0 ? end : std::min(static_cast<std::uint64_t>(found), end);
}

/** Where the chunks go. */
class Destination
{
  public:
    explicit Destination(int fd) : fd_(fd)
    {
        struct stat info = {};
        if (::fstat(fd, &info) != 0)
        {
            throwErrno("cannot look at the destination of a memory image");
        }
        empty_ = info.st_blocks == 0;
    }

    void write(std::uint64_t at, ByteView chunk, PageMask mask) const
    {
        forEachRun(mask, chunk.size(),
                   [&](std::size_t begin, std::size_t length, bool set) {
                       if (set)
                       {
                           writeAllAt(fd_, chunk.subspan(begin, length),
                                      at + begin);
                       }
                       else
                       {
                           discard(at + begin, length);
                       }
                   });
    }

    void discard(std::uint64_t at, std::uint64_t length) const
    {
        constexpr int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
        if (!empty_ && length > 0 &&
            ::fallocate(fd_, mode, static_cast<off_t>(at),
                        static_cast<off_t>(length)) != 0)
        {
            throwErrno("cannot discard old guest memory");
        }
    }

  private:
    int fd_;
    bool empty_ = false; ///< nothing allocated at the start: all holes
};

/** One thread's part of the work: reads, hashes and (with a destination)
 * writes the chunks of the units that it is given. */
class Worker
{
  public:
    Worker(int source, std::uint64_t bytes, const Destination* destination)
        : source_(source), bytes_(bytes), destination_(destination),
          buffer_(memoryChunkBytes)
    {}

    void processUnit(std::uint64_t unit)
    {
        std::uint64_t at = unit * unitBytes;
        std::uint64_t end = std::min(at + unitBytes, bytes_);
        while (at < end)
        {
            std::uint64_t data = nextData(source_, at, end);
            std::uint64_t chunk =
                data == end ? end : data - data % memoryChunkBytes;
            discard(at, chunk - at);
            if (chunk < end)
            {
                processChunk(chunk);
            }
            at = chunk + memoryChunkBytes;
        }
    }

    const std::vector<ChunkDigest>& chunks() const { return chunks_; }
    std::uint64_t pages() const { return pages_; }

  private:
    void processChunk(std::uint64_t at)
    {
        std::span<std::uint8_t> chunk =
            std::span(buffer_).first(std::min(memoryChunkBytes, bytes_ - at));
        readExactAt(source_, chunk, at);
        PageMask mask = findPages(chunk);
        if (mask == 0)
        {
            discard(at, chunk.size());
            return;
        }
        chunks_.push_back(
            {at / memoryChunkBytes, digestOf(hash_, chunk, mask)});
        pages_ += static_cast<unsigned>(std::popcount(mask));
        if (destination_ != nullptr)
        {
            destination_->write(at, chunk, mask);
        }
    }

    void discard(std::uint64_t at, std::uint64_t length) const
    {
        if (destination_ != nullptr)
        {
            destination_->discard(at, length);
        }
    }

    int source_;
    std::uint64_t bytes_;
    const Destination* destination_;
    Bytes buffer_;
    Sha256 hash_;
    std::vector<ChunkDigest> chunks_;
    std::uint64_t pages_ = 0;
};

/** Runs the workers, one a thread, over units 0..count-1; throws the first
 * exception of any after all have stopped. */
void runWorkers(std::vector<Worker>& workers, std::uint64_t count)
{
    std::atomic<std::uint64_t> next = 0;
    std::mutex mutex;
    std::exception_ptr failure;
    auto work = [&](Worker& worker) {
        try
        {
            for (std::uint64_t unit = next++; unit < count; unit = next++)
            {
                worker.processUnit(unit);
            }
        }
        catch (...)
        {
            next = count;
            std::lock_guard lock(mutex);
            failure = failure ? failure : std::current_exception();
        }
    };
    {
        std::vector<std::jthread> threads;
        for (std::size_t i = 1; i < workers.size(); ++i)
        {
            threads.emplace_back(work, std::ref(workers[i]));
        }
        work(workers[0]);
    }
    if (failure)
    {
        std::rethrow_exception(failure);
    }
}

MemoryResult collect(const std::vector<Worker>& workers, std::uint64_t bytes)
{
    MemoryResult result;
    result.digest.bytes = bytes;
    std::vector<ChunkDigest>& chunks = result.digest.chunks;
    for (const Worker& worker : workers)
    {
        chunks.insert(chunks.end(), worker.chunks().begin(),
                      worker.chunks().end());
        result.figures.pages += worker.pages();
    }
    std::sort(chunks.begin(), chunks.end(),
              [](const ChunkDigest& a, const ChunkDigest& b) {
                  return a.index < b.index;
              });
    result.figures.chunks = chunks.size();
    return result;
}

MemoryResult process(int source, std::uint64_t bytes,
                     const Destination* destination, unsigned threads)
{
    auto start = std::chrono::steady_clock::now();
    requireMemorySize(bytes, "memory");
    if (fileSize(source) != bytes)
    {
        throw Refused("memory", fmt::format("the image has {} bytes, the "
                                            "guest has {} bytes of memory",
                                            fileSize(source), bytes));
    }
    if (threads == 0)
    {
        threads = std::max(1U, std::thread::hardware_concurrency());
    }
    std::uint64_t units = (bytes + unitBytes - 1) / unitBytes;
    std::vector<Worker> workers;
    for (std::uint64_t i = 0; i < std::min<std::uint64_t>(threads, units); ++i)
    {
        workers.emplace_back(source, bytes, destination);
    }
    runWorkers(workers, units);
    MemoryResult result = collect(workers, bytes);
    result.figures.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start)
            .count();
    return result;
}

} // namespace

Digest MemoryDigest::root() const
{
    ByteWriter head;
    head.text(rootLabel);
    head.be64(bytes);
    head.be64(memoryChunkBytes);
    head.be64(chunks.size());
    Sha256 hash;
    hash.update(head.data());
    hash.update(encode());
    return hash.finish();
}

Bytes MemoryDigest::encode() const
{
    ByteWriter writer;
    for (const ChunkDigest& chunk : chunks)
    {
        writer.be64(chunk.index);
        writer.bytes(chunk.digest);
    }
    return writer.release();
}

MemoryDigest MemoryDigest::decode(ByteView data, std::uint64_t bytes)
{
    ByteReader reader(data, "memory.digests");
    MemoryDigest out;
    out.bytes = bytes;
    out.chunks.reserve(data.size() / entryBytes);
    while (!reader.atEnd())
    {
        ChunkDigest chunk;
        chunk.index = reader.be64();
        if (chunk.index >= chunkCount(bytes) ||
            (!out.chunks.empty() && chunk.index <= out.chunks.back().index))
        {
            throw Refused("memory.digests",
                          fmt::format("entry {} is for chunk {}: beyond the "
                                      "guest's memory or out of order",
                                      out.chunks.size(), chunk.index));
        }
        ByteView digest = reader.take(chunk.digest.size());
        std::copy(digest.begin(), digest.end(), chunk.digest.begin());
        out.chunks.push_back(chunk);
    }
    return out;
}

void MemoryDigest::requireSame(const MemoryDigest& actual) const
{
    if (actual.bytes != bytes)
    {
        throw Refused("memory",
                      fmt::format("has {} bytes, {} bytes were expected",
                                  actual.bytes, bytes));
    }
    auto [mine, theirs] =
        std::mismatch(chunks.begin(), chunks.end(), actual.chunks.begin(),
                      actual.chunks.end());
    if (mine == chunks.end() && theirs == actual.chunks.end())
    {
        return;
    }
    if (theirs == actual.chunks.end() ||
        (mine != chunks.end() && mine->index < theirs->index))
    {
        throw Refused(chunkName(mine->index), "is zero, data was expected");
    }
    if (mine == chunks.end() || theirs->index < mine->index)
    {
        throw Refused(chunkName(theirs->index),
                      "has data, zeros were expected");
    }
    throw Refused(chunkName(mine->index), "does not match its digest");
}

bool isZeroPage(ByteView page)
{
    // Eight words at a time; most pages that hold something show it at once.
    for (std::size_t at = 0; at < page.size(); at += 64)
    {
        std::uint64_t words[8];
        std::memcpy(words, page.data() + at, sizeof(words));
        if ((words[0] | words[1] | words[2] | words[3] | words[4] | words[5] |
             words[6] | words[7]) != 0)
        {
            return false;
        }
    }
    return true;
}

void requireMemorySize(std::uint64_t bytes, std::string_view where)
{
    if (bytes == 0 || bytes % memoryPageBytes != 0 || bytes > memoryMaxBytes)
    {
        throw Refused(
            where, fmt::format("{} bytes is no size of guest memory", bytes));
    }
}

MemoryResult describeMemory(int fd, std::uint64_t bytes, unsigned threads)
{
    return process(fd, bytes, nullptr, threads);
}

MemoryResult copyMemory(int source, int destination, std::uint64_t bytes,
                        const MemoryDigest* expected, unsigned threads)
{
    if (fileSize(destination) != bytes)
    {
        throw Error(fmt::format("the destination of a memory image has {} "
                                "bytes, {} are needed",
                                fileSize(destination), bytes));
    }
    Destination sink(destination);
    MemoryResult result = process(source, bytes, &sink, threads);
    if (expected != nullptr)
    {
        expected->requireSame(result.digest);
    }
    return result;
}

} // namespace airlock::handover
