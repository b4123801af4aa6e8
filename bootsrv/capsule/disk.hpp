#pragma once

#include <cstdint>
#include <filesystem>

/** The disks of a boot host. */
namespace airlock::capsule
{

/** Where the parts of a disk begin, in bytes, and how long they are. A part at
 * 0 is on another disk. */
struct DiskLayout
{
    std::uint64_t esp = 0;
    std::uint64_t espSize = 0;
    std::uint64_t seal = 0;
    std::uint64_t kept = 0;
    std::uint64_t staging = 0;
    std::uint64_t stagingSize = 0;
};

inline constexpr std::uint64_t mebibyte = 1U << 20;
inline constexpr std::uint64_t espBytes = 192 * mebibyte;

/** For a machine's disk of this many bytes, with all parts on it; Refused when
 * it is too small. */
DiskLayout layoutOf(std::uint64_t diskSize);
/** For a capsule's disk with what clean mode keeps. */
DiskLayout dataLayout();
/** For a capsule's disk with nothing but staging; Refused when it is too small.
 */
DiskLayout stagingLayout(std::uint64_t diskSize);

/** The signed images of both modes. */
struct BootImages
{
    std::filesystem::path clean;
    std::filesystem::path dirty;
};

/** Has a file or a disk outlive a loss of power as it is. */
void syncFile(const std::filesystem::path& file);

/** Writes a partition table and the parts of it that the layout names, all of
 * them empty, to a file or a disk. What was there is lost. */
void writeTable(const std::filesystem::path& disk, const DiskLayout& layout);

/** Makes the file system with the images in the disk's first partition. */
void writeImages(const std::filesystem::path& disk, const DiskLayout& layout,
                 const BootImages& images);

/** A disk with nothing but the images. */
void makeImageDisk(const std::filesystem::path& file, const BootImages& images);

/** A sparse disk with empty parts for seal and kept. */
void makeDataDisk(const std::filesystem::path& file);
/** One with a part for staging that is at least as long as this. Its own disk,
 * so that dirty mode can be given that one alone. */
void makeStagingDisk(const std::filesystem::path& file,
                     std::uint64_t stagingSize);

} // namespace airlock::capsule
