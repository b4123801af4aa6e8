#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

/** What of QEMU's source decides which bytes a device's state has.
 *
 * A schema table was held against some VMStateDescriptions and hand-written
 * savers. When one of them changes, somebody has to look again; when anything
 * else changes (another function of the same file, a comment, a build script)
 * nobody has to. So the source is cut into its top-level definitions, and each
 * one that has to do with state is kept by a digest of its own: the difference
 * of two builds is then a list of names to look up.
 *
 * It is text that is cut, by QEMU's coding style: what is defined at the top
 * level starts and ends in column 0. Code in another style makes definitions
 * longer than they are, so that more of it counts, never less.
 */
namespace airlock::test
{

/** Definition -> its text without comments, one space between words.
 * Definitions of one name (in branches of an #ifdef) are one. */
using Definitions = std::map<std::string, std::string>;

/** All top-level definitions of a C file. */
Definitions definitions(std::string_view source);

/** Those that decide about state: descriptions of fields (VMState..., VMSTATE_
 * macros), functions that write or read a stream by hand, and the functions
 * and data of the same file that a description names (.needed, .post_load). */
Definitions stateDefinitions(std::string_view source);

/** "path: definition" -> digest, "switch CONFIG_X" -> value. */
using StateSources = std::map<std::string, std::string>;

/** Of everything that is linked into the QEMU of this build directory (which
 * ninja knows), and of the headers that these files include themselves. Also
 * the build's switches that the definitions ask for. Throws Error if there is
 * no build, or no source beside it. */
StateSources stateSourcesOf(const std::filesystem::path& build,
                            const std::filesystem::path& source);

/** As lines of "digest path: definition", sorted. */
std::string formatStateSources(const StateSources& sources);
/** The other way; lines that are empty or start with '#' are skipped. Throws
 * Error naming a line that is neither. */
StateSources parseStateSources(std::string_view text);

/** One line for each name that is new, gone or changed. */
std::vector<std::string> difference(const StateSources& reviewed,
                                    const StateSources& built);

} // namespace airlock::test
