/** A reboot from inside through the whole path (trap, boot on the boot
 * machine, hand-over), against a plain reboot of the same guest on the boot
 * machine, which is an ordinary full PC.
 *
 * Both are later reboots, not first boots: processes, page cache and the files
 * of guest memory are warm. Both end when the guest has a root shell on its
 * console and reads and writes its disk. While one guest is measured the other
 * one is paused.
 */
#include "common/error.hpp"
#include "devmodel/vm/guest_shell.hpp"
#include "guest_files.hpp"
#include "paired.hpp"

#include <fmt/format.h>

#include <chrono>
#include <cstdio>

namespace airlock::bench
{
namespace
{

using Clock = std::chrono::steady_clock;
using test::GuestFiles;

constexpr Milliseconds bootTime = std::chrono::minutes(5);

double since(Clock::time_point start)
{
    return std::chrono::duration<double>(Clock::now() - start).count();
}

/** Until the guest answers after a reboot. */
void answer(vm::Machine& machine)
{
    vm::GuestShell shell(machine);
    shell.waitPrompt(bootTime);
    shell.checkDisk(bootTime);
}

class PlainGuest
{
  public:
    explicit PlainGuest(const test::GuestCase& guest)
        : files_(guest), boot_(files_.startBoot())
    {
        boot_->waitBooted(files_.site().policy, bootTime);
        boot_->machine().stop();
    }

    double reboot()
    {
        boot_->machine().resume();
        Clock::time_point start = Clock::now();
        vm::GuestShell(boot_->machine()).reboot();
        boot_->machine().qmp().waitEvent("RESET", bootTime);
        boot_->machine().console().forget(); // the prompts of the last life
        answer(boot_->machine());
        double seconds = since(start);
        boot_->machine().stop();
        boot_->machine().qmp().clearEvents();
        return seconds;
    }

  private:
    GuestFiles files_;
    std::unique_ptr<vm::BootVm> boot_;
};

class AirlockGuest
{
  public:
    explicit AirlockGuest(const test::GuestCase& guest)
        : files_(guest), production_(files_.startProduction())
    {
        vm::bootAndHandOver(*production_, files_.site());
        production_->machine().stop();
    }

    double reboot()
    {
        production_->machine().resume();
        Clock::time_point start = Clock::now();
        vm::GuestShell(production_->machine()).reboot();
        production_->waitTrap(bootTime);
        vm::bootAndHandOver(*production_, files_.site());
        vm::GuestShell(production_->machine()).checkDisk(bootTime);
        double seconds = since(start);
        production_->machine().stop();
        return seconds;
    }

  private:
    GuestFiles files_;
    std::unique_ptr<vm::ProductionVm> production_;
};

Json measure(const Options& options, const std::string& kernel)
{
    test::GuestCase guest{kernel, 2, 1ULL << 30, true};
    const std::uint64_t disk = rig::allocatedBytes(rig::imageOf(kernel));
    fmt::print("Debian 12, {} kernel, 2 vCPUs, 1 GiB, disk with {} MiB "
               "allocated; later reboots; up when a root shell reads and "
               "writes its disk\n",
               kernel, disk >> 20);
    std::fflush(stdout);
    PlainGuest plain(guest);
    AirlockGuest ours(guest);
    auto pairs = measurePairs(
        options.rounds, [&] { return plain.reboot(); },
        [&] { return ours.reboot(); });
    Ratio ratio = speedUp(pairs);
    fmt::print("  {:.3f} times as long (95 % interval {:.3f} to {:.3f})\n",
               1 / ratio.mean, 1 / ratio.high, 1 / ratio.low);
    Json out = toJson(pairs, ratio);
    out["times_as_long"] = 1 / ratio.mean;
    out["guest"] = guest.name();
    out["disk_allocated_bytes"] = disk;
    return out;
}

Json run(const Options& options)
{
    return Json::array(
        {measure(options, "cloud"), measure(options, "standard")});
}

} // namespace
} // namespace airlock::bench

int main(int argc, char** argv)
{
    return airlock::bench::benchMain(
        argc, argv, "Reboots through the whole path, against plain reboots.",
        airlock::bench::run);
}
