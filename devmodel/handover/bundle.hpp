#pragma once

#include "common/fd.hpp"
#include "devmodel/handover/manifest.hpp"

#include <filesystem>

namespace airlock::handover
{

/** The result of a job: manifest, device state and memory image.
 *
 * On disk it is a directory:
 *
 *     manifest.json   Manifest::toJson()
 *     device-state    the stream that the boot QEMU wrote; hostile
 *     memory.digests  MemoryDigest::encode()
 *     memory.img      guest RAM, sparse; hostile
 *
 * Within one process it is the same four things with a memfd in the place of
 * memory.img. The invariant: the device state and the list of digests match
 * the manifest. Whether the memory image matches the digests shows when it is
 * copied, in the same pass; until then it is only a file of the right size.
 *
 * The manifest says which job this is (see there for who writes it). Whoever
 * opens a bundle for a job calls requireJob() before anything else.
 */
class Bundle
{
  public:
    /** Makes a bundle from what came out of a job. Fills in the manifest's
     * device-state and memory members; the caller has filled in the others.
     * `memory` is a file of manifest.guest.memoryBytes bytes, `digest` what
     * describeMemory() or copyMemory() said of it. */
    Bundle(Manifest manifest, Bytes deviceState, MemoryDigest digest,
           UniqueFd memory);

    /** Opens a directory that anyone may have written. Symbolic links, files
     * that are no regular files, too large or of the wrong size, and digests
     * that do not match are Refused with the name of the file. */
    static Bundle open(const std::filesystem::path& directory);

    /** Writes the bundle to a directory that does not exist yet: complete and
     * synced to the disk, or not at all. */
    void save(const std::filesystem::path& directory) const;

    const Manifest& manifest() const { return manifest_; }
    /** Matches the manifest's digest; what it says is still hostile. */
    const Bytes& deviceState() const { return deviceState_; }
    const MemoryDigest& memoryDigest() const { return digest_; }
    int memoryFd() const { return memory_.get(); }

    /** See Manifest::requireJob(). */
    void requireJob(const JobTicket& expected) const
    {
        manifest_.requireJob(expected);
    }

    /** Writes the guest's memory to a file of its size; Refused when the
     * image does not match the digests. See copyMemory(). */
    MemoryFigures copyMemoryTo(int destination, unsigned threads = 0) const;

  private:
    Bundle() = default;

    Manifest manifest_;
    Bytes deviceState_;
    MemoryDigest digest_;
    UniqueFd memory_;
};

} // namespace airlock::handover
