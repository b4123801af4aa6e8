/** The systemd units as they are installed, under a real systemd: a Debian host
 * is a guest here, and an airlock guest is a guest of that. One host for all
 * tests, in their order. */
#include "common/error.hpp"
#include "common/json.hpp"
#include "devmodel/vm/boot_vm.hpp"
#include "devmodel/vm/guest_shell.hpp"
#include "devmodel/vm/kvm_probe.hpp"
#include "tests/unit/error_of.hpp"
#include "tools/rigs/guest_case.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <thread>

namespace airlock::test
{

namespace
{

using testing::HasSubstr;
using testing::Not;

constexpr Milliseconds hostTime = std::chrono::minutes(10);
constexpr Milliseconds commandTime = std::chrono::minutes(3);
/** A boot in a guest of a guest, both without KVM. */
constexpr Milliseconds rebootTime = std::chrono::minutes(30);
constexpr Milliseconds step{1000};
constexpr std::uint64_t hostMemory = 2ULL << 30;

const std::vector<std::string> daemons = {"airlock-bootd", "airlock-hostd",
                                          "airlock-switchd"};

/** tests/suites/units.sh has made it. */
std::filesystem::path filesDisk()
{
    const char* path = std::getenv("AIRLOCK_UNITS_DISK");
    if (path == nullptr)
    {
        throw Error("AIRLOCK_UNITS_DISK is not set: run this by tools/check "
                    "--suite units");
    }
    return path;
}

/** A Debian host that boots with systemd, with our programs installed. */
class DebianHost
{
  public:
    DebianHost() : directory_(rig::roomyDirectory("airlock-units"))
    {
        std::filesystem::path build =
            std::filesystem::absolute(vm::defaultBuildDirectory());
        std::filesystem::path image = build / "images/debian12-host.raw";
        vm::Qemu qemu = vm::findQemuBuilds(build).boot;
        spec_.memory = hostMemory;
        spec_.disks = {{image, true}};
        if (vm::probeKvm(qemu, spec_, build / "kvm.json").usable)
        {
            spec_.accelerator = vm::Accelerator::kvm;
        }
        spec_.disks = {{directory_.path() / "host.raw"}, {filesDisk(), true}};
        rig::copyImage(image, spec_.disks.front().image);
        vm_.emplace(qemu, spec_, vm::BootOptions{},
                    directory_.path() / "qemu.log");
        vm_->machine().resume();
        shell_.emplace(vm_->machine());
        shell_->waitPrompt(hostTime);
        // The console is a terminal: nothing is to wait for its keys.
        run("export SYSTEMD_PAGER=cat SYSTEMD_COLORS=0");
        run("mkdir -p /mnt && mount -o ro /dev/vdb /mnt && "
            "sh /mnt/test/set-up /mnt",
            hostTime);
    }

    std::string run(const std::string& command,
                    Milliseconds timeout = commandTime)
    {
        vm_->machine().drainConsoles();
        return shell_->run(command, timeout);
    }

    /** What a command says that fails; "" when it does not. A time-out is
     * none: then the shell is lost. */
    std::string refusal(const std::string& command)
    {
        try
        {
            run(command);
            return "";
        }
        catch (const TimedOut&)
        {
            throw;
        }
        catch (const Error& error)
        {
            return error.what();
        }
    }

    /** Until the command succeeds. */
    void wait(const std::string& command, Milliseconds timeout)
    {
        Deadline deadline(timeout);
        std::string why;
        while (!(why = refusal(command)).empty())
        {
            if (deadline.passed())
            {
                throw TimedOut(why + "\n" +
                               run("journalctl -b -n 60 -q "
                                   "--no-pager -o cat || true"));
            }
            std::this_thread::sleep_for(step);
        }
    }

    /** "airlock-hostd", "MainPID": "412". */
    std::string property(const std::string& unit, const std::string& name)
    {
        std::string out =
            run(fmt::format("systemctl show {} -P {}", unit, name));
        out.erase(out.find_last_not_of('\n') + 1);
        return out;
    }

    /** A line of /proc/PID/status of the unit's main process. */
    std::string status(const std::string& unit, const std::string& name)
    {
        std::string out = run(fmt::format(
            "sed -n 's/^{}:[[:space:]]*//p' /proc/{}/status | tr -s '\\t ' ' '",
            name, property(unit, "MainPID")));
        out.erase(out.find_last_not_of('\n') + 1);
        return out;
    }

