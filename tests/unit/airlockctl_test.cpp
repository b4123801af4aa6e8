#include "cli_outcome.hpp"
#include "common/file.hpp"
#include "common/pki.hpp"
#include "common/tls.hpp"
#include "hostagent/control/server.hpp"
#include "tools/airlockctl/certificate.hpp"
#include "tools/airlockctl/cli.hpp"
#include "tools/airlockctl/commands.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <sstream>
#include <thread>

namespace airlock::ctl
{
namespace
{

using test::Outcome;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr const char* anna = "00000000-0000-4000-8000-00000000000a";

class Ctl : public ::testing::Test
{
  protected:
    Outcome command(std::vector<std::string> words)
    {
        words.insert(words.begin(), {"airlockctl", "--socket", socket});
        return test::runCommand(words, run);
    }

    std::string path(const std::string& name) const
    {
        return directory.path() / name;
    }

    std::string text(const std::string& name) const
    {
        return readTextFile(path(name), 1U << 20);
    }

    static std::string sample(const std::string& name)
    {
        return std::string(AIRLOCK_TEST_DATA) + "/adopt/" + name + ".xml";
    }

    TempDirectory directory{"airlock-ctl"};
    std::string socket = directory.path() / "hostd.sock";
};

/** With a host agent that knows one VM. */
class CtlAgent : public Ctl
{
  protected:
    CtlAgent()
    {
        host::control::ServerOptions options;
        options.path = socket;
        server.emplace(options);
        host::control::Actions actions;
        actions.retry = [this](const host::VmRecord& vm) {
            store.transition(vm.uuid, host::State::held, host::State::retrying);
        };
        host::control::addStoreMethods(*server, store, std::move(actions));
        store.ensureVm(anna, "anna");
        host::Change change;
        change.generation = 4;
        change.bootServer = "boot1";
        change.openJob = host::JobRecord{};
        change.openJob->id = "j1";
        change.openJob->uuid = anna;
        change.openJob->name = "anna";
        change.openJob->tenant = "green";
        change.openJob->server = "boot1";
        store.transition(anna, host::State::running, host::State::trapped,
                         change);
        thread = std::jthread(
            [this](const std::stop_token& stop) { server->run(stop); });
    }

    /** The time that begins the third line, as '#'. */
    static std::string withoutTime(std::string table)
    {
        std::size_t line = table.find('\n', table.find('\n') + 1) + 1;
        for (std::size_t i = line; i < line + 19 && i < table.size(); i++)
        {
            table[i] = std::isdigit(static_cast<unsigned char>(table[i])) != 0
                           ? '#'
                           : table[i];
        }
        return table;
    }

