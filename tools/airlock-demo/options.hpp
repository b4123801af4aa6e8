#pragma once

#include "devmodel/vm/boot_vm.hpp"
#include "devmodel/vm/guest_spec.hpp"

#include <filesystem>
#include <optional>
#include <string>

namespace airlock::demo
{

/** What the user asked for. */
struct Options
{
    std::filesystem::path build;  ///< where tools/build-* put their results
    std::filesystem::path guest;  ///< raw image; the demo works on a copy
    std::string booted = "shell"; ///< vm::parseBootedPolicy()
    std::optional<std::filesystem::path> firmware; ///< of the boot machine
    std::string accelerator = "auto";
    unsigned vcpus = 2;
    std::uint64_t memory = 1ULL << 30;
    std::optional<std::filesystem::path> json;
    bool keep = false;
    /** Boot in an isolated boot host, made from the images there. */
    std::optional<std::filesystem::path> isolated;
};

/** Reads the command line; on --help or nonsense writes to the terminal and
 * returns the exit status in its place. */
struct ParsedOptions
{
    Options options;
    std::optional<int> exitStatus;
};
ParsedOptions parseOptions(int argc, char** argv);

} // namespace airlock::demo