    /** Asks for the unit's journal, with its fields. */
    std::vector<Json> journal(const std::string& unit)
    {
        std::string text = run(fmt::format(
            "journalctl -b -q --no-pager -o json "
            "--output-fields=MESSAGE,MESSAGE_ID,PRIORITY,AIRLOCK_DOMAIN,"
            "AIRLOCK_STATE,AIRLOCK_JOB,AIRLOCK_STAGE,AIRLOCK_REASON,_COMM "
            "-u {} | grep '^{{'",
            unit));
        std::vector<Json> out;
        for (std::size_t at = 0; at < text.size();)
        {
            std::size_t end = std::min(text.find('\n', at), text.size());
            out.push_back(parseJson(text.substr(at, end - at), "journalctl"));
            at = end + 1;
        }
        return out;
    }

  private:
    TempDirectory directory_;
    vm::GuestSpec spec_;
    std::optional<vm::BootVm> vm_;
    std::optional<vm::GuestShell> shell_;
};

class UnitsTest : public testing::Test
{
  protected:
    static void SetUpTestSuite() { shared = std::make_unique<DebianHost>(); }
    static void TearDownTestSuite() { shared.reset(); }

    DebianHost& host = *shared;

    /** Of those that the peer of the boot port sends when it comes up, those
     * that come out at the bridge. */
    int framesThatPass()
    {
        return std::stoi(host.run(
            "cd /sys/class/net/br0/statistics && before=$(cat rx_packets) && "
            "ip link set host0 down && ip link set host0 up && sleep 5 && "
            "echo $(($(cat rx_packets) - before))"));
    }

    /** The unit's process ended and another one is there. */
    void expectAnother(const std::string& unit, const std::string& pid,
                       Milliseconds timeout)
    {
        host.wait(fmt::format("systemctl is-active -q {0} && "
                              "test $(systemctl show {0} -P MainPID) != {1}",
                              unit, pid),
                  timeout);
    }

    /** The QEMU that boots a guest is inside the unit's fence and has its own
     * inside of that. */
    void expectFencedBoot()
    {
        std::string find = "pgrep -u airlock-bootd -x qemu-system-x86";
        host.wait(find, rebootTime);
        std::string pid = host.run(find + " | head -n 1");
        pid.pop_back();
        std::string status = host.run(fmt::format("cat /proc/{}/status", pid));
        EXPECT_THAT(status, HasSubstr("CapEff:\t0000000000000000\n"));
        EXPECT_THAT(status, HasSubstr("CapBnd:\t0000000000000000\n"));
        EXPECT_THAT(status, HasSubstr("NoNewPrivs:\t1\n"));
        EXPECT_THAT(status, HasSubstr("Seccomp:\t2\n"));
        for (const char* kind : {"user", "net", "mnt", "pid", "ipc", "uts"})
        {
            EXPECT_NE(
                host.run(fmt::format("readlink /proc/{}/ns/{}", pid, kind)),
                host.run(fmt::format("readlink /proc/{}/ns/{}",
                                     host.property("airlock-bootd", "MainPID"),
                                     kind)))
                << kind;
        }
        EXPECT_EQ(host.run(fmt::format("sed 1,2d /proc/{}/net/dev | "
                                       "cut -d: -f1 | xargs",
                                       pid)),
                  "lo\n");
        std::string job = "/var/lib/airlock/bootd/jobs/*";
        EXPECT_THAT(host.run("ls " + job), HasSubstr("job.json"));
        EXPECT_EQ(host.run(fmt::format("ls /proc/{}/root{}", pid, job)),
                  "run\n");
    }

