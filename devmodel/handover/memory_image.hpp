#pragma once

#include "common/sha256.hpp"

#include <cstdint>
#include <string_view>
#include <vector>

/** The guest's memory on its way from the boot machine to the production
 * machine.
 *
 * Guest RAM is one file (a memfd, or memory.img of a bundle): low part, then
 * the part above 4 GiB; holes and zero pages are the same thing. It is looked
 * at in chunks of 256 KiB. A chunk that holds a page with anything but zeros
 * has a digest:
 *
 *     SHA-256(page mask as be64, bit n = page n is not zero; those pages)
 *
 * and all other chunks are zero.
 *
 * The source may be written by a hostile process while it is read (a boot
 * machine that was believed dead, a disk). Nothing here relies on seals or on
 * that process being gone: each chunk is read exactly once, into a private
 * buffer, and from that buffer it is hashed and written. So the digest is
 * always that of the bytes that went to the destination, whatever happens to
 * the source. (Mapping a sealed source saves that copy but costs as much in
 * page faults, see tests/bench/memory_bench.cpp.) What a changing source
 * can do is deliver a state that never existed at one time; the admission of
 * the device state looks at the destination for that reason.
 */
namespace airlock::handover
{

inline constexpr std::uint64_t memoryPageBytes = 4096;
/** 64 pages, one bit each in a 64-bit mask; fits a core's L2 cache together
 * with what the kernel touches. 64 KiB measured 3 % faster, 1 MiB 3 % slower
 * (the list of digests grows or shrinks by as much as the chunks do). */
inline constexpr std::uint64_t memoryChunkBytes = 64 * memoryPageBytes;
/** More than any guest here gets; bounds what a manifest may claim. */
inline constexpr std::uint64_t memoryMaxBytes = std::uint64_t{1} << 42;

/** One chunk that is not zero. */
struct ChunkDigest
{
    std::uint64_t index = 0; ///< chunk number: file offset / chunk size
    Digest digest{};

    bool operator==(const ChunkDigest&) const = default;
};

/** What a memory image contains, as digests. */
struct MemoryDigest
{
    std::uint64_t bytes = 0;         ///< size of guest RAM, zeros included
    std::vector<ChunkDigest> chunks; ///< ascending by index

    /** SHA-256 over a version text, the size, the chunk size, the number of
     * chunks, and each chunk's index and digest (numbers as be64). */
    Digest root() const;

    /** The content of a bundle's memory.digests: for each chunk its index
     * (be64) and its digest (32 bytes). */
    Bytes encode() const;

    /** Reads what encode() wrote, for a guest of this size. Throws Refused
     * unless the indices ascend, lie within it and nothing is left over. */
    static MemoryDigest decode(ByteView data, std::uint64_t bytes);

    /** Throws Refused naming the first chunk that `actual` has otherwise. */
    void requireSame(const MemoryDigest& actual) const;

    bool operator==(const MemoryDigest&) const = default;
};

struct MemoryFigures
{
    std::uint64_t pages = 0;  ///< pages that were not zero
    std::uint64_t chunks = 0; ///< chunks that were not zero
    double seconds = 0;       ///< wall clock

    std::uint64_t bytes() const { return pages * memoryPageBytes; }
};

struct MemoryResult
{
    MemoryDigest digest;
    MemoryFigures figures;
};

/** Whether there is nothing but zeros in it; a multiple of 64 bytes. */
bool isZeroPage(ByteView page);

/** Throws Refused when no guest memory can have this size: not a multiple of
 * a page, zero, or beyond memoryMaxBytes. */
void requireMemorySize(std::uint64_t bytes, std::string_view where);

/** Digests of an image of exactly `bytes` bytes. `threads` 0: one per
 * processor. Throws Refused when the file is shorter, or ends while it is
 * read. */
MemoryResult describeMemory(int fd, std::uint64_t bytes, unsigned threads = 0);

/** Makes `destination` (opened for reading and writing, `bytes` long) equal
 * to the source: pages that are zero in the source become holes, all others
 * are written, whatever the destination held before. The result's digest is
 * of the bytes that were written.
 *
 * With `expected`, success means that they were the expected ones; otherwise
 * Refused names the chunk. After an exception the destination is a mixture
 * and must not be run; copying again repairs it.
 *
 * Pages that the destination has already are overwritten in place: no new
 * ones need to be allocated for a second hand-over, and a process that has
 * them mapped (the paused production QEMU) keeps its mapping.
 */
MemoryResult copyMemory(int source, int destination, std::uint64_t bytes,
                        const MemoryDigest* expected = nullptr,
                        unsigned threads = 0);

} // namespace airlock::handover
