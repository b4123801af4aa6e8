#pragma once

#include "common/json.hpp"

#include <filesystem>
#include <set>
#include <string>

namespace airlock::boot
{

/** What has to fit between the QEMUs of a production host and a boot host. */
struct QemuFacts
{
    std::string version; ///< "10.0.2"
    std::string build;   ///< GNU build id of the program, hex; may be empty
    std::set<std::string> machines;
    std::set<std::string> cpuModels;
    std::set<std::string> accelerators; ///< "kvm" only where it can be opened

    Json toJson() const;
    /** Throws Refused. */
    static QemuFacts parse(const JsonField& field);
    bool operator==(const QemuFacts&) const = default;
};

/** Asks a QEMU; runs it several times for a moment. Throws Error when it does
 * not answer as QEMU does. */
QemuFacts askQemu(const std::filesystem::path& binary);

/** The GNU build id in an ELF program, hex; empty when it has none. */
std::string buildIdOf(const std::filesystem::path& program);

} // namespace airlock::boot
