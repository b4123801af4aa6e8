#include "bootsrv/capsule/pool_config.hpp"

#include "common/toml_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace airlock::capsule
{

namespace
{

constexpr std::int64_t leastMemory = 512;
constexpr std::int64_t mostMemory = 1 << 20;
constexpr std::int64_t mostCpus = 64;
constexpr std::int64_t leastStaging = 16;
constexpr std::int64_t mostStaging = 1 << 24;
constexpr std::size_t mostCapsules = 64;
constexpr std::size_t longestName = 32;

/** It becomes part of paths. */
bool isName(const std::string& name)
{
    return !name.empty() && name.size() <= longestName && name[0] != '-' &&
           std::all_of(name.begin(), name.end(), [](char c) {
               return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                      (c >= '0' && c <= '9') || c == '_' || c == '-';
           });
}

PoolCapsule readCapsule(TomlTable& table)
{
    PoolCapsule out;
    table.text("name", out.name);
    table.text("tap", out.tap);
    table.number("memory", out.memoryMiB, leastMemory, mostMemory);
    table.number("cpus", out.cpus, 1, mostCpus);
    table.number("staging", out.stagingMiB, leastStaging, mostStaging);
    table.path("site", out.site);
    table.path("address-root", out.addressRoot);
    table.time("clean-limit", out.cleanLimit);
    table.time("dirty-limit", out.dirtyLimit);
    return out;
}

using Each = std::function<void(TomlTable&, PoolCapsule&)>;

void readTables(TomlTable& top, PoolConfig& out, const Each& check)
{
    top.path("state-directory", out.state);
    top.path("socket", out.socket);
    top.text("user", out.user);

    out.machine.accelerator = "kvm";
    TomlTable machine = top.sub("machine");
    machine.path("qemu", out.machine.qemu);
    machine.path("firmware", out.machine.firmware);
    machine.text("accelerator", out.machine.accelerator);
    machine.text("cpu", out.machine.cpu);
    machine.done();

    TomlTable images = top.sub("images");
    images.path("clean", out.images.clean);
    images.path("dirty", out.images.dirty);
    images.path("keys", out.keys);
    images.done();

    top.tables("capsule", [&](TomlTable& table) {
        PoolCapsule capsule = readCapsule(table);
        check(table, capsule);
        out.capsules.push_back(std::move(capsule));
    });
}

/** Refuses what the keys alone do not show. */
void checkCapsule(const TomlTable& table, const PoolCapsule& capsule,
                  std::set<std::string>& names, std::set<std::string>& taps)
{
    if (!isName(capsule.name))
    {
        table.refuse(fmt::format("capsule.name has to be a name of at most {} "
                                 "letters, digits, _ and -",
                                 longestName));
    }
    if (!names.insert(capsule.name).second)
    {
        table.refuse("there are two capsules " + capsule.name);
    }
    if (capsule.tap.empty())
    {
        table.refuse("capsule.tap has to be the tap device that is the "
                     "capsule's port of the switch");
    }
    if (!taps.insert(capsule.tap).second)
    {
        table.refuse("two capsules have the tap device " + capsule.tap);
    }
    if (capsule.site.empty())
    {
        table.refuse("capsule.site has to name the file that says what clean "
                     "mode has to know");
    }
}

} // namespace

std::filesystem::path
PoolConfig::addressRootOf(const PoolCapsule& capsule) const
{
    return capsule.addressRoot.empty() ? state / (capsule.name + ".root")
                                       : capsule.addressRoot;
}

CapsuleOptions PoolConfig::optionsOf(const PoolCapsule& capsule) const
{
    CapsuleOptions out = machine;
    out.memoryMiB = capsule.memoryMiB;
    out.cpus = capsule.cpus;
    out.tap = capsule.tap;
    out.fence.emplace();
    out.fence->hidden = state;
    out.fence->user = user;
    return out;
}

PoolConfig readPoolConfig(const std::filesystem::path& file)
{
    PoolConfig out;
    std::set<std::string> names;
    std::set<std::string> taps;
    readToml(file, [&](TomlTable& top) {
        readTables(top, out, [&](TomlTable& table, PoolCapsule& capsule) {
            checkCapsule(table, capsule, names, taps);
        });
        if (out.capsules.empty() || out.capsules.size() > mostCapsules)
        {
            top.refuse(fmt::format("write each capsule as a table [[capsule]], "
                                   "at most {}",
                                   mostCapsules));
        }
        if (out.state.is_relative())
        {
            top.refuse("state-directory has to begin with /");
        }
    });
    return out;
}

std::vector<std::string> poolConfigKeys()
{
    return tomlKeys([](TomlTable& top) {
        PoolConfig ignored;
        readTables(top, ignored, [](TomlTable&, PoolCapsule&) {});
    });
}

} // namespace airlock::capsule
