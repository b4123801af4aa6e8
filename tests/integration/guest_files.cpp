#include "guest_files.hpp"

#include "common/error.hpp"

namespace airlock::test
{

namespace
{

constexpr Milliseconds coldTime = std::chrono::seconds(30);

} // namespace

GuestFiles::GuestFiles(const GuestCase& guest)
    : directory_(rig::roomyDirectory("airlock-test"))
{
    vm::QemuBuilds qemu = vm::findQemuBuilds(vm::defaultBuildDirectory());
    productionQemu_ = qemu.production;
    spec_.name = "test";
    spec_.uuid = "9d1f6a52-7c0e-4a39-8f10-5b7d2c34e601";
    spec_.vcpus = guest.vcpus;
    spec_.memory = guest.memory;
    spec_.msix = guest.msix;
    spec_.disks = {{directory_.path() / "disk.raw", false}};
    spec_.nics = {{"52:54:00:a1:0c:02"}};
    rig::copyImage(rig::imageOf(guest.kernel), spec_.disks.front().image);
    site_.qemu = qemu.boot;
    site_.log = directory_.path() / "boot.log";
}

std::unique_ptr<vm::ProductionVm> GuestFiles::startProduction() const
{
    vm::ProductionVm::Options options;
    options.log = directory_.path() / "production.log";
    auto production =
        std::make_unique<vm::ProductionVm>(productionQemu_, spec_, options);
    vm::Trap trap = production->waitTrap(coldTime);
    if (trap.cause != "cold-start")
    {
        throw Error("the cold start was trapped as " + describe(trap));
    }
    return production;
}

std::unique_ptr<vm::BootVm> GuestFiles::startBoot() const
{
    return std::make_unique<vm::BootVm>(site_.qemu, spec_, site_.options,
                                        site_.log);
}

} // namespace airlock::test
