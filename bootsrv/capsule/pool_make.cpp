#include "bootsrv/capsule/enrol.hpp"
#include "bootsrv/capsule/pool.hpp"
#include "common/file.hpp"
#include "common/log.hpp"

#include <fmt/format.h>

namespace airlock::capsule
{

namespace
{

namespace fs = std::filesystem;

/** It has its name for good then: what a loss of power left of it would not be
 * made again. */
void syncAll(const fs::path& directory)
{
    for (const auto& entry : fs::recursive_directory_iterator(directory))
    {
        if (entry.is_directory())
        {
            syncDirectory(entry.path());
        }
        else if (entry.is_regular_file())
        {
            syncFile(entry.path());
        }
    }
    syncDirectory(directory);
}

/** Under another name until it is enrolled: what a failure or the end of the
 * power leaves is begun again. */
void makeOne(const PoolConfig& config, const PoolCapsule& it,
             const PoolApproval& approval)
{
    const fs::path fresh = config.state / ("." + it.name + ".new");
    fs::remove_all(fresh);
    Capsule capsule =
        Capsule::create(fresh, {.images = config.images,
                                .keys = keysIn(config.keys),
                                .stagingSize = it.stagingMiB * mebibyte});
    giveCapsule(fresh, config.user);
    enrollCapsule(capsule, config.optionsOf(it),
                  {approval.siteKey, config.images.clean, approval.generation},
                  requestFrom(it.name, config.addressRootOf(it), it.site),
                  approval.bootTime);
    // What these starts have made is ours.
    giveCapsule(fresh, config.user);
    syncAll(fresh);
    fs::rename(fresh, config.directoryOf(it));
    syncDirectory(config.state);
}

/** Its user's in any case: a service manager that finds another's directory
 * gives all below it to the user, and some files are root's on purpose. */
void makeStateDirectory(const PoolConfig& config)
{
    const fs::path parent = config.state.parent_path();
    if (fs::create_directories(parent))
    {
        // Other services have theirs beside it.
        fs::permissions(parent, static_cast<fs::perms>(0755));
    }
    if (fs::create_directory(config.state))
    {
        fs::permissions(config.state, fs::perms::owner_all);
    }
    giveFile(config.state, config.user);
}

} // namespace

bool makePool(const PoolConfig& config, const PoolApproval& approval)
{
    makeStateDirectory(config);
    bool out = true;
    for (const PoolCapsule& it : config.capsules)
    {
        if (fs::exists(config.directoryOf(it)))
        {
            fmt::print("{}: is there\n", it.name);
            continue;
        }
        try
        {
            makeOne(config, it, approval);
            fmt::print("{}: made and enrolled; its address root is in {}\n",
                       it.name, config.addressRootOf(it).string());
        }
        catch (const std::exception& error)
        {
            log::error("A capsule cannot be made",
                       {{"CAPSULE", it.name}, {"REASON", error.what()}});
            out = false;
        }
    }
    return out;
}

} // namespace airlock::capsule
