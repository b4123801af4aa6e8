#pragma once

#include "bootsrv/job.hpp"
#include "bootsrv/machine/crypt_area.hpp"
#include "common/sha256.hpp"

#include <functional>
#include <optional>
#include <vector>

/** The staging partition: one job on its way into dirty mode and back.
 *
 *     0        header (4 KiB): zeros; while dirty runs, the job's key
 *     1 MiB    in       request, and the image stream of each disk
 *              out      result, device state, memory image, deltas of disks
 *              scratch  dirty mode's own
 *
 * There is no file system. Each area is encrypted under a key of its own that
 * derives from the job's (crypt_area.hpp). Where everything is follows from the
 * request and the size of the partition, so no length or offset that dirty
 * mode could have written decides what clean mode reads.
 *
 * A record is a sector that describes it and the bytes behind it:
 *
 *     "ALRECRD1"  kind 4  number 4  bytes 8  SHA-256 of the bytes  zeros
 *
 * It is written after its bytes, so where it is whole the bytes are too.
 */
namespace airlock::machine
{

inline constexpr std::uint64_t headerBytes = 4096;
inline constexpr std::uint64_t stagingAlign = 1U << 20;
/** Canonical text of a job request; it is kept in a small place too. */
inline constexpr std::uint64_t requestMaxBytes = 16U << 10;
inline constexpr std::uint64_t resultMaxBytes = 64U << 10;

enum class RecordKind : std::uint32_t
{
    request = 1,
    disk = 2,   ///< image stream as uploaded
    result = 3, ///< how the boot ended, JSON
    state = 4,
    memory = 5, ///< image stream
    delta = 6,  ///< image stream
};

/** Where a record is and what it may have at most. */
struct Slot
{
    RecordKind kind = RecordKind::request;
    std::uint32_t number = 0;
    std::uint64_t offset = 0; ///< in its area
    std::uint64_t room = 0;   ///< for its bytes
};

struct Layout
{
    Area in;
    Area out;
    Area scratch;
    Slot request;
    std::vector<Slot> disks;
    Slot result;
    Slot state;
    Slot memory;
    std::vector<std::optional<Slot>> deltas; ///< none: read-only

    /** What staging has to have for a job. */
    static std::uint64_t bytesFor(const boot::JobRequest& request);
    /** Throws Refused when it does not fit. */
    static Layout of(const boot::JobRequest& request,
                     std::uint64_t stagingBytes);

    /** The record of the request is at the same place for all jobs, for who
     * does not know it yet. */
    static Area firstArea();
    static Slot requestSlot();
};

/** Names of areas, for CryptArea. */
inline constexpr const char* inArea = "in";
inline constexpr const char* outArea = "out";
inline constexpr const char* scratchArea = "scratch";

/** The header's job key; nothing when it is all zeros. Throws Refused for
 * anything else: a write that was cut off. */
std::optional<Secret> readHeader(Blocks& staging);
/** Whether there is anything but zeros. */
bool hasHeader(Blocks& staging);
/** On return it is on the disk. */
void writeHeader(Blocks& staging, const Secret& jobKey);
void clearHeader(Blocks& staging);
/** The header as such, for tests and fuzzers. */
std::optional<Secret> parseHeader(ByteView bytes);

/** What the sector of a record says. */
struct RecordHead
{
    std::uint64_t bytes = 0;
    Digest sha256{};

    Bytes write(const Slot& slot) const;
    /** Nothing when there is no record of this slot; never longer than its
     * room. */
    static std::optional<RecordHead> parse(ByteView sector, const Slot& slot);
};

/** Writes a record's bytes, then its sector. */
class RecordWriter
{
  public:
    RecordWriter(CryptArea& area, const Slot& slot);

    /** Throws SystemError (ENOSPC) when the slot is full. */
    void write(ByteView data);
    /** What was not written yet, and the sector. Does not sync. */
    RecordHead finish();

  private:
    void flush();

    CryptArea& area_;
    Slot slot_;
    Bytes buffer_;
    std::uint64_t written_ = 0; ///< whole sectors, without the buffer
    Sha256 hash_;
    std::uint64_t bytes_ = 0;
};

/** Writes it at once. */
RecordHead writeRecord(CryptArea& area, const Slot& slot, ByteView data);
/** Makes sure that there is no record. Does not sync. */
void clearRecord(CryptArea& area, const Slot& slot);

std::optional<RecordHead> findRecord(const CryptArea& area, const Slot& slot);

/** Passes a record's bytes on, piece by piece, once. Throws Refused when at
 * the end they are not those that its sector describes. */
void readRecord(const CryptArea& area, const Slot& slot, const RecordHead& head,
                const std::function<void(ByteView)>& sink);
/** A short one as a whole. */
Bytes readRecord(const CryptArea& area, const Slot& slot,
                 const RecordHead& head);

/** What the job with this key asks for: dirty mode is told nothing else.
 * Refused when staging has no request that the key opens. */
boot::JobRequest stagedRequest(Blocks& staging, const Secret& jobKey);

} // namespace airlock::machine
