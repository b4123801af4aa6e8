#include "common/control_client.hpp"
#include "common/http_client.hpp"
#include "common/process.hpp"
#include "common/socket.hpp"
#include "tests/switch/switch_fixture.hpp"
#include "tests/unit/test_pki.hpp"

#include <fcntl.h>

#include <csignal>

/** The daemon as a process, with its sockets. */
namespace airlock::test
{
namespace
{

using ::testing::HasSubstr;

constexpr const char* switchAddress = "10.9.0.1";
constexpr const char* hostAddress = "10.9.0.2/24";

class Switchd : public Switch
{
  protected:
    Switchd()
    {
        // The agent is a process here, reached through the bridge.
        runTool({"ip", "address", "add", "10.9.0.1/24", "dev", "br0"});
        tls::Identity own = identity("switch1", tls::switchRole);
        std::string text =
            "bridge = \"br0\"\nstate = \"" +
            (rig.directory() / "state").string() + "\"\nsocket = \"" +
            socket().string() + "\"\nalert-socket = \"" +
            (rig.directory() / "alerts.sock").string() +
            "\"\nlisten = \"10.9.0.1\"\n[tls]\ncertificate = \"" +
            own.certificate.string() + "\"\nkey = \"" + own.key.string() +
            "\"\nauthorities = \"" + own.authorities.string() +
            "\"\n[lease]\nseconds = 3\n" + "[[port]]\nname = \"boot0\"\n" +
            "[[port]]\nname = \"boot1\"\nbroadcast = false\n";
        writeFileAtomic(rig.directory() / "switchd.toml", text);
    }

    tls::Identity identity(const std::string& name, const std::string& role)
    {
        pki::Credential made =
            pki::issue(site.authority(), {name, role, {switchAddress}});
        std::filesystem::path stem = rig.directory() / name;
        tls::Identity out{stem.string() + ".crt", stem.string() + ".key",
                          rig.directory() / "ca.crt"};
        writeFileAtomic(out.certificate, made.certificate);
        writeFileAtomic(out.key, made.key, 0600);
        writeFileAtomic(out.authorities, site.authority().certificate);
        return out;
    }

    std::filesystem::path socket() const
    {
        return rig.directory() / "switchd.sock";
    }

    void startDaemon()
    {
        UniqueFd out = openFile(rig.directory() / "log",
                                O_WRONLY | O_CREAT | O_APPEND, 0600);
        SpawnOptions options;
        options.argv = {AIRLOCK_SWITCHD, "--config",
                        (rig.directory() / "switchd.toml").string()};
        options.stderrFd = out.get();
        daemon.emplace(options);
        connectUnix(socket(), 20s); // waits until it is there
    }

    std::string logText()
    {
        return readTextFile(rig.directory() / "log", 1U << 20);
    }

    Json call(const std::string& method, Json parameters = Json::object())
    {
        return control::Client(socket(),
                               {"the switch agent", "airlock-switchd"})
            .call(method, std::move(parameters));
    }

    void enrollHost()
    {
        call("enroll", {{"port", "boot0"},
                        {"host", "boot1.example"},
                        {"method", "mac96"},
                        {"root", toHex(rootOf(7).view())}});
    }

    Json portStatus() { return call("port", {{"port", "boot0"}})["port"]; }

    bool stateBecomes(const std::string& wanted)
    {
        return eventually([&] { return portStatus()["state"] == wanted; });
    }

    /** What clean mode does: its address, and hellos. */
    void goClean(std::uint64_t epoch)
    {
        rig.cables().run([&] {
            runTool({"ip", "link", "set", "boot0", "address",
                     address("boot0", epoch).text()});
            runTool({"ip", "address", "replace", hostAddress, "dev", "boot0"});
        });
        EXPECT_TRUE(eventually([&] {
            rig.end("boot0").send(hello(Method::mac96, 7, epoch));
            return portStatus()["state"] == "open";
        }));
        rig.settle();
    }

    http::Client clientOf(const std::string& name, const std::string& role)
    {
        http::ClientLimits limits;
        limits.connect = 20s;
        http::Endpoint endpoint{switchAddress, 7421, tls::switchRole};
        return {endpoint,
                std::make_shared<tls::Context>(identity(name, role),
                                               tls::Context::Side::client),
                limits};
    }

    unsigned problemOf(const std::string& name, const std::string& role,
                       const std::string& method, const std::string& path,
                       const Json& body = nullptr)
    {
        try
        {
            clientOf(name, role).call(method, path, body);
        }
        catch (const http::Problem& problem)
        {
            return problem.status();
        }
        return 0;
    }

