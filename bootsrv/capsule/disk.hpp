#pragma once

#include <cstdint>
#include <filesystem>

/** The disks of a boot host. */
namespace airlock::capsule
{

/** Where the parts of a disk begin, in bytes, and how long they are. */
struct DiskLayout
{
    std::uint64_t esp = 0; ///< 0: the images are on a disk of their own
    std::uint64_t espSize = 0;
    std::uint64_t seal = 0;
    std::uint64_t kept = 0;
    std::uint64_t staging = 0;
    std::uint64_t stagingSize = 0;
};

inline constexpr std::uint64_t mebibyte = 1U << 20;
inline constexpr std::uint64_t espBytes = 192 * mebibyte;

/** For a disk of this many bytes; Refused when it is too small. */
DiskLayout layoutOf(std::uint64_t diskSize, bool withImages);

/** The signed images of both modes. */
struct BootImages
{
    std::filesystem::path clean;
    std::filesystem::path dirty;
};

/** Writes a partition table and the parts of it that the layout names, all of
 * them empty, to a file or a disk. What was there is lost. */
void writeTable(const std::filesystem::path& disk, const DiskLayout& layout);

/** Makes the file system with the images in the disk's first partition. */
void writeImages(const std::filesystem::path& disk, const DiskLayout& layout,
                 const BootImages& images);

/** A disk with nothing but the images. */
void makeImageDisk(const std::filesystem::path& file, const BootImages& images);

/** A sparse disk with empty parts for seal, kept and staging; returns where
 * they are. */
DiskLayout makeDataDisk(const std::filesystem::path& file,
                        std::uint64_t stagingSize);

} // namespace airlock::capsule
