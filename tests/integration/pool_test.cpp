/** A pool of boot servers that fail: the operator is told, the next server gets
 * the job, and when none is left the guest is held as it is until somebody has
 * repaired one. */
#include "common/error.hpp"
#include "common/socket.hpp"
#include "devmodel/vm/qemu_argv.hpp"
#include "hostagent/control/client.hpp"
#include "tools/rigs/host_rig.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>

namespace airlock::test
{

using namespace rig;

namespace
{

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using namespace std::chrono_literals;

constexpr Milliseconds bootTime = std::chrono::minutes(6);
constexpr Milliseconds step{20};
/** MESSAGE_ID of alerts, as the manual has it. */
constexpr const char* alertId = "1c8a4d7be3d14b0f9a5e6c20f7d3b981";

/** Takes what is posted to it. */
class Webhook
{
  public:
    Webhook()
        : listener_(listenTcp("127.0.0.1:0")),
          thread_([this](const std::stop_token& stop) { run(stop); })
    {}

    std::string url() const
    {
        return fmt::format("http://127.0.0.1:{}/alerts",
                           localPort(listener_.get()));
    }

    std::vector<Json> posted()
    {
        std::lock_guard lock(mutex_);
        return posted_;
    }

  private:
    void run(const std::stop_token& stop)
    {
        while (!stop.stop_requested())
        {
            pollfd entry{listener_.get(), POLLIN, 0};
            if (::poll(&entry, 1, 100) > 0)
            {
                takeOne();
            }
        }
    }

    void takeOne()
    try
    {
        UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        std::string in;
        Deadline deadline(5s);
        while (!in.ends_with("}") && receiveSome(fd.get(), in, 4096, deadline))
        {}
        sendAll(fd.get(), "HTTP/1.1 204 No Content\r\n\r\n", deadline);
        Json body = parseJson(in.substr(in.find("\r\n\r\n") + 4), "alert");
        std::lock_guard lock(mutex_);
        posted_.push_back(std::move(body));
    }
    catch (const Error& error)
    {
        ADD_FAILURE() << error.what();
    }

    UniqueFd listener_;
    std::mutex mutex_;
    std::vector<Json> posted_;
    std::jthread thread_;
};

/** What the control socket says while it happens. */
class Events
{
  public:
    explicit Events(std::filesystem::path socket)
        : socket_(std::move(socket)), thread_([this] { follow(); })
    {}

    ~Events() { stop_ = true; }

    /** "exporting boot1", "alert held", "server boot1 down"… so far. */
    std::vector<std::string> all()
    {
        std::lock_guard lock(mutex_);
        return events_;
    }

    void waitFor(const std::string& event, std::size_t from,
                 Milliseconds timeout)
    {
        Deadline deadline(timeout);
        for (;;)
        {
            std::vector<std::string> seen = all();
            if (std::find(seen.begin() + static_cast<std::ptrdiff_t>(
                                             std::min(from, seen.size())),
                          seen.end(), event) != seen.end())
            {
                return;
            }
            if (deadline.passed())
            {
                throw TimedOut("no event " + event + " but " +
                               dumpJson(Json(seen)));
            }
            std::this_thread::sleep_for(step);
        }
    }

  private:
    /** Until the host agent ends, which ends the connection. */
    void follow()
    try
    {
        host::control::Client client(socket_, 30s);
        client.follow("events", [this](const Json& reply) {
            std::lock_guard lock(mutex_);
            events_.push_back(text(reply.at("event")));
            return !stop_;
        });
    }
    catch (const Error&)
    {
        // It has ended.
    }

    static std::string text(const Json& event)
    {
        std::string what = event.at("what");
        if (what == "state")
        {
            std::string state = event.at("vm").at("state");
            return state == "exporting"
                       ? state + " " +
                             event.at("vm").at("boot_server").get<std::string>()
                       : state;
        }
        if (what == "alert")
        {
            return "alert " + event.at("alert").get<std::string>();
        }
        return what + " " + event.at("name").get<std::string>() +
               (event.at("up").get<bool>() ? " up" : " down");
    }