    TestPki site;
    std::optional<Process> daemon;
};

TEST_F(Switchd, ABootHostHasItselfCutOffThroughItsOwnPort)
{
    startDaemon();
    enrollHost();
    goClean(1);
    std::string nonce(64, 'a');
    Json answer;
    Json before;
    rig.cables().run([&] {
        http::Client client = clientOf("boot1.example", tls::bootRole);
        before = client.call("GET", "/v1/port").json();
        answer = client.call("POST", "/v1/cut", Json{{"nonce", nonce}}).json();
    });
    EXPECT_EQ(before["state"], "open");
    EXPECT_EQ(before["host"], "boot1.example");
    EXPECT_EQ(answer, (Json{{"nonce", nonce},
                            {"port", "boot0"},
                            {"state", "cut-off"},
                            {"epoch", 1}}));
    rig.settle(); // what it said while it was open
    EXPECT_FALSE(passes("boot0", address("boot0")));
    EXPECT_EQ(leaks("prod0", frame(address("boot0"), prod, dataType)), 0U);
    EXPECT_EQ(portStatus()["state"], "cut-off");
    EXPECT_EQ(portStatus()["reason"], "the boot host asked for it");
    EXPECT_TRUE(eventually([&] { return tableOf("boot0").empty(); }));
    EXPECT_THAT(logText(), HasSubstr("36c73b3d5cfb4cd7b6bd7eb6bdf2b2e1"));
    // What a stranger tried meanwhile is for rules on alerts.
    EXPECT_FALSE(passes("boot0", stranger));
    EXPECT_TRUE(eventually([&] {
        return logText().find("31cf13d28d7649e685e1997a109f99d7") !=
               std::string::npos;
    }));
    // The next clean epoch.
    goClean(2);
    EXPECT_TRUE(passes("boot0", address("boot0", 2)));
}

/** airlock-switch-alert with a command, as its unit starts it. */
class SwitchdAlerts : public Switchd
{
  protected:
    void startRelay(const std::string& command, unsigned every)
    {
        writeFileAtomic(rig.directory() / "command",
                        "#!/bin/sh\n" + command + "\n", 0755);
        writeFileAtomic(
            rig.directory() / "alert.toml",
            "socket = '" + (rig.directory() / "alerts.sock").string() +
                "'\n[alert]\ntime = 3600\nevery = " + std::to_string(every) +
                "\ncommand = '" + (rig.directory() / "command").string() +
                "'\n");
        SpawnOptions options;
        options.argv = {AIRLOCK_SWITCH_ALERT, "--config",
                        (rig.directory() / "alert.toml").string()};
        relay.emplace(options);
        ASSERT_TRUE(eventually([&] {
            return std::filesystem::exists(rig.directory() / "alerts.sock");
        }));
    }

    std::string said()
    {
        const auto file = rig.directory() / "said";
        return std::filesystem::exists(file) ? readTextFile(file, 1U << 20)
                                             : "";
    }

    std::size_t saidTimes(const std::string& what)
    {
        const std::string text = said();
        std::size_t out = 0;
        for (std::size_t at = 0;
             (at = text.find(what, at)) != std::string::npos; at++)
        {
            out++;
        }
        return out;
    }

