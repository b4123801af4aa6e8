#include "guest_rig.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <thread>

namespace airlock::test
{

namespace
{

constexpr Milliseconds answerTime = std::chrono::minutes(3);
constexpr Milliseconds trapTime = std::chrono::minutes(5);
/** Seconds; a guest under TCG corrects its clock by less. */
constexpr double clockSlack = 2;
constexpr Milliseconds timerTime = std::chrono::seconds(2);

std::vector<std::uint64_t> timers(const Json& report)
{
    return report.at("timers").get<std::vector<std::uint64_t>>();
}

} // namespace

GuestRig::GuestRig(const GuestCase& guest)
    : files_(guest), production_(files_.startProduction())
{}

void GuestRig::mark(vm::GuestShell& shell, const std::string& name)
{
    Json answer = shell.probe("mark " + name, answerTime);
    markers_[name] = answer.at("sha256").get<std::string>();
}

vm::CycleReport GuestRig::boot()
{
    boots_++;
    return vm::bootAndHandOver(
        *production_, files_.site(), [this](vm::BootVm& boot) {
            vm::GuestShell shell(boot.machine());
            mark(shell, fmt::format("boot-{}", boots_));
            bootReportTime_ = std::chrono::steady_clock::now();
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
    std::chrono::duration<double> passed =
        std::chrono::steady_clock::now() - bootReportTime_;
    std::this_thread::sleep_for(timerTime);
    mark(shell, fmt::format("life-{}", boots_));
    lastReport_ = shell.settled(answerTime);

    EXPECT_EQ(lastReport_.at("boot_id"), bootReport_.at("boot_id"));
    EXPECT_GE(first.at("uptime"), bootReport_.at("uptime"));
    EXPECT_LE(first.at("uptime").get<double>() -
                  bootReport_.at("uptime").get<double>(),
              passed.count() + clockSlack)
        << "the guest's clock jumped";
    EXPECT_GE(lastReport_.at("uptime"), first.at("uptime"));
    EXPECT_EQ(lastReport_.at("system"), "running")
        << lastReport_.at("failed_units");
    EXPECT_EQ(lastReport_.at("trouble"), Json::array());
    EXPECT_EQ(lastReport_.at("network").at(0).at("carrier"), 1);
    ASSERT_EQ(timers(lastReport_).size(), files_.spec().vcpus);
    for (std::size_t cpu = 0; cpu < files_.spec().vcpus; cpu++)
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