    std::filesystem::path socket_;
    std::mutex mutex_;
    std::vector<std::string> events_;
    std::atomic<bool> stop_ = false;
    std::jthread thread_;
};

/** A QEMU that answers what it is asked and boots nothing. */
std::string brokenQemu(const std::filesystem::path& directory)
{
    std::filesystem::path file = directory / "broken-qemu";
    std::filesystem::path real = std::filesystem::absolute(
        vm::defaultBuildDirectory() / "qemu/boot/qemu-system-x86_64");
    writeFileAtomic(file,
                    fmt::format("#!/bin/sh\ncase \"$*\" in *help*|*version*) "
                                "exec {} \"$@\" ;; esac\n"
                                "echo 'this machine is broken' >&2\nexit 1\n",
                                real.string()),
                    0755);
    return file;
}

class Pool : public ::testing::Test
{
  protected:
    Pool()
    {
        enterPrivateNamespaces();
        webhook.emplace();
        writeFileAtomic(directory.path() / "command",
                        fmt::format("#!/bin/sh\necho \"$1 $3\" >>{}/alerts\n",
                                    directory.path().string()),
                        0755);
        RigSettings settings;
        settings.servers = {{"boot1", 10, brokenQemu(directory.path())},
                            {"boot2", 1}};
        settings.reboot = "limit = 240\nserver-time = 5\nupload-time = 5\n"
                          "retry-delay = 1\nattempts = 2\n";
        settings.tables =
            fmt::format("[alert]\nwebhook = \"{}\"\ncommand = \"{}/command\"\n"
                        "[metrics]\nlisten = \"{}\"\n",
                        webhook->url(), directory.path().string(), status());
        DomainCase domain;
        domain.guest = {"cloud", 2, 1ULL << 30, true};
        rig.emplace(std::vector<DomainCase>{domain}, settings);
        events.emplace(rig->path() / "hostd.sock");
        waitServersUp();
    }

    /** A server that is seen down is only asked when the others cannot. */
    void waitServersUp()
    {
        Deadline deadline(1min);
        std::string text;
        while (text.find("airlock_boot_server_up{server=\"boot1\"} 1\n"
                         "airlock_boot_server_up{server=\"boot2\"} 1\n") ==
               std::string::npos)
        {
            if (deadline.passed())
            {
                throw TimedOut("the boot servers do not start: " + text +
                               rig->logs());
            }
            std::this_thread::sleep_for(step);
            text = page("/metrics");
        }
    }

    /** Of the VM, not of servers. */
    std::vector<std::string> vmEvents()
    {
        std::vector<std::string> out = events->all();
        std::erase_if(out, [](const std::string& event) {
            return event.starts_with("server ");
        });
        return out;
    }

    std::string status() { return directory.path() / "status.sock"; }

    std::string page(const std::string& path)
    {
        UniqueFd fd = connectUnix(status(), 30s);
        sendAll(fd.get(), "GET " + path + " HTTP/1.1\r\n\r\n", Deadline(10s));
        std::string out;
        try
        {
            Deadline deadline(10s);
            while (receiveSome(fd.get(), out, 65536, deadline))
            {}
        }
        catch (const Error&)
        {
            // The end.
        }
        return out;
    }

    Json call(const std::string& method, const Json& parameters)
    {
        return host::control::Client(rig->path() / "hostd.sock")
            .call(method, parameters);
    }

    ProcessOutput airlockctl(const std::vector<std::string>& words)
    {
        SpawnOptions options;
        options.argv = {vm::defaultBuildDirectory() /
                            "cpp/tools/airlockctl/airlockctl",
                        "--socket", rig->path() / "hostd.sock"};
        options.argv.insert(options.argv.end(), words.begin(), words.end());
        return runProgram(options, 1min);
    }

    /** "boot2 done", the newest first; of a failure only the word. */
    std::vector<std::string> jobs()
    {
        std::vector<std::string> out;
        Json reply = call("jobs", {{"vm", rig->domain()}});
        for (const Json& job : reply.at("jobs"))
        {
            std::string result = job.at("result");
            out.push_back(job.at("server").get<std::string>() + " " +
                          result.substr(0, result.find(':')));
        }
        return out;
    }

    std::string diskDigest() { return digestOf(rig->guest().image()); }

    /** The alerts that the command and the webhook got, when there are as many
     * as expected. */
    void expectAlerts(const std::vector<std::string>& expected)
    {
        Deadline deadline(30s);
        std::string told;
        std::string wanted;
        for (const std::string& alert : expected)
        {
            wanted += alert + " demo\n";
        }
        while (told != wanted && !deadline.passed())
        {
            std::this_thread::sleep_for(step);
            if (std::filesystem::exists(directory.path() / "alerts"))
            {
                told = readTextFile(directory.path() / "alerts", 1U << 20);
            }
        }
        EXPECT_EQ(told, wanted);
        std::vector<std::string> posted;
        for (const Json& alert : webhook->posted())
        {
            posted.push_back(alert.at("what"));
            EXPECT_EQ(alert.at("domain"), "demo");
            EXPECT_NE(alert.at("reason"), "");
        }
        EXPECT_EQ(posted, expected);
    }

