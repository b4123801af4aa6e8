/** Kills what a reboot depends on: at the beginning of each stage, and at
 * random instants. Disks fill up on either side. Whatever happens, the guest
 * comes back with every write that it was told is durable, nothing applied
 * twice, and a clean file system; or it is held with its disk untouched.
 *
 * AIRLOCK_FULL=1 wants the long version, AIRLOCK_KILLS sets the number of
 * random instants, AIRLOCK_SEED what is random. */
#include "common/error.hpp"
#include "common/table.hpp"
#include "kill_guest.hpp"
#include "tools/rigs/host_rig.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mount.h>

#include <array>
#include <cstdlib>
#include <optional>
#include <random>
#include <thread>

namespace airlock::test
{

using namespace rig;

namespace
{

using Clock = std::chrono::steady_clock;

constexpr Milliseconds backTime = std::chrono::minutes(4);
constexpr Milliseconds stageTime = std::chrono::minutes(2);

enum class Victim
{
    hostd,
    bootd,
    bootQemu,
    productionQemu,
    libvirtd,
};

constexpr std::array victims = {Victim::hostd, Victim::bootd, Victim::bootQemu,
                                Victim::productionQemu, Victim::libvirtd};

std::string nameOf(Victim victim)
{
    switch (victim)
    {
    case Victim::hostd:
        return "hostd";
    case Victim::bootd:
        return "bootd";
    case Victim::bootQemu:
        return "boot QEMU";
    case Victim::productionQemu:
        return "production QEMU";
    case Victim::libvirtd:
        return "libvirtd";
    }
    return "?";
}

unsigned numberFrom(const char* variable, unsigned otherwise)
{
    const char* text = std::getenv(variable);
    return text == nullptr ? otherwise
                           : static_cast<unsigned>(std::stoul(text));
}

unsigned instantsWanted()
{
    bool full = numberFrom("AIRLOCK_FULL", 0) != 0;
    return numberFrom("AIRLOCK_KILLS", full ? 200 : 20);
}

DomainCase tinyDomain()
{
    DomainCase out;
    out.guest = {"tiny", 1, 160ULL << 20, true};
    return out;
}

/** False when there was nobody to kill. */
bool killVictim(HostRig& rig, Victim victim)
{
    switch (victim)
    {
    case Victim::hostd:
        rig.hostd().kill();
        rig.startHostd();
        return true;
    case Victim::bootd:
        rig.bootd().kill();
        rig.startBootd();
        return true;
    case Victim::bootQemu:
        return killBootQemu(rig);
    case Victim::productionQemu:
        killProductionQemu(rig);
        return true;
    case Victim::libvirtd:
        rig.libvirt().kill();
        rig.libvirt().start();
        return true;
    }
    return false;
}

/** The boot QEMU is started a moment after the stage has begun. */
bool killWhenThere(HostRig& rig, Victim victim)
{
    Deadline deadline(stageTime);
    while (!killVictim(rig, victim))
    {
        if (deadline.passed())
        {
            return false;
        }
        std::this_thread::sleep_for(Milliseconds(20));
    }
    return true;
}

/** A reboot with a fault, and how it ended. */
struct Outcome
{
    std::string when;
    std::string victim;
    bool killed = false;
    double seconds = 0;
    std::uint64_t acknowledged = 0;
};

void print(const Outcome& outcome)
{
    fmt::print("{:<16} {:<16} {:<8} back after {:5.1f} s, {} writes kept\n",
               outcome.when, outcome.victim,
               outcome.killed ? "killed" : "not there", outcome.seconds,
               outcome.acknowledged);
    std::fflush(stdout);
}

/** Reboots the guest while it writes; `fault` runs after the reboot was asked
 * for. Then the guest is back and all is well, or the test has failed. */
Outcome rebootWith(KillGuest& guest, Outcome outcome, bool harsh,
                   const std::function<bool()>& fault)
{
    SCOPED_TRACE(outcome.victim + " at " + outcome.when);
    guest.startWriting();
    Clock::time_point start = Clock::now();
    guest.reboot(harsh);
    outcome.killed = fault();
    guest.waitBack(backTime);
    outcome.seconds =
        std::chrono::duration<double>(Clock::now() - start).count();
    outcome.acknowledged = guest.acknowledged();
    EXPECT_EQ(guest.complaints(), "");
    print(outcome);
    return outcome;
}

/** Jobs that the boot server keeps files of. */
unsigned jobsHeld(const HostRig& rig)
{
    unsigned count = 0;
    for (const auto& job :
         std::filesystem::directory_iterator(rig.path() / "bootd/jobs"))
    {
        if (std::filesystem::exists(job.path() / "disks") ||
            std::filesystem::exists(job.path() / "out"))
        {
            count++;
        }
    }
    return count;
}

/** A host agent that starts removes what one before it had no time for. */
void expectNoJobLeft(HostRig& rig)
{
    rig.hostd().kill();
    rig.startHostd();
    Deadline deadline(stageTime);
    while (jobsHeld(rig) > 0 && !deadline.passed())
    {
        std::this_thread::sleep_for(Milliseconds(200));
    }
    EXPECT_EQ(jobsHeld(rig), 0U);
}

/** Ends the guest in good order and looks at its disk from outside. */
void expectCleanEnd(HostRig& rig, KillGuest& guest)
{
    EXPECT_EQ(guest.lostOfAll(), "");
    rig.send("poweroff");
    rig.guest().waitOff(std::chrono::minutes(1));
    EXPECT_EQ(fileSystemTrouble(rig.guest().image()), "");
    expectNoJobLeft(rig);
}

void printTable(const std::string& title, const std::vector<Outcome>& outcomes)
{
    Table table({{"stage"},
                 {"fault"},
                 {"killed"},
                 {"seconds", Table::Align::right},
                 {"writes kept", Table::Align::right}});
    for (const Outcome& each : outcomes)
    {
        table.row({each.when, each.victim, each.killed ? "yes" : "not there",
                   fmt::format("{:.1f}", each.seconds),
                   std::to_string(each.acknowledged)});
    }
    fmt::print("\n{}\n{}", title, table.render());
    std::fflush(stdout);
}

TEST(Kill, EachVictimAtEachStage)
{
    HostRig rig({tinyDomain()}, {.reboot = "retry-delay = 1"});
    KillGuest guest(rig);
    guest.start(backTime);
    std::vector<Outcome> outcomes;
    for (const char* stage : {"trapped", "exporting", "booting", "returning",
                              "admitting", "applying", "running"})
    {
        for (Victim victim : victims)
        {
            bool booting = std::string_view(stage) == "booting";
            if (victim == Victim::bootQemu && !booting)
            {
                continue; // there is none
            }
            bool harsh = outcomes.size() % 2 == 1;
            auto fault = [&] {
                waitLogged(rig, fmt::format("STATE={}", stage),
                           guest.logStart(), stageTime);
                return killWhenThere(rig, victim);
            };
            outcomes.push_back(
                rebootWith(guest, {stage, nameOf(victim)}, harsh, fault));
            EXPECT_TRUE(outcomes.back().killed)
                << nameOf(victim) << " at " << stage << " was not there";
            if (HasFailure())
            {
                return;
            }
        }
    }
    expectCleanEnd(rig, guest);
    printTable("A reboot with a fault when a stage begins:", outcomes);
}

TEST(Kill, RandomInstants)
{
    unsigned seed = numberFrom("AIRLOCK_SEED", 20261121);
    fmt::print("{} instants, seed {}\n", instantsWanted(), seed);
    std::mt19937 random(seed);
    HostRig rig({tinyDomain()}, {.reboot = "retry-delay = 1"});
    KillGuest guest(rig);
    guest.start(backTime);
    Outcome plain =
        rebootWith(guest, {"", "nobody"}, false, [] { return true; });
    std::vector<Outcome> outcomes;
    for (unsigned i = 0; i < instantsWanted(); i++)
    {
        Victim victim = victims[i % victims.size()];
        std::uniform_real_distribution<double> instant(0, plain.seconds);
        double at = instant(random);
        auto fault = [&] {
            std::this_thread::sleep_for(
                Milliseconds(static_cast<std::int64_t>(at * 1000)));
            return killVictim(rig, victim);
        };
        outcomes.push_back(
            rebootWith(guest, {fmt::format("{:.2f} s", at), nameOf(victim)},
                       random() % 2 == 1, fault));
        // There is a boot's QEMU only while a guest boots.
        EXPECT_TRUE(outcomes.back().killed || victim == Victim::bootQemu)
            << nameOf(victim) << " was not there";
        if (HasFailure())
        {
            return;
        }
    }
    expectCleanEnd(rig, guest);
    printTable("A reboot with a fault at a random instant:", outcomes);
}

/** A file system of this size in the place of a directory; this test and what
 * it starts see it. */
class SmallDisk
{
  public:
    SmallDisk(std::filesystem::path where, std::uint64_t bytes)
        : where_(std::move(where)), bytes_(bytes)
    {
        std::filesystem::create_directories(where_);
        std::string size = fmt::format("size={}", bytes_);
        if (::mount("tmpfs", where_.c_str(), "tmpfs", 0, size.c_str()) != 0)
        {
            throwErrno("cannot mount a small tmpfs");
        }
    }
    SmallDisk(const SmallDisk&) = delete;
    SmallDisk& operator=(const SmallDisk&) = delete;
    ~SmallDisk() { ::umount2(where_.c_str(), MNT_DETACH); }