    host::Store store{directory.path() / "host.db"};
    std::optional<host::control::Server> server;
    std::jthread thread;
};

TEST_F(Ctl, WrongUsageEndsWithTwo)
{
    EXPECT_EQ(command({}).code, kFailed);
    EXPECT_EQ(command({"dance"}).code, kFailed);
    EXPECT_EQ(command({"adopt"}).code, kFailed);
    EXPECT_EQ(command({"adopt", "x", "--file", "y"}).code, kFailed);
    EXPECT_EQ(command({"adopt", "--file", "y", "--apply"}).code, kFailed);
    EXPECT_EQ(command({"jobs", "--since", "soon"}).code, kFailed);
    EXPECT_EQ(command({"jobs", "--since", "2026-13-01"}).code, kFailed);
    EXPECT_EQ(command({"jobs", "anna", "--domain", "bert"}).code, kFailed);
    EXPECT_EQ(command({"pki", "issue", "king", "x"}).code, kFailed);
    EXPECT_EQ(command({"--help"}).code, kOk);
    EXPECT_THAT(command({"--version"}).out, StartsWith("0."));
}

TEST_F(Ctl, AdoptShowsNotesAndDifference)
{
    Outcome outcome =
        command({"adopt", "--file", sample("spice-usb"), "--tenant", "green",
                 "--booted", "idle:9", "--limit", "300"});
    EXPECT_EQ(outcome.code, kOk);
    EXPECT_THAT(outcome.out,
                AllOf(HasSubstr("note     devices/sound: dropped"),
                      HasSubstr("-    <sound model='ich9'>\n"),
                      HasSubstr("+      <airlock:booted policy='idle:9'/>\n"),
                      HasSubstr("+      <airlock:tenant name='green'/>\n"),
                      HasSubstr("+      <airlock:limit seconds='300'/>\n"),
                      Not(HasSubstr("&lt;"))));
    Outcome diff = command({"adopt", "--file", sample("spice-usb"), "--diff"});
    EXPECT_THAT(diff.out, StartsWith("--- "));
    EXPECT_EQ(
        command({"adopt", "--file", sample("spice-usb"), "--booted", "never"})
            .code,
        kRefused);
}

TEST_F(Ctl, AdoptRefusesWithAdvice)
{
    Outcome outcome = command({"adopt", "--file", sample("pci-passthrough")});
    EXPECT_EQ(outcome.code, kRefused);
    EXPECT_THAT(outcome.out,
                AllOf(HasSubstr("refused  devices/hostdev[1]"),
                      HasSubstr("remove <hostdev>"), HasSubstr("not adopted")));
    Json json =
        command({"adopt", "--file", sample("pci-passthrough"), "--json"})
            .json();
    EXPECT_EQ(json["ok"], false);
    EXPECT_EQ(json["xml"], "");
    EXPECT_GT(json["refusals"].size(), 10U);
    std::string missing = path("missing.xml");
    EXPECT_EQ(command({"adopt", "--file", missing}).code, kFailed);
    writeFileAtomic(path("junk.xml"), std::string_view("<junk/>"));
    EXPECT_EQ(command({"adopt", "--file", path("junk.xml")}).code, kRefused);
}

TEST_F(Ctl, AdoptAndRevertOfAFile)
{
    std::string adopted = path("adopted.xml");
    ASSERT_EQ(command({"adopt", "--file", sample("debian-virt-install"),
                       "--cpu", "Nehalem", "-o", adopted})
                  .code,
              kOk);
    EXPECT_EQ(command({"adopt", "--file", adopted}).out, "nothing to change\n");
    Json json = command({"adopt", "--file", adopted, "--json"}).json();
    EXPECT_EQ(json["changed"], false);
    EXPECT_EQ(json["xml"], text("adopted.xml"));
    std::string back = path("back.xml");
    ASSERT_EQ(
        command({"adopt", "--file", adopted, "--revert", "-o", back}).code,
        kOk);
    EXPECT_EQ(text("back.xml"),
              readTextFile(sample("debian-virt-install"), 1U << 20));
    EXPECT_EQ(command({"adopt", "--file", back, "--revert"}).code, kRefused);
    EXPECT_EQ(command({"adopt", "--file", adopted, "-o", "-"}).out,
              text("adopted.xml"));
}

TEST_F(Ctl, PkiMakesWhatTheDaemonsNeed)
{
    std::string site = path("site");
    ASSERT_EQ(command({"pki", "init", "--dir", site}).code, kOk);
    ASSERT_EQ(command({"pki", "issue", "--dir", site, "hostd", "prod1"}).code,
              kOk);
    ASSERT_EQ(command({"pki", "issue", "--dir", site, "bootd", "boot1",
                       "--host", "boot1.example", "--days", "90"})
                  .code,
              kOk);
    Certificate host = readCertificate(site + "/prod1.crt");
    EXPECT_EQ(host.name, "prod1");
    EXPECT_EQ(host.role, "airlock-hostd");
    Certificate boot = readCertificate(site + "/boot1.crt");
    EXPECT_EQ(boot.role, "airlock-bootd");
    EXPECT_NEAR(boot.daysLeft, 90, 1);
    struct stat info = {};
    ASSERT_EQ(::stat((site + "/prod1.key").c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0600U);

    Outcome again = command({"pki", "issue", "--dir", site, "hostd", "prod1"});
    EXPECT_EQ(again.code, kRefused);
    EXPECT_THAT(again.err, HasSubstr("is there already"));
    EXPECT_EQ(command({"pki", "init", "--dir", site}).code, kRefused);
    for (const char* name : {"../x", "ca", ".hidden", "a/b"})
    {
        EXPECT_EQ(command({"pki", "issue", "--dir", site, "hostd", name}).code,
                  kRefused)
            << name;
    }
    EXPECT_EQ(
        command({"pki", "issue", "--dir", path("none"), "hostd", "x"}).code,
        kFailed);
}

TEST_F(Ctl, CheckSaysWhatIsWrong)
{
    std::string site = path("site");
    command({"pki", "init", "--dir", site});
    command({"pki", "issue", "--dir", site, "bootd", "prod1", "--host", "x"});
    writeFileAtomic(path("hostd.toml"),
                    "[tls]\ncertificate = \"" + site +
                        "/prod1.crt\"\nkey = \"" + site +
                        "/prod1.key\"\nauthorities = \"" + site +
                        "/ca.crt\"\n[[server]]\nname = \"boot1\"\n"
                        "host = \"127.0.0.1\"\nport = 1\n");
    Outcome outcome = command({"check", "--config", path("hostd.toml"),
                               "--connect", "test:///default", "--json"});
    EXPECT_EQ(outcome.code, kRefused);
    std::map<std::string, bool> results;
    Json report = outcome.json();
    for (const Json& check : report["checks"])
    {
        results[check["check"]] = check["ok"];
    }
    std::map<std::string, bool> expected = {
        {"configuration", true}, {"certificate", false},
        {"authority", true},     {"certificates together", true},
        {"key", true},           {"boot server boot1", false},
        {"host agent", false},   {"libvirt", true}};
    EXPECT_EQ(results, expected);
}

/** Soon is a warning, over is a failure. */
TEST_F(Ctl, CheckLooksAtTheTimeThatCertificatesHave)
{
    std::string site = path("site");
    command({"pki", "init", "--dir", site});
    writeFileAtomic(path("hostd.toml"),
                    "[tls]\ncertificate = \"" + site +
                        "/prod1.crt\"\nkey = \"" + site +
                        "/prod1.key\"\nauthorities = \"" + site +
                        "/ca.crt\"\n[[server]]\nname = \"boot1\"\n"
                        "host = \"127.0.0.1\"\nport = 1\n");
    auto certificate = [&] {
        Outcome outcome = command({"check", "--config", path("hostd.toml"),
                                   "--connect", "test:///default", "--json"});
        Json report = outcome.json();
        for (const Json& check : report["checks"])
        {
            if (check["check"] == "certificate")
            {
                return check;
            }
        }
        return Json();
    };
    command({"pki", "issue", "--dir", site, "hostd", "prod1", "--days", "40"});
    Json found = certificate();
    EXPECT_EQ(found["ok"], true);
    EXPECT_EQ(found["warning"], false);
    auto replace = [&](const pki::Validity& validity) {
        pki::Credential made =
            pki::issue({readTextFile(site + "/ca.crt", 1U << 20),
                        readTextFile(site + "/ca.key", 1U << 20)},
                       {"prod1", tls::hostRole, {}}, validity);
        writeFileAtomic(site + "/prod1.crt", made.certificate);
        writeFileAtomic(site + "/prod1.key", made.key, 0600);
    };
    replace({std::chrono::hours(-1), std::chrono::hours(24 * 20)});
    found = certificate();
    EXPECT_EQ(found["ok"], true);
    EXPECT_EQ(found["warning"], true);
    EXPECT_THAT(found["detail"].get<std::string>(),
                HasSubstr(" days: issue a new one"));
    replace({std::chrono::hours(-48), std::chrono::hours(-30)});
    found = certificate();
    EXPECT_EQ(found["ok"], false);
    EXPECT_THAT(found["detail"].get<std::string>(), HasSubstr("has expired"));
}

TEST_F(Ctl, WithoutAHostAgentItSaysSo)
{
    Outcome outcome = command({"list", "--json"});
    EXPECT_EQ(outcome.code, kFailed);
    EXPECT_EQ(outcome.json()["error"], "failed");
    EXPECT_THAT(outcome.err, HasSubstr("does airlock-hostd run"));
}

TEST_F(CtlAgent, ListsAndShows)
{
    Outcome list = command({"list"});
    EXPECT_EQ(list.code, kOk);
    EXPECT_THAT(list.out, AllOf(HasSubstr("anna"), HasSubstr("trapped"),
                                HasSubstr("boot1")));
    EXPECT_EQ(command({"list", "--names"}).out, "anna\n");
    EXPECT_EQ(command({"list", "--json"}).json()["vms"][0]["generation"], 4);
    EXPECT_THAT(command({"status", "anna"}).out,
                AllOf(HasSubstr(anna), HasSubstr("(open)"), HasSubstr("j1")));
    Outcome unknown = command({"status", "zoe", "--json"});
    EXPECT_EQ(unknown.code, kRefused);
    EXPECT_EQ(unknown.json()["error"], "not-found");
}

TEST_F(CtlAgent, JobsAreFiltered)
{
    EXPECT_THAT(command({"jobs", "anna"}).out, HasSubstr("green"));
    EXPECT_EQ(command({"jobs", "--tenant", "blue"}).out, "no jobs\n");
    EXPECT_THAT(command({"jobs", "--open", "--since", "1h", "-n", "1"}).out,
                HasSubstr("j1"));
    EXPECT_THAT(command({"jobs", "--domain", anna}).out, HasSubstr("j1"));
    EXPECT_EQ(command({"jobs", "--result", "done"}).out, "no jobs\n");
    EXPECT_EQ(command({"jobs", "--server", "boot2"}).out, "no jobs\n");
    EXPECT_EQ(command({"jobs", "--since", "2200-01-01"}).out, "no jobs\n");
    for (const char* since : {"2020-02-29", "2020-01-01T16:30",
                              "2020-01-01T16:30:59", "2020-01-01 16:30"})
    {
        EXPECT_THAT(command({"jobs", "--since", since}).out, HasSubstr("j1"))
            << since;
    }
}

TEST_F(CtlAgent, JobsAreATableThatStaysTheSame)
{
    host::Change change;
    change.closeJob = host::JobEnd{"j1",
                                   "failed: the guest did not come up",
                                   {{"exporting", 1.25},
                                    {"booting", 60},
                                    {"copy", 7},
                                    {"hand-over: load", 8}},
                                   {{"memory-bytes", 4096}}};
    change.jobId = "";
    store.transition(anna, host::State::trapped, host::State::retrying, change);
    std::string table = withoutTime(command({"jobs"}).out);
    EXPECT_EQ(table, "started (UTC)        vm    tenant  boot server  seconds  "
                     "result                             job\n"
                     "-------------------  ----  ------  -----------  -------  "
                     "---------------------------------  ---\n"
                     "####-##-## ##:##:##  anna  green   boot1           61.2  "
                     "failed: the guest did not come up  j1\n");
    Json json = command({"jobs", "--json"}).json();
    EXPECT_EQ(json["truncated"], false);
    EXPECT_EQ(json["jobs"][0]["result"], "failed: the guest did not come up");
    EXPECT_EQ(json["jobs"][0]["seconds"]["booting"], 60);
    EXPECT_EQ(json["jobs"][0]["figures"]["memory-bytes"], 4096);
}

TEST_F(CtlAgent, RetriesWhatIsHeld)
{
    EXPECT_EQ(command({"retry", "anna"}).code, kRefused);
    store.transition(anna, host::State::trapped, host::State::held);
    Outcome outcome = command({"retry", anna});
    EXPECT_EQ(outcome.code, kOk);
    EXPECT_THAT(outcome.out, HasSubstr("retrying"));
}

TEST_F(CtlAgent, AChangeOfStateIsOneShortLine)
{
    Json vm = host::control::toJson(*store.vm(anna));
    vm["reason"] = "no \n luck";
    EXPECT_EQ(eventLine({{"time", "2026-11-21T16:30:05.123Z"},
                         {"what", "state"},
                         {"vm", vm}}),
              "2026-11-21 16:30:05 anna trapped boot_server=\"boot1\" "
              "reason=\"no ? luck\"\n");
}

TEST_F(CtlAgent, ShowsEvents)
{
    EXPECT_EQ(command({"events"}).out, "no events\n");
    server->publish({{"what", "state\n"},
                     {"vm", {{"name", "anna"}, {"marks", Json::object()}}}});
    std::string out;
    while (out.find("anna") == std::string::npos)
    {
        out = command({"events"}).out;
    }
    EXPECT_THAT(out, AllOf(HasSubstr(" what=\"state?\""),
                           HasSubstr(" vm.name=\"anna\"")));
    // The host agent ends: so does the command.
    std::jthread end([this] {
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
        thread = {};
        server.reset();
    });
    Outcome follow = command({"events", "-f", "--json"});
    EXPECT_EQ(follow.code, kFailed);
    EXPECT_THAT(follow.out, HasSubstr("\"name\":\"anna\""));
}

} // namespace
} // namespace airlock::ctl
