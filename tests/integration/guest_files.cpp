#include "guest_files.hpp"

#include "common/error.hpp"
#include "common/process.hpp"

#include <fmt/format.h>

#include <cstdlib>

namespace airlock::test
{

namespace
{

constexpr Milliseconds coldTime = std::chrono::seconds(30);
constexpr std::uint64_t gib = 1ULL << 30;

/** A disk of a gigabyte is nothing for a /tmp in memory. */
std::string preferVarTmp()
{
    ::setenv("TMPDIR", "/var/tmp", 0);
    return "airlock-test";
}

void copyImage(const std::filesystem::path& from,
               const std::filesystem::path& to)
{
    SpawnOptions options;
    options.argv = {"cp", "--reflink=auto", "--sparse=always", from.string(),
                    to.string()};
    ProcessOutput output = runProgram(options, std::chrono::minutes(10));
    if (!output.status.ok())
    {
        throw Error("cannot copy the guest's image (tools/build-image makes "
                    "it): " +
                    output.err);
    }
}

} // namespace

std::string GuestCase::name() const
{
    return fmt::format("{}_{}cpu_{}GiB_{}", kernel, vcpus, memory / gib,
                       msix ? "msix" : "intx");
}

GuestFiles::GuestFiles(const GuestCase& guest) : directory_(preferVarTmp())
{
    std::filesystem::path build = vm::defaultBuildDirectory();
    vm::QemuBuilds qemu = vm::findQemuBuilds(build);
    productionQemu_ = qemu.production;
    spec_.name = "test";
    spec_.uuid = "9d1f6a52-7c0e-4a39-8f10-5b7d2c34e601";
    spec_.vcpus = guest.vcpus;
    spec_.memory = guest.memory;
    spec_.msix = guest.msix;
    spec_.disks = {{directory_.path() / "disk.raw", false}};
    spec_.nics = {{"52:54:00:a1:0c:02"}};
    copyImage(build / "images" / ("debian12-" + guest.kernel + ".raw"),
              spec_.disks.front().image);
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