    void leave(std::uint64_t bytes) const
    {
        makeRoom();
        UniqueFd file = openFile(where_ / "filler", O_WRONLY | O_CREAT, 0600);
        std::uint64_t available = std::filesystem::space(where_).available;
        if (available > bytes &&
            ::posix_fallocate(file.get(), 0,
                              static_cast<off_t>(available - bytes)) != 0)
        {
            throw Error("cannot fill a tmpfs");
        }
    }
    void makeRoom() const { std::filesystem::remove(where_ / "filler"); }

  private:
    std::filesystem::path where_;
    std::uint64_t bytes_;
};

/** What the host agent says of the guest. */
Json vmOf(const HostRig& rig)
{
    return rig.ask("status", {{"vm", rig.domain()}}).at("vm");
}

/** Resets the guest with a disk that fills up on the way; it has to be held,
 * untouched, until there is room and an operator says so. */
void fillUpAndHold(HostRig& rig, KillGuest& guest, const std::string& what,
                   const SmallDisk& disk, std::uint64_t left)
{
    SCOPED_TRACE(what);
    guest.startWriting();
    disk.leave(left);
    guest.reset();
    std::string before = digestOf(rig.guest().image());
    Deadline deadline(backTime);
    while (vmOf(rig).at("state") != "held")
    {
        ASSERT_FALSE(deadline.passed()) << vmOf(rig).dump() << rig.logs();
        std::this_thread::sleep_for(Milliseconds(200));
    }
    EXPECT_EQ(rig.domainState(), "paused");
    EXPECT_EQ(digestOf(rig.guest().image()), before);
    std::string reason = vmOf(rig).at("reason");
    EXPECT_TRUE(reason.find("full") != std::string::npos ||
                reason.find("No space left") != std::string::npos)
        << reason;
    fmt::print("{:<40} held: {}\n", what, reason);
    disk.makeRoom();
    rig.ask("retry", {{"vm", rig.domain()}});
    guest.waitBack(backTime);
    EXPECT_EQ(guest.complaints(), "");
}

/** The boot server on a small disk of its own. */
class SmallBootServer
{
  public:
    SmallBootServer(HostRig& rig, std::uint64_t bytes) : rig_(rig)
    {
        rig_.bootd().kill();
        disk_.emplace(rig_.path() / "bootd", bytes);
        rig_.startBootd();
    }
    SmallBootServer(const SmallBootServer&) = delete;
    SmallBootServer& operator=(const SmallBootServer&) = delete;
    ~SmallBootServer()
    {
        rig_.bootd().kill();
        disk_.reset();
        rig_.startBootd();
    }

    const SmallDisk& disk() const { return *disk_; }

  private:
    HostRig& rig_;
    std::optional<SmallDisk> disk_;
};

TEST(Kill, DisksThatFillUp)
{
    HostRig rig({tinyDomain()}, {.reboot = "retry-delay = 1\nattempts = 2"});
    KillGuest guest(rig);
    guest.start(backTime);
    constexpr std::uint64_t mib = 1U << 20;
    {
        SmallDisk spool(rig.path() / "hostd/spool", 64 * mib);
        fillUpAndHold(rig, guest, "host agent: the delta", spool, 0);
    }
    SmallBootServer server(rig, 1024 * mib);
    for (auto [what, left] : std::vector<std::pair<std::string, std::uint64_t>>{
             {"boot server: the job", 0},
             {"boot server: its disk", 10 * mib},
             {"boot server: the copy for the boot", 36 * mib},
             {"boot server: the guest's memory", 70 * mib}})
    {
        if (!HasFailure())
        {
            fillUpAndHold(rig, guest, what, server.disk(), left);
        }
    }
    if (!HasFailure())
    {
        expectCleanEnd(rig, guest);
    }
}

} // namespace
} // namespace airlock::test