  private:
    static inline std::unique_ptr<DebianHost> shared;
};

TEST_F(UnitsTest, InstalledProgramsFindTheirLibraries)
{
    // In a shell of its own, for it is to end at the first that fails.
    EXPECT_THAT(host.run("(for program in /usr/bin/airlock* "
                         "/usr/libexec/airlock/* "
                         "/usr/lib/airlock/*/qemu-system-x86_64; do "
                         "ldd $program || exit; done)"),
                Not(HasSubstr("not found")));
    host.run("test -s /usr/share/bash-completion/completions/airlockctl");
}

TEST_F(UnitsTest, SystemdHasNothingToSayAgainstTheUnits)
{
    EXPECT_EQ(host.run("systemd-analyze verify --man=no "
                       "/usr/lib/systemd/system/airlock-*.service "
                       "/usr/lib/systemd/system/airlock-*.socket"),
              "");
    // "man:airlockctl(1)" is a file, though there are no other manuals here.
    EXPECT_EQ(host.run("sed -n 's/^Documentation=//p' "
                       "/usr/lib/systemd/system/airlock-* | tr ' ' '\\n' | "
                       "sed -n 's/^man:\\(.*\\)(\\(.\\))/\\2 \\1/p' | "
                       "while read -r section page; do test -s "
                       "/usr/share/man/man$section/$page.$section || "
                       "echo no $page; done"),
              "");
    // So it would say something.
    EXPECT_THAT(
        host.run("sed s/^User=/Usr=/ "
                 "/usr/lib/systemd/system/airlock-bootd.service "
                 ">/run/wrong.service; "
                 "systemd-analyze verify --man=no /run/wrong.service || true"),
        HasSubstr("Usr"));
}

TEST_F(UnitsTest, EachDaemonHasAUserAndAKeyOfItsOwn)
{
    for (const std::string& daemon : daemons)
    {
        EXPECT_THAT(host.run("getent passwd " + daemon), HasSubstr("nologin"));
        std::string key = "/etc/airlock/" +
                          daemon.substr(std::string("airlock-").size()) +
                          ".key";
        EXPECT_EQ(host.run("stat -c %U:%G:%a " + key),
                  "root:" + daemon + ":640\n");
        EXPECT_EQ(host.refusal(fmt::format("runuser -u {} -- cat {} >/dev/null",
                                           daemon, key)),
                  "");
        for (const std::string& other : daemons)
        {
            EXPECT_EQ(
                other != daemon,
                !host.refusal(fmt::format("runuser -u {} -- cat {} >/dev/null",
                                          other, key))
                     .empty())
                << other << " " << key;
        }
    }
    // hostd's is none that QEMU runs as, and not root by a group.
    EXPECT_THAT(host.run("id -nG airlock-hostd"), Not(HasSubstr("libvirt")));
}

TEST_F(UnitsTest, DaemonsStartAndSaySo)
{
    for (const std::string& daemon : daemons)
    {
        EXPECT_EQ(host.refusal("systemctl enable --now " + daemon), "")
            << host.run(fmt::format(
                   "journalctl -q --no-pager -o cat -u {} || true", daemon));
        EXPECT_EQ(host.property(daemon, "ActiveState"), "active");
        EXPECT_EQ(host.property(daemon, "Type"), "notify");
        EXPECT_NE(host.property(daemon, "StatusText"), "");
    }
    // It stays "active" once it has run.
    EXPECT_EQ(host.property("airlock-switchd-fence", "ActiveState"), "active");
}

struct Fence
{
    std::string unit;
    std::string capabilities;
};

TEST_F(UnitsTest, DaemonsRunAsTheirUsersAndInsideTheirFence)
{
    for (const auto& [unit, capabilities] : {
             Fence{"airlock-bootd", "0000000000000000"},
             // DAC_OVERRIDE: guests' memory is in QEMU's files.
             Fence{"airlock-hostd", "0000000000000002"},
             // NET_ADMIN, NET_RAW
             Fence{"airlock-switchd", "0000000000003000"},
         })
    {
        SCOPED_TRACE(unit);
        std::string id = host.run("id -u " + unit);
        id.pop_back();
        EXPECT_NE(id, "0");
        EXPECT_EQ(host.status(unit, "Uid"), fmt::format("{0} {0} {0} {0}", id));
        for (const char* set : {"CapEff", "CapPrm", "CapBnd"})
        {
            EXPECT_EQ(host.status(unit, set), capabilities) << set;
        }
        EXPECT_EQ(host.status(unit, "NoNewPrivs"), "1");
        EXPECT_EQ(host.status(unit, "Seccomp"), "2");
    }
    // Programs that it starts, such as the command for alerts, have none.
    EXPECT_EQ(host.status("airlock-hostd", "CapAmb"), "0000000000000000");
    EXPECT_EQ(host.run("stat -c %U:%a /var/lib/airlock/hostd "
                       "/var/lib/airlock/bootd /var/lib/airlock/switchd"),
              "airlock-hostd:700\nairlock-bootd:700\nairlock-switchd:700\n");
}

TEST_F(UnitsTest, ExposureGrowsNoFurther)
{
    for (const auto& [unit, most] :
         std::map<std::string, double>{{"airlock-bootd", 3.1},
                                       {"airlock-hostd", 1.9},
                                       {"airlock-switchd", 2.2},
                                       {"airlock-switchd-fence", 1.8},
                                       {"airlock-switch-alert", 1.8},
                                       {"airlock-capsules", 3.1}})
    {
        std::string text = host.run(fmt::format(
            "systemd-analyze security --no-pager {} | "
            "sed -n 's/.*exposure level for.*: \\([0-9.]*\\) .*/\\1/p'",
            unit));
        double exposure = std::strtod(text.c_str(), nullptr);
        fmt::print("{}: exposure {}\n", unit, exposure);
        EXPECT_LE(exposure, most) << unit;
        EXPECT_GT(exposure, 0) << unit << " " << text;
    }
}

TEST_F(UnitsTest, OnlyTheHostAgentsUserManagesLibvirt)
{
    auto refusal = [&](const std::string& user) {
        return host.refusal(
            fmt::format("runuser -u {} -- virsh -c qemu:///system list", user));
    };
    EXPECT_EQ(refusal("airlock-hostd"), "");
    // A QEMU that a guest has taken over, and somebody who is nobody.
    EXPECT_THAT(refusal("libvirt-qemu"), HasSubstr("auth"));
    EXPECT_THAT(refusal("airlock-bootd"), HasSubstr("auth"));
    EXPECT_THAT(refusal("nobody"), HasSubstr("auth"));
    // It is the rule that does it.
    std::string rule = "/usr/share/polkit-1/rules.d/50-airlock-hostd.rules";
    host.run(fmt::format("mv {} /run/rule; systemctl restart polkit", rule));
    EXPECT_THAT(refusal("airlock-hostd"), HasSubstr("auth"));
    host.run(fmt::format("mv /run/rule {}; systemctl restart polkit", rule));
    EXPECT_EQ(refusal("airlock-hostd"), "");
}

TEST_F(UnitsTest, CheckFindsNothingWrong)
{
    // The boot server is asked as soon as the host agent has started.
    host.wait("airlockctl check", commandTime);
    fmt::print("{}", host.run("airlockctl check"));
    host.run("airlockctl switch ports");
}

TEST_F(UnitsTest, ControlSocketsAreApart)
{
    // Each daemon makes its directory anew; the other's stays.
    for (const std::string& daemon : daemons)
    {
        host.run("systemctl restart " + daemon);
        host.wait("airlockctl list", commandTime);
        host.wait("airlockctl switch ports", commandTime);
    }
    EXPECT_THAT(host.refusal("runuser -u libvirt-qemu -- airlockctl list"),
                HasSubstr("ermission denied"));
}

TEST_F(UnitsTest, SwitchAlertsReachACommandWithoutPrivileges)
{
    host.run("systemctl enable --now airlock-switch-alert.socket");
    host.wait("ip link set host0 down && ip link set host0 up && sleep 5 && "
              "grep -q 'boot0' /tmp/systemd-private-*/tmp/alerts",
              commandTime);
    const std::string told =
        host.run("cat /tmp/systemd-private-*-airlock-switch-alert*/tmp/alerts");
    EXPECT_THAT(told, HasSubstr("CapEff:\t0000000000000000"));
    EXPECT_THAT(told, HasSubstr("NoNewPrivs:\t1"));
    EXPECT_THAT(told, HasSubstr("ls: cannot open directory '/run/airlock'"));
}

TEST_F(UnitsTest, CapsulesAreKeptByAUserOfTheirOwn)
{
    EXPECT_THAT(host.run("id -nG airlock-capsules"), HasSubstr("kvm"));
    // Nothing was made yet: the unit says so from inside its sandbox.
    EXPECT_NE(host.refusal("systemctl start airlock-capsules"), "");
    EXPECT_THAT(host.run("journalctl -b -q --no-pager -o cat "
                         "-u airlock-capsules"),
                HasSubstr("capsule make"));
    host.run("systemctl stop airlock-capsules");
}

TEST_F(UnitsTest, OneThatIsKilledComesBack)
{
    for (const std::string& daemon : daemons)
    {
        std::string pid = host.property(daemon, "MainPID");
        ASSERT_NE(pid, "0") << daemon; // to the shell it means itself
        host.run("kill -KILL " + pid);
        expectAnother(daemon, pid, commandTime);
    }
}

TEST_F(UnitsTest, OneThatHangsIsStartedAgain)
{
    std::map<std::string, std::string> pids;
    for (const std::string& daemon : daemons)
    {
        EXPECT_NE(host.property(daemon, "WatchdogUSec"), "0") << daemon;
        EXPECT_NE(host.property(daemon, "WatchdogTimestampMonotonic"), "0")
            << daemon;
        pids[daemon] = host.property(daemon, "MainPID");
        ASSERT_NE(pids[daemon], "0") << daemon;
        host.run("kill -STOP " + pids[daemon]);
    }
    for (const std::string& daemon : daemons)
    {
        expectAnother(daemon, pids[daemon], rebootTime);
        EXPECT_THAT(host.run(fmt::format(
                        "journalctl -b -q --no-pager -o cat -u {}", daemon)),
                    HasSubstr("Watchdog timeout"))
            << daemon;
    }
    // The others are fed all the time.
    for (const std::string& daemon : daemons)
    {
        std::string fed = host.property(daemon, "WatchdogTimestampMonotonic");
        host.wait(fmt::format("test $(systemctl show {} -P "
                              "WatchdogTimestampMonotonic) != {}",
                              daemon, fed),
                  commandTime);
    }
}

TEST_F(UnitsTest, StoppingIsClean)
{
    for (const std::string& daemon : daemons)
    {
        host.run("systemctl stop " + daemon);
        EXPECT_EQ(host.property(daemon, "Result"), "success") << daemon;
        EXPECT_EQ(host.property(daemon, "ActiveState"), "inactive") << daemon;
        EXPECT_EQ(host.property(daemon, "ExecMainStatus"), "0") << daemon;
    }
    // The ports are shut without the agent, too.
    EXPECT_EQ(framesThatPass(), 0);
    host.run("nft flush ruleset; bridge link set dev boot0 locked off "
             "isolated off");
    EXPECT_GT(framesThatPass(), 0);
    host.run("systemctl restart airlock-switchd-fence");
    for (const std::string& daemon : daemons)
    {
        host.run("systemctl start " + daemon);
    }
}

TEST_F(UnitsTest, GuestBootsThroughBothUnits)
{
    host.run("airlockctl adopt --file /mnt/test/domain.xml -o /root/tiny.xml "
             "&& virsh define /root/tiny.xml");
    host.wait("airlockctl check", commandTime);
    std::string bootIds;
    for (const char* how : {"start", "reset"})
    {
        host.run(fmt::format("virsh {} tiny", how));
        expectFencedBoot();
        std::string done =
            fmt::format("test $(airlockctl --json jobs tiny --result done | "
                        "grep -o '\"result\"' | wc -l) = {}",
                        how == std::string("start") ? 1 : 2);
        host.wait(done + " || airlockctl jobs tiny --result failed | grep tiny",
                  rebootTime);
        EXPECT_EQ(host.refusal(done), "")
            << host.run("airlockctl jobs tiny; journalctl -b -q --no-pager "
                        "-o cat -n 60");
        host.wait("virsh domstate tiny | grep -q running", commandTime);
        // A shell on the production machine answers, in another life.
        std::string id = host.run("sh /mnt/test/ask-guest tiny");
        EXPECT_THAT(bootIds, Not(HasSubstr(id)));
        bootIds += id;
    }
}

TEST_F(UnitsTest, JournalHasFields)
{
    auto hasEntry = [](const std::vector<Json>& entries,
                       const std::map<std::string, std::string>& fields) {
        return std::any_of(
            entries.begin(), entries.end(), [&](const Json& entry) {
                return std::all_of(
                    fields.begin(), fields.end(), [&](const auto& field) {
                        return entry.value(field.first, "") == field.second;
                    });
            });
    };
    EXPECT_TRUE(hasEntry(host.journal("airlock-hostd"),
                         {{"MESSAGE_ID", "5d0c3f1e6a9b4f5c8f27d1b4907e2a63"},
                          {"AIRLOCK_DOMAIN", "tiny"},
                          {"AIRLOCK_STATE", "running"},
                          {"_COMM", "airlock-hostd"}}));
    EXPECT_TRUE(
        hasEntry(host.journal("airlock-bootd"),
                 {{"AIRLOCK_DOMAIN", "tiny"}, {"_COMM", "airlock-bootd"}}));
}

} // namespace

} // namespace airlock::test