    std::optional<Process> relay;
};

constexpr const char* notAllowed = "frames with an address that is not allowed";

/** And the command has no power over the switch. */
TEST_F(SwitchdAlerts, ACommandIsRunForMissesAndNotForNews)
{
    startRelay("{ printf '%s\\n' \"$@\"; grep CapEff /proc/self/status; "
               "nft list tables 2>&1; echo \"nft: $?\"; "
               "echo end; } >>'" +
                   (rig.directory() / "said").string() + "'",
               3600);
    // It could be done here, by who has the privilege.
    EXPECT_TRUE(runProgram({{"nft", "list", "tables"}}).status.ok());
    startDaemon();
    enrollHost();
    EXPECT_FALSE(passes("boot0", stranger));
    EXPECT_TRUE(eventually([&] { return saidTimes("end\n") == 1; }));
    EXPECT_THAT(said(), ::testing::StartsWith(std::string(notAllowed) +
                                              "\nboot0\nboot1.example\n"));
    EXPECT_THAT(said(), HasSubstr(stranger.text()));
    EXPECT_THAT(said(), HasSubstr("CapEff:\t0000000000000000\n"));
    EXPECT_THAT(said(), ::testing::Not(HasSubstr("nft: 0\n")));
    // The news before the next one are not for it.
    goClean(1);
    rig.through("prod0", frame(everybody, address("boot0"), dataType));
    EXPECT_TRUE(eventually([&] { return saidTimes("end\n") == 2; }));
    EXPECT_THAT(logText(), HasSubstr("a port was opened"));
    EXPECT_EQ(saidTimes("a port was"), 0U);
}

TEST_F(SwitchdAlerts, ACommandThatHangsHoldsUpNothing)
{
    startRelay("echo begun >>'" + (rig.directory() / "said").string() +
                   "'; sleep 3600",
               1);
    startDaemon();
    enrollHost();
    EXPECT_FALSE(passes("boot0", stranger));
    EXPECT_TRUE(eventually([&] { return saidTimes("begun") == 1; }));
    relay->signal(SIGSTOP); // nor does who reads nothing any more
    goClean(1);
    EXPECT_TRUE(passes("boot0", address("boot0")));
    EXPECT_EQ(call("cut", {{"port", "boot0"}})["port"]["state"], "cut-off");
    EXPECT_FALSE(passes("boot0", address("boot0")));
    goClean(2);
    relay->kill();
    EXPECT_EQ(daemon->terminate(20s).code, 0);
}

TEST_F(Switchd, RefusesCallersThatAreNotTheBootHost)
{
    startDaemon();
    enrollHost();
    Json nonce = {{"nonce", std::string(64, 'a')}};
    EXPECT_EQ(
        problemOf("other.example", tls::bootRole, "POST", "/v1/cut", nonce),
        404U);
    EXPECT_EQ(
        problemOf("boot1.example", tls::hostRole, "POST", "/v1/cut", nonce),
        403U);
    EXPECT_EQ(problemOf("boot1.example", tls::bootRole, "GET", "/v1/cut"),
              405U);
    EXPECT_EQ(problemOf("boot1.example", tls::bootRole, "POST", "/v1/cut",
                        Json{{"nonce", "short"}}),
              400U);
    EXPECT_EQ(problemOf("boot1.example", tls::bootRole, "POST", "/v1/rotate",
                        Json{{"root", std::string(64, 'b')}}),
              409U);
    EXPECT_EQ(
        problemOf("boot1.example", tls::bootRole, "POST", "/v1/cut", nonce),
        0U);
}

TEST_F(Switchd, WhenItIsKilledTheKernelEndsTheLease)
{
    startDaemon();
    enrollHost();
    goClean(1);
    EXPECT_TRUE(passes("boot0", address("boot0")));
    daemon->kill();
    EXPECT_TRUE(eventually([&] { return !passes("boot0", address("boot0")); }));
    EXPECT_EQ(leaks("prod0", frame(address("boot0"), prod, dataType)), 0U);
    // What a service manager runs after it.
    runTool({AIRLOCK_SWITCHD, "--cut-off", "--config",
             (rig.directory() / "switchd.toml").string()});
    EXPECT_THAT(tableOf("boot0"), ::testing::IsEmpty());
    EXPECT_FALSE(passes("boot0", stranger));
}

TEST_F(Switchd, PortsAreShutBeforeThereIsABridge)
{
    EXPECT_TRUE(passes("boot0", stranger)); // as any bridge has it
    runTool({"ip", "link", "delete", "br0"});
    runTool({AIRLOCK_SWITCHD, "--fence", "--config",
             (rig.directory() / "switchd.toml").string()});
    runTool({"ip", "link", "add", "br0", "type", "bridge"});
    runTool({"ip", "link", "set", "br0", "up"});
    for (const std::string& port : SwitchRig::ports())
    {
        runTool({"ip", "link", "set", port, "master", "br0"});
    }
    EXPECT_TRUE(passes("prod0", prod));
    EXPECT_FALSE(passes("boot0", stranger));
    EXPECT_FALSE(passes("boot1", address("boot1")));
    auto seen = rig.through("prod0", frame(everybody, prod, dataType));
    EXPECT_EQ(rig.count(seen, {"prod1"}), 0U);
    runTool({"ip", "address", "add", "10.9.0.1/24", "dev", "br0"});
    startDaemon();
    enrollHost();
    goClean(1);
}

TEST_F(Switchd, AfterSigkillItStartsFromCutOff)
{
    startDaemon();
    enrollHost();
    for (std::uint64_t epoch = 1; epoch <= 3; epoch++)
    {
        goClean(epoch);
        daemon->kill();
        startDaemon(); // within the lease
        EXPECT_EQ(portStatus()["state"], "cut-off");
        EXPECT_EQ(portStatus()["epoch"], epoch);
        EXPECT_FALSE(passes("boot0", address("boot0", epoch)));
        EXPECT_THAT(tableOf("boot0"), ::testing::IsEmpty());
        rig.through("boot0", hello(Method::mac96, 7, epoch));
        EXPECT_TRUE(
            eventually([&] { return portStatus()["misses"]["used"] >= 1; }));
        EXPECT_EQ(portStatus()["state"], "cut-off");
    }
}

TEST_F(Switchd, AirlockctlDoesWhatOperatorsWant)
{
    startDaemon();
    auto ctl = [&](std::vector<std::string> arguments) {
        SpawnOptions options;
        options.argv = {AIRLOCK_CTL, "--socket", socket().string(), "switch"};
        options.argv.insert(options.argv.end(), arguments.begin(),
                            arguments.end());
        return runProgram(options, 60s);
    };
    std::filesystem::path file = rig.directory() / "root";
    auto output =
        ctl({"enroll", "boot0", "boot1.example", "-o", file.string()});
    EXPECT_TRUE(output.status.ok()) << output.err;
    Bytes line = readFile(file, 100);
    ASSERT_EQ(line.size(), 65U);
    std::string root(line.begin(), line.end() - 1);
    EXPECT_TRUE(digestFromHex(root));
    EXPECT_EQ(output.out.find(root), std::string::npos);
    EXPECT_EQ(std::filesystem::status(file).permissions(),
              std::filesystem::perms(0600));
    // Never over a file that is there.
    output = ctl({"rotate", "boot0", "-o", file.string()});
    EXPECT_EQ(output.status.code, 1);
    EXPECT_THAT(output.err, HasSubstr("is there already; nothing was done"));
    EXPECT_EQ(readFile(file, 100), line);
    output = ctl({"rotate", "boot0"});
    EXPECT_EQ(output.status.code, 1);
    EXPECT_THAT(output.err, HasSubstr("one of them is needed"));
    EXPECT_THAT(ctl({"rotate", "boot0", "--root", file.string(), "-o",
                     (rig.directory() / "more").string()})
                    .err,
                HasSubstr("only one of them"));
    EXPECT_TRUE(ctl({"rotate", "boot0", "--root", file.string()}).status.ok());
    output = ctl({"ports"});
    EXPECT_THAT(output.out, HasSubstr("boot1.example"));
    EXPECT_THAT(output.out, HasSubstr("cut-off"));
    output = ctl({"status", "--json"});
    EXPECT_EQ(parseJson(output.out, "status")["bridge"], "br0");
    EXPECT_THAT(ctl({"status", "boot0"}).out, HasSubstr("mac96"));
    EXPECT_THAT(ctl({"cut", "boot0"}).out, HasSubstr("an operator asked"));
    EXPECT_EQ(ctl({"cut", "prod0"}).status.code, 1);
    EXPECT_EQ(ctl({"cut"}).status.code, 2);
    daemon.reset();
    EXPECT_EQ(ctl({"ports"}).status.code, 2);
}

TEST_F(Switchd, OperatorsEnrollCutAndRotate)
{
    startDaemon();
    Json made = call(
        "enroll",
        {{"port", "boot0"}, {"host", "boot1.example"}, {"method", "mac96"}});
    EXPECT_EQ(made["root"].get<std::string>().size(), 64U);
    EXPECT_EQ(made["port"]["method"], "mac96");
    made =
        call("rotate", {{"port", "boot0"}, {"root", toHex(rootOf(7).view())}});
    EXPECT_FALSE(made.contains("root"));
    goClean(1);
    EXPECT_EQ(call("cut", {{"port", "boot0"}})["port"]["state"], "cut-off");
    EXPECT_FALSE(passes("boot0", address("boot0")));
    auto refused = [&](const std::string& method, const Json& parameters) {
        try
        {
            call(method, parameters);
        }
        catch (const control::CallError& error)
        {
            return error.name();
        }
        return std::string();
    };
    EXPECT_EQ(refused("cut", {{"port", "prod0"}}), "not-found");
    EXPECT_EQ(refused("enroll", {{"port", "boot1"},
                                 {"host", "boot1.example"},
                                 {"method", "mac"}}),
              "invalid-parameter"); // has another port
    EXPECT_EQ(refused("enroll", {{"port", "boot1"},
                                 {"host", "boot2.example"},
                                 {"method", "quote"},
                                 {"key", "no key"}}),
              "invalid-parameter");
    EXPECT_EQ(refused("rotate", {{"port", "boot1"}}), "invalid-parameter");
    EXPECT_EQ(daemon->terminate(20s).code, 0);
    std::string told = logText();
    EXPECT_THAT(told, HasSubstr("a port was opened"));
    for (std::uint64_t epoch = 0; epoch < 40; epoch++)
    {
        EXPECT_EQ(told.find(address("boot0", epoch).text()), std::string::npos);
    }
    EXPECT_EQ(told.find(toHex(rootOf(7).view())), std::string::npos);
}

} // namespace
} // namespace airlock::test
