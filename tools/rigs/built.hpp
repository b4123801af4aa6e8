#pragma once

#include "devmodel/vm/qemu_argv.hpp"

#include <filesystem>
#include <string>

namespace airlock::rig
{

/** One of ours, as it was built: "tools/switchd/airlock-switchd". */
inline std::string builtProgram(const std::string& relative)
{
    return std::filesystem::absolute(vm::defaultBuildDirectory()) / "cpp" /
           relative;
}

/** The QEMU of this machine: "boot" or "production". */
inline std::string builtQemu(const std::string& machine)
{
    return std::filesystem::absolute(vm::defaultBuildDirectory()) / "qemu" /
           machine / "qemu-system-x86_64";
}

} // namespace airlock::rig
