#include "guest_rig.hpp"

#include "common/error.hpp"
#include "common/process.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <thread>

namespace airlock::test
{

namespace
{

constexpr Milliseconds answerTime = std::chrono::minutes(3);
constexpr Milliseconds trapTime = std::chrono::minutes(5);
constexpr Milliseconds coldTime = std::chrono::seconds(30);
constexpr Milliseconds timerTime = std::chrono::seconds(2);
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

std::vector<std::uint64_t> timers(const Json& report)
{
    return report.at("timers").get<std::vector<std::uint64_t>>();
}

} // namespace

std::string GuestCase::name() const
{
    return fmt::format("{}_{}cpu_{}GiB_{}", kernel, vcpus, memory / gib,
                       msix ? "msix" : "intx");
}

GuestRig::GuestRig(const GuestCase& guest) : files_(preferVarTmp())
{
    std::filesystem::path build = vm::defaultBuildDirectory();
    vm::QemuBuilds qemu = vm::findQemuBuilds(build);
    spec_.name = "test";
    spec_.uuid = "9d1f6a52-7c0e-4a39-8f10-5b7d2c34e601";
    spec_.vcpus = guest.vcpus;
    spec_.memory = guest.memory;
    spec_.msix = guest.msix;
    spec_.disks = {{files_.path() / "disk.raw", false}};
    spec_.nics = {{"52:54:00:a1:0c:02"}};
    copyImage(build / "images" / ("debian12-" + guest.kernel + ".raw"),
              spec_.disks.front().image);
    site_.qemu = qemu.boot;
    site_.log = files_.path() / "boot.log";

    vm::ProductionVm::Options options;
    options.log = files_.path() / "production.log";
    production_.emplace(qemu.production, spec_, options);
    vm::Trap trap = production_->waitTrap(coldTime);
    EXPECT_EQ(trap.cause, "cold-start");
}

void GuestRig::mark(vm::GuestShell& shell, const std::string& name)
{
    Json answer = shell.probe("mark " + name, answerTime);
    markers_[name] = answer.at("sha256").get<std::string>();
}

vm::CycleReport GuestRig::boot()
{
    boots_++;
    return vm::bootAndHandOver(*production_, site_, [this](vm::BootVm& boot) {
        vm::GuestShell shell(boot.machine());
        mark(shell, fmt::format("boot-{}", boots_));
        bootReport_ = shell.settled(answerTime);
    });
}

void GuestRig::expectMarkers()
{
    const Json& seen = lastReport_.at("markers");
    for (const auto& [name, digest] : markers_)
    {
        EXPECT_EQ(seen.value(name, "missing"), digest) << name;
    }
}

void GuestRig::expectWell()
{
    vm::GuestShell shell(production_->machine());
    shell.checkDisk(answerTime);
    Json first = shell.probe("report", answerTime);
    std::this_thread::sleep_for(timerTime);
    mark(shell, fmt::format("life-{}", boots_));
    lastReport_ = shell.settled(answerTime);

    EXPECT_EQ(lastReport_.at("boot_id"), bootReport_.at("boot_id"));
    EXPECT_GE(first.at("uptime"), bootReport_.at("uptime"));
    EXPECT_GE(lastReport_.at("uptime"), first.at("uptime"));
    EXPECT_EQ(lastReport_.at("system"), "running")
        << lastReport_.at("failed_units");
    EXPECT_EQ(lastReport_.at("trouble"), Json::array());
    EXPECT_EQ(lastReport_.at("network").at(0).at("carrier"), 1);
    ASSERT_EQ(timers(lastReport_).size(), spec_.vcpus);
    for (std::size_t cpu = 0; cpu < spec_.vcpus; cpu++)
    {
        EXPECT_GT(timers(lastReport_)[cpu], timers(first)[cpu])
            << "vCPU " << cpu;
    }
    expectMarkers();
}

vm::Trap GuestRig::rebootFromInside()
{
    vm::GuestShell(production_->machine()).reboot();
    return production_->waitTrap(trapTime);
}

} // namespace airlock::test
