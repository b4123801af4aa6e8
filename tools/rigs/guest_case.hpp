#pragma once

#include "common/file.hpp"

#include <cstdint>
#include <filesystem>
#include <string>

namespace airlock::rig
{

/** What is wanted of a guest. */
struct GuestCase
{
    std::string kernel = "cloud"; ///< of tools/build-image
    unsigned vcpus = 2;
    std::uint64_t memory = 1ULL << 30;
    bool msix = true;

    /** "standard_2cpu_1GiB_msix", good as the name of a test. */
    std::string name() const;
};

/** What tools/build-image made. */
std::filesystem::path imageOf(const std::string& kernel);

/** Guests write to their disks: each gets a copy, with the holes that the
 * image has. */
void copyImage(const std::filesystem::path& from,
               const std::filesystem::path& to);

/** What it takes of the disk, without its holes. */
std::uint64_t allocatedBytes(const std::filesystem::path& file);

/** SHA-256 of a file, in hexadecimal. */
std::string digestOf(const std::filesystem::path& file);

/** A disk of a gigabyte is nothing for a /tmp in memory: TempDirectories of
 * this process, and of its children, are made elsewhere. A user's TMPDIR stays.
 */
void preferVarTmp();
/** The first of them. */
TempDirectory roomyDirectory(const std::string& prefix);

} // namespace airlock::rig
