#pragma once

#include "bootsrv/capsule/capsule.hpp"

#include <filesystem>
#include <string>
#include <vector>

/** What tests with capsules share: images, a search from outside, what a mode
 * said. */
namespace airlock::test
{

/** Where the suite's images are, from the environment. */
std::filesystem::path imagesOf(const char* variable, const char* suite);

/** What a probe said last of this; with the console's last words when it said
 * nothing. */
std::string said(const std::string& console, const std::string& what);

/** How often these bytes are in a file. */
std::size_t occurrences(const std::filesystem::path& file, ByteView needle);
/** In which files of a directory they are, and how often: "data.img: 2". */
std::vector<std::string> filesWith(const std::filesystem::path& directory,
                                   ByteView needle);

/** The whole memory of the machine, from outside; it stands still from then
 * on. */
void saveMemory(const capsule::RunningMode& mode,
                const std::filesystem::path& file, unsigned megabytes);

} // namespace airlock::test
