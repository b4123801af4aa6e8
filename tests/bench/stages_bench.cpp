/** A reboot by `virsh reset` through libvirt and both daemons, all on this
 * machine, against a plain `virsh reset` of the same guest; and where the time
 * goes, from the host agent's job history.
 *
 * The plain domain runs on the boot machine: a full PC (derived from QEMU's
 * q35) of the same QEMU version, so that nothing but Airlock makes the
 * difference. Both are later reboots, not first boots, and end when a shell on
 * the guest's console answers in the new life. "Booted" means to the boot
 * server that the guest's shell answers and its disk can be synced. While one
 * guest is measured the other is suspended.
 */
#include "common/error.hpp"
#include "common/table.hpp"
#include "paired.hpp"
#include "tools/rigs/host_rig.hpp"
#include "tools/rigs/job_stages.hpp"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>

namespace airlock::bench
{
namespace
{

using Clock = std::chrono::steady_clock;
using rig::DomainCase;
using rig::HostRig;

constexpr Milliseconds bootTime = std::chrono::minutes(6);
/** While a guest boots it is asked so often whether it answers. */
constexpr Milliseconds patience{300};

/** One guest with a libvirt of its own. */
class Guest
{
  public:
    Guest(const rig::GuestCase& guest, bool plain)
        : rig_({domainOf(guest, plain)}, settingsOf(plain))
    {
        rig_.guest().start();
        bootId_ = rig_.guest().waitOtherLife("", bootTime);
        rig_.libvirt().virsh({"suspend", rig_.domain()});
    }

    double reboot()
    {
        rig_.libvirt().virsh({"resume", rig_.domain()});
        rig_.waitReborn(bootTime);
        Clock::time_point start = Clock::now();
        rig_.libvirt().virsh({"reset", rig_.domain()});
        bootId_ = rig_.guest().waitOtherLife(bootId_, bootTime, patience);
        double seconds =
            std::chrono::duration<double>(Clock::now() - start).count();
        rig_.libvirt().virsh({"suspend", rig_.domain()});
        return seconds;
    }

    /** Seconds of each stage of the last reboot. */
    std::map<std::string, double> stages() const
    {
        Json reply = rig_.ask("jobs", {{"limit", 1}});
        return reply.at("jobs").at(0).at("seconds");
    }

  private:
    static DomainCase domainOf(const rig::GuestCase& guest, bool plain)
    {
        DomainCase out;
        out.guest = guest;
        out.plain = plain;
        return out;
    }

    static rig::RigSettings settingsOf(bool plain)
    {
        rig::RigSettings out;
        out.daemons = !plain;
        return out;
    }

    HostRig rig_;
    std::string bootId_;
};

void printStages(const std::map<std::string, double>& mean, double whole)
{
    Table table({{"stage"},
                 {"seconds", Table::Align::right},
                 {"share", Table::Align::right}});
    double listed = 0;
    for (const rig::JobStage& stage : rig::jobStages)
    {
        auto found = mean.find(stage.name);
        if (found != mean.end())
        {
            listed += stage.depth == 0 ? found->second : 0;
            table.row({std::string(2 * stage.depth, ' ') + stage.name,
                       fmt::format("{:.2f}", found->second),
                       fmt::format("{:.1f} %", found->second / whole * 100)});
        }
    }
    table.row({"all else", fmt::format("{:.2f}", whole - listed),
               fmt::format("{:.1f} %", (whole - listed) / whole * 100)});
    fmt::print("{}", table.render());
    std::fflush(stdout);
}

Json measure(const Options& options, const rig::GuestCase& guest)
{
    const std::uint64_t disk = rig::allocatedBytes(rig::imageOf(guest.kernel));
    fmt::print("Debian 12, {} kernel, {} vCPUs, {} MiB, disk with {} MiB "
               "allocated; later reboots; up when a shell answers on the "
               "console\n",
               guest.kernel, guest.vcpus, guest.memory >> 20, disk >> 20);
    Guest plain(guest, true);
    Guest ours(guest, false);
    std::map<std::string, double> mean;
    double whole = 0;
    auto pairs = measurePairs(
        options.rounds, [&] { return plain.reboot(); },
        [&] {
            double seconds = ours.reboot();
            whole += seconds / options.rounds;
            for (const auto& [stage, time] : ours.stages())
            {
                mean[stage] += time / options.rounds;
            }
            return seconds;
        });
    Ratio ratio = speedUp(pairs);
    fmt::print("  {:.3f} times as long (95 % interval {:.3f} to {:.3f})\n",
               1 / ratio.mean, 1 / ratio.high, 1 / ratio.low);
    printStages(mean, whole);
    Json out = toJson(pairs, ratio);
    out["times_as_long"] = 1 / ratio.mean;
    out["guest"] = guest.name();
    out["disk_allocated_bytes"] = disk;
    out["stages"] = mean;
    return out;
}

Json run(const Options& options)
{
    // The tiny one boots in seconds: it shows what does not depend on a guest.
    return Json::array({measure(options, {"tiny", 1, 256ULL << 20, true}),
                        measure(options, {"cloud", 2, 1ULL << 30, true})});
}

} // namespace
} // namespace airlock::bench

int main(int argc, char** argv)
{
    return airlock::bench::benchMain(
        argc, argv,
        "Reboots through libvirt and both daemons, against plain resets.",
        airlock::bench::run);
}
