#include "tools/rigs/boot_survey.hpp"

#include "common/error.hpp"
#include "common/file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

namespace airlock::rig
{

namespace
{

constexpr Milliseconds firmwareTime = std::chrono::seconds(60);
constexpr Milliseconds waitStep{100};
constexpr off_t diskBytes = 1 << 20;
/** A register of the south bridge that is there when firmware has mapped it. */
constexpr std::uint64_t gpeStatus = 0x620;

bool covers(const std::vector<vm::AddressRange>& ranges, std::uint64_t address)
{
    return std::ranges::any_of(ranges, [&](const vm::AddressRange& range) {
        return range.first <= address && address <= range.last;
    });
}

std::filesystem::path emptyDisk(const std::filesystem::path& directory)
{
    std::filesystem::path path = directory / "empty.raw";
    UniqueFd file = openFile(path, O_RDWR | O_CREAT, 0600);
    if (::ftruncate(file.get(), diskBytes) != 0)
    {
        throwErrno("cannot make " + path.string());
    }
    return path;
}

} // namespace

vm::Survey surveyBootMachine(const vm::Qemu& qemu, vm::GuestSpec spec,
                             const vm::BootOptions& options,
                             const std::filesystem::path& directory,
                             const std::function<void()>& tick)
{
    spec.disks = {{emptyDisk(directory), false}};
    vm::BootVm boot(qemu, spec, options, directory / "survey.log");
    Deadline deadline(firmwareTime);
    for (;;)
    {
        vm::Survey out = vm::survey(boot.machine().qmp());
        if (covers(out.ports, gpeStatus))
        {
            return out;
        }
        if (deadline.passed())
        {
            throw TimedOut("the firmware of the boot machine does not set up "
                           "its power management");
        }
        if (tick)
        {
            tick();
        }
        std::this_thread::sleep_for(waitStep);
    }
}

} // namespace airlock::rig
