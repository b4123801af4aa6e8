#pragma once

#include "devmodel/handover/bundle.hpp"
#include "devmodel/handover/schema.hpp"
#include "devmodel/handover/stream.hpp"

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace airlock::bundletool
{

/** A device state to look at: of the boot machine, of the production machine,
 * or of a bundle. */
struct StateFile
{
    std::filesystem::path path;
    bool production = false;
    std::string machine;
    std::vector<handover::Section> sections;
    handover::RamSummary ram;               ///< empty for production
    handover::VmDesc description;           ///< empty for production
    std::optional<handover::Bundle> bundle; ///< set when `path` is one
};

/** Opens a stream, or a bundle's directory. Throws Refused when it is neither,
 * Error when it cannot be read. */
StateFile openStateFile(const std::filesystem::path& path);

/** One way to name the values of a section. */
enum class Naming
{
    Schema,      ///< by our table: typed values
    Description, ///< by the vmdesc: bytes
    Payload,     ///< one value, all of it; always possible
};

/** The section's values in stream order, named that way; nullopt when there
 * is no such table or description, or when it does not fit. */
std::optional<std::vector<handover::Leaf>>
fieldsOf(const StateFile& file, std::size_t section, Naming naming);

} // namespace airlock::bundletool
