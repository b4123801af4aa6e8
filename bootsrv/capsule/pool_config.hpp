#pragma once

#include "bootsrv/capsule/supervisor.hpp"

#include <filesystem>
#include <string>
#include <vector>

namespace airlock::capsule
{

inline constexpr const char* defaultPoolConfig = "/etc/airlock/capsules.toml";

/** One capsule of a pool. */
struct PoolCapsule
{
    std::string name;
    std::string tap;
    unsigned memoryMiB = 1024;
    unsigned cpus = 1;
    std::uint64_t stagingMiB = 8192;
    std::filesystem::path site;        ///< JSON: what clean mode has to know
    std::filesystem::path addressRoot; ///< empty: beside the capsule
    std::chrono::seconds cleanLimit = SupervisorLimits().clean;
    std::chrono::seconds dirtyLimit = SupervisorLimits().dirty;
};

/** /etc/airlock/capsules.toml, see airlock-capsules.toml(5). */
struct PoolConfig
{
    std::filesystem::path state = "/var/lib/airlock/capsules";
    std::filesystem::path socket = "/run/airlock-capsules/control.sock";
    std::string user;
    /** Of all capsules; memory, processors, tap and fence are each one's. */
    CapsuleOptions machine;
    /** What new capsules are made from. */
    BootImages images = {"/etc/airlock/images/clean.efi",
                         "/etc/airlock/images/dirty.efi"};
    std::filesystem::path keys = "/etc/airlock/site";
    std::vector<PoolCapsule> capsules;

    std::filesystem::path directoryOf(const PoolCapsule& capsule) const
    {
        return state / capsule.name;
    }
    std::filesystem::path addressRootOf(const PoolCapsule& capsule) const;
    /** How one of them runs. */
    CapsuleOptions optionsOf(const PoolCapsule& capsule) const;
};

/** Throws Error with file, line and what is wrong: a syntax error, an unknown
 * key, a value that cannot be. */
PoolConfig readPoolConfig(const std::filesystem::path& file);
/** All keys that it asks for, sorted. */
std::vector<std::string> poolConfigKeys();

} // namespace airlock::capsule