    TempDirectory directory{"airlock-pool"};
    std::optional<Webhook> webhook;
    std::optional<Events> events; ///< ends when the host agent has ended
    std::optional<HostRig> rig;
};

TEST_F(Pool, FailingServersAreLeftAndTheGuestIsSafe)
{
    // The first server's boots fail: the second one does it.
    rig->libvirt().virsh({"start", rig->domain()});
    rig->waitAlive(bootTime);
    EXPECT_THAT(jobs(), ElementsAre("boot2 done", "boot1 failed"));
    EXPECT_THAT(vmEvents(),
                ElementsAre("trapped", "exporting boot1", "booting", "retrying",
                            "alert retrying", "exporting boot2", "booting",
                            "returning", "admitting", "applying", "running"))
        << rig->logs();
    expectAlerts({"retrying"});
    EXPECT_THAT(rig->logs(), HasSubstr(alertId));
    rig->run("echo kept >/root/kept && sync");
    ProcessOutput check =
        airlockctl({"check", "--config", rig->path() / "hostd.toml"});
    EXPECT_TRUE(check.status.ok()) << check.out;
    EXPECT_THAT(check.out,
                HasSubstr("ok      boot server boot2 for domain demo: QEMU"));

    // Nobody is left: after its tries the guest is held, its disk untouched.
    rig->bootd(0).kill();
    rig->bootd(1).kill();
    std::size_t before = events->all().size();
    rig->send("reboot");
    rig->waitPaused(bootTime);
    std::string digest = diskDigest();
    events->waitFor("held", before, 2min);
    EXPECT_EQ(diskDigest(), digest);
    EXPECT_EQ(rig->domainState(), "paused");
    expectAlerts({"retrying", "retrying", "held"});
    Json vm = call("status", {{"vm", rig->domain()}}).at("vm");
    EXPECT_EQ(vm.at("state"), "held");
    EXPECT_THAT(vm.at("reason").get<std::string>(),
                AllOf(HasSubstr("boot1"), HasSubstr("boot2")));
    EXPECT_THAT(jobs(), ElementsAre("boot2 done", "boot1 failed"));
    events->waitFor("server boot1 down", before, 1min);
    std::string metrics = page("/metrics");
    EXPECT_THAT(
        metrics,
        AllOf(HasSubstr("airlock_vm_state{domain=\"demo\",state=\"held\"} 1"),
              HasSubstr("airlock_reboots_total{domain=\"demo\",result="
                        "\"done\"} 1\n"),
              HasSubstr("airlock_reboots_total{domain=\"demo\",result="
                        "\"held\"} 1\n"),
              HasSubstr("airlock_alerts_total{what=\"retrying\"} 2\n"),
              HasSubstr("airlock_boot_server_up{server=\"boot1\"} 0\n"),
              HasSubstr("airlock_jobs_total{server=\"boot1\",result="
                        "\"failed\"} 1\n")));
    EXPECT_THAT(page("/health"), HasSubstr("HTTP/1.1 200 OK"));

    // One is repaired, and the operator says so.
    before = events->all().size();
    rig->startBootd(1);
    ProcessOutput said = airlockctl({"retry", rig->domain()});
    EXPECT_TRUE(said.status.ok()) << said.err;
    events->waitFor("trapped", before, 1min);
    rig->waitReborn(bootTime);
    EXPECT_EQ(rig->run("cat /root/kept"), "kept\n");
    EXPECT_THAT(jobs(),
                ElementsAre("boot2 done", "boot2 done", "boot1 failed"));

    // A server that dies while it is sent the disks.
    rig->startBootd(0);
    events->waitFor("server boot1 up", before, 1min);
    before = events->all().size();
    rig->send("reboot");
    events->waitFor("exporting boot1", before, bootTime);
    rig->bootd(0).kill();
    events->waitFor("exporting boot2", before, bootTime);
    events->waitFor("running", before, bootTime);
    rig->waitReborn(bootTime);
    EXPECT_EQ(rig->run("cat /root/kept"), "kept\n");
    EXPECT_THAT(jobs(), ElementsAre("boot2 done", "boot1 failed", "boot2 done",
                                    "boot2 done", "boot1 failed"));
    rig->libvirt().virsh({"destroy", rig->domain()});
}

} // namespace
} // namespace airlock::test
