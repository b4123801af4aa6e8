#pragma once

#include "bootsrv/job.hpp"
#include "hostagent/disk/disk_export.hpp"
#include "hostagent/domain/domain_spec.hpp"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace airlock::host
{

/** A disk as a delta was made for it. */
struct SpooledDisk
{
    std::string target; ///< "vda"
    std::string type;   ///< of libvirt's source: "file", "block"...
    std::string source;
    std::uint64_t bytes = 0;
    bool readOnly = false;
    /** Of the file, when this process can see it: another file of this name
     * is another disk. */
    std::optional<std::uint64_t> inode;
    std::optional<boot::DeltaFile> delta; ///< of a writable disk, when it is
                                          ///< there
};

/** The disks of a domain as QEMU has them now, without deltas. */
std::vector<SpooledDisk> spooledDisks(const DomainSpec& spec,
                                      const std::vector<QemuDisk>& disks);

/** What a boot wrote to the disks of a VM, in files of a directory that many
 * VMs share, until it is applied; with a list of the disks that it belongs to.
 */
class DeltaSpool
{
  public:
    DeltaSpool(std::filesystem::path directory, std::string uuid,
               std::uint64_t generation);

    /** The delta of disk number `disk`. */
    std::filesystem::path file(std::size_t disk) const;

    /** The deltas are complete: what has been written is on stable storage on
     * return. */
    void complete(const std::vector<SpooledDisk>& disks) const;

    /** The deltas of these disks, open for reading, nothing for a disk that is
     * read-only. Throws Refused, saying what is not as it was, when one of the
     * disks is not the one that its delta was made for, or a delta is not the
     * one that was received. */
    std::vector<std::optional<UniqueFd>>
    open(const std::vector<SpooledDisk>& disks) const;

    /** Removes all that there is of a VM, of any generation: a crash may have
     * left some. */
    static void remove(const std::filesystem::path& directory,
                       const std::string& uuid);

  private:
    std::filesystem::path list() const;
    std::vector<SpooledDisk> readList() const;

    std::filesystem::path directory_;
    std::string prefix_;
};

} // namespace airlock::host
