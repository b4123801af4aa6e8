#include "devmodel/vm/kvm_probe.hpp"

#include "common/error.hpp"
#include "common/file.hpp"
#include "common/json.hpp"
#include "devmodel/vm/boot_vm.hpp"

#include <fcntl.h>

#include <optional>

namespace airlock::vm
{

namespace
{

constexpr std::size_t cacheMax = 64U << 10;
constexpr Milliseconds bootTime = std::chrono::minutes(1);
/** A root file system that cannot be written may end in emergency mode: user
 * space runs all the same. */
constexpr const char* userSpace = "login:|emergency mode|maintenance";

std::string hostBootId()
{
    UniqueFd file = openFile("/proc/sys/kernel/random/boot_id", O_RDONLY);
    return std::string(asText(readToEnd(file.get(), cacheMax, "boot_id")));
}

std::optional<KvmProbe> readCache(const std::filesystem::path& cache,
                                  const std::string& key)
{
    if (!std::filesystem::exists(cache))
    {
        return std::nullopt;
    }
    Json json = parseJson(readTextFile(cache, cacheMax), cache.string());
    JsonField field(json, cache.string());
    if (field.at("key").string() != key)
    {
        return std::nullopt;
    }
    return KvmProbe{field.at("usable").boolean(), field.at("why").string()};
}

KvmProbe tryKvm(const Qemu& boot, const GuestSpec& spec)
{
    try
    {
        UniqueFd device = openFile("/dev/kvm", O_RDWR);
    }
    catch (const SystemError& error)
    {
        return {false, error.what()};
    }
    TempDirectory directory("airlock-kvm");
    try
    {
        BootVm vm(boot, spec, {}, directory.path() / "qemu.log");
        vm.waitBooted(BootedSerial{userSpace}, bootTime);
        return {true, "a guest boots with it"};
    }
    catch (const Error& error)
    {
        return {false, error.what()};
    }
}

} // namespace

KvmProbe probeKvm(const Qemu& boot, GuestSpec spec,
                  const std::filesystem::path& cache)
{
    std::string key = hostBootId() + " " + spec.cpuModel;
    if (std::optional<KvmProbe> known = readCache(cache, key))
    {
        return *known;
    }
    spec.accelerator = Accelerator::kvm;
    for (Disk& disk : spec.disks)
    {
        disk.readOnly = true;
    }
    KvmProbe result = tryKvm(boot, spec);
    writeFileAtomic(cache, dumpJson({{"key", key},
                                     {"usable", result.usable},
                                     {"why", printable(result.why, 300)}}));
    return result;
}

} // namespace airlock::vm
