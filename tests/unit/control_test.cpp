#include "common/file.hpp"
#include "common/socket.hpp"
#include "hostagent/control/client.hpp"
#include "hostagent/control/server.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <thread>

namespace airlock::host::control
{
namespace
{

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;
using namespace std::chrono_literals;

constexpr const char* anna = "00000000-0000-4000-8000-00000000000a";

class Control : public ::testing::Test
{
  protected:
    Control()
    {
        options.path = directory.path() / "hostd.sock";
        options.requestTime = 300ms;
    }

    ~Control() override { thread = {}; }

    /** The server runs from here on. */
    void start()
    {
        server.emplace(options);
        server->handle("echo", [](const JsonField& parameters, const Peer&) {
            return parameters.json();
        });
        server->handle("who", [](const JsonField&, const Peer& peer) {
            return Json{{"pid", peer.pid}, {"uid", peer.uid}};
        });
        server->handle("need", [](const JsonField& parameters, const Peer&) {
            return Json{{"got", parameters.at("x").string()}};
        });
        server->handle("break", [](const JsonField&, const Peer&) -> Json {
            throw Error("broken on purpose");
        });
        Actions actions;
        actions.retry = [this](const VmRecord& vm) {
            store.transition(vm.uuid, State::held, State::retrying);
        };
        actions.info = [] { return Json{{"version", "1"}}; };
        addStoreMethods(*server, store, std::move(actions));
        thread = std::jthread(
            [this](const std::stop_token& stop) { server->run(stop); });
    }

    Client client() { return Client(options.path, 5s); }

    /** What comes back for bytes that are sent as they are. */
    std::string raw(std::string_view bytes)
    {
        UniqueFd fd = connectUnix(options.path, 1s);
        sendAll(fd.get(), bytes, Deadline(1s));
        std::string in;
        Deadline deadline(5s);
        try
        {
            while (in.find('\0') == std::string::npos &&
                   receiveSome(fd.get(), in, 4096, deadline))
            {}
        }
        catch (const Error&)
        {
            in += "(closed)";
        }
        return in;
    }

    std::string errorName(const std::string& method, const Json& parameters)
    {
        try
        {
            client().call(method, parameters);
        }
        catch (const CallError& e)
        {
            return e.name();
        }
        return "";
    }

    TempDirectory directory{"airlock-control"};
    Store store{directory.path() / "host.db"};
    ServerOptions options;
    std::optional<Server> server;
    std::jthread thread;
};

TEST_F(Control, AnswersCallsInTheirOrder)
{
    start();
    Client one = client();
    Client two = client();
    for (int i = 0; i < 20; i++)
    {
        EXPECT_EQ(one.call("echo", {{"i", i}})["i"], i);
        EXPECT_EQ(two.call("echo", {{"i", -i}})["i"], -i);
    }
    EXPECT_EQ(one.call("who")["pid"], ::getpid());
    EXPECT_EQ(one.call("who")["uid"], ::getuid());
    EXPECT_THAT(raw(std::string("{\"method\":\"echo\"}\0", 18)),
                HasSubstr("\"parameters\":{}"));
}

TEST_F(Control, SaysWhatWentWrong)
{
    start();
    EXPECT_EQ(errorName("nothing", Json::object()), "unknown-method");
    EXPECT_EQ(errorName("need", {{"y", 1}}), "invalid-parameter");
    EXPECT_EQ(errorName("need", {{"x", 1}}), "invalid-parameter");
    EXPECT_EQ(errorName("break", Json::object()), "failed");
    EXPECT_EQ(errorName("release", {{"vm", "anna"}}), "unknown-method");
    EXPECT_THAT([&] { client().call("break"); },
                ThrowsMessage<CallError>(HasSubstr("broken on purpose")));
}

TEST(ControlPeers, RootAndTheGroupAndWhoeverIsMeant)
{
    ServerOptions options;
    constexpr uid_t self = 64055;
    airlock::control::Peer other;
    other.uid = 1000;
    other.groups = {1000, 27};
    airlock::control::Peer qemu;
    qemu.uid = self;
    qemu.groups = {64055};
    airlock::control::Peer root;
    root.uid = 0;
    EXPECT_TRUE(mayTalk(root, options, self));
    EXPECT_FALSE(mayTalk(other, options, self));
    options.group = 27;
    EXPECT_TRUE(mayTalk(other, options, self));
    // The host agent shares its user with the guests' QEMUs.
    EXPECT_FALSE(options.ownUser);
    EXPECT_FALSE(mayTalk(qemu, options, self));
    options.ownUser = true;
    EXPECT_TRUE(mayTalk(qemu, options, self));
}

TEST_F(Control, SurvivesHostileBytes)
{
    start();
    using std::string;
    EXPECT_THAT(raw(string("junk\0", 5)), HasSubstr("malformed-request"));
    EXPECT_THAT(raw(string("\0", 1)), HasSubstr("malformed-request"));
    EXPECT_THAT(raw(string("[]\0", 3)), HasSubstr("malformed-request"));
    EXPECT_THAT(raw(string("{\"method\":7}\0", 13)),
                HasSubstr("malformed-request"));
    EXPECT_THAT(raw(string("{\"method\":\"echo\",\"x\":1}\0", 24)),
                HasSubstr("malformed-request"));
    EXPECT_THAT(raw(string("{\"method\":\"echo\",\"parameters\":[1]}\0", 35)),
                HasSubstr("malformed-request"));
    string deep =
        "{\"method\":\"echo\",\"parameters\":{\"a\":" + string(100, '[') +
        string(100, ']') + "}}";
    EXPECT_THAT(raw(deep + '\0'), HasSubstr("malformed-request"));
    EXPECT_THAT(raw(string(maxRequest + 100, ' ')), HasSubstr("too long"));
    EXPECT_THAT(raw("half a request"), HasSubstr("(closed)"));
    EXPECT_EQ(client().call("echo", {{"alive", true}})["alive"], true);
}

TEST_F(Control, HasALimitOfConnections)
{
    options.maxConnections = 2;
    start();
    std::optional<Client> one = client();
    Client two = client();
    one->call("echo");
    two.call("echo");
    Client three(options.path, 300ms);
    EXPECT_THROW(three.call("echo"), TimedOut);
    one.reset();
    Client four = client();
    EXPECT_NO_THROW(two.call("echo"));
}

TEST_F(Control, CutsOffWhoDoesNotRead)
{
    options.maxUnsent = 64U << 10;
    start();
    UniqueFd fd = connectUnix(options.path, 1s);
    std::string request =
        write(Request{"echo", {{"x", std::string(30000, 'y')}}, false});
    EXPECT_THROW(
        {
            for (int i = 0; i < 2000; i++)
            {
                sendAll(fd.get(), request, Deadline(2s));
            }
        },
        Error);
    EXPECT_NO_THROW(client().call("echo"));
}

TEST_F(Control, EventsReachAllWhoFollow)
{
    start();
    server->publish({{"what", "early"}});
    auto seen = [this](std::vector<std::string>& out, std::size_t count) {
        Client follower = client();
        follower.follow("events", [&](const Json& parameters) {
            EXPECT_TRUE(parameters["event"]["time"].is_string());
            out.push_back(parameters["event"]["what"]);
            return out.size() < count;
        });
    };
    std::vector<std::string> first;
    std::vector<std::string> second;
    std::jthread one([&] { seen(first, 3); });
    std::jthread two([&] { seen(second, 3); });
    std::this_thread::sleep_for(100ms);
    server->publish({{"what", "now"}});
    server->publish({{"what", "later"}});
    one.join();
    two.join();
    EXPECT_THAT(first, ElementsAre("early", "now", "later"));
    EXPECT_EQ(first, second);
    Json recent = client().call("events")["events"];
    ASSERT_EQ(recent.size(), 3U);
    EXPECT_EQ(recent[2]["what"], "later");
}

TEST_F(Control, OnlyTheLastEventsAreKept)
{
    start();
    for (int i = 0; i < 300; i++)
    {
        server->publish({{"i", i}});
    }
    Json recent;
    Deadline deadline(5s);
    do
    {
        recent = client().call("events")["events"];
    } while (recent.empty() ||
             (recent.back()["i"] != 299 && !deadline.passed()));
    EXPECT_EQ(recent.size(), 256U);
    EXPECT_EQ(recent[0]["i"], 44);
}

TEST_F(Control, ShowsWhatTheStoreKnows)
{
    start();
    store.ensureVm(anna, "anna");
    Change change;
    change.generation = 1;
    JobRecord job;
    job.id = "j1";
    job.uuid = anna;
    job.name = "anna";
    job.tenant = "green";
    job.server = "boot1";
    change.openJob = job;
    change.marks = {"disk/0"};
    store.transition(anna, State::running, State::trapped, change);

    Json vms = client().call("list")["vms"];
    ASSERT_EQ(vms.size(), 1U);
    EXPECT_EQ(vms[0]["name"], "anna");
    EXPECT_EQ(vms[0]["state"], "trapped");
    EXPECT_TRUE(vms[0]["marks"].contains("disk/0"));
    for (const char* name : {"anna", anna})
    {
        Json status = client().call("status", {{"vm", name}});
        EXPECT_EQ(status["vm"]["uuid"], anna);
        EXPECT_EQ(status["jobs"][0]["id"], "j1");
        EXPECT_EQ(client().call("jobs", {{"vm", name}})["jobs"].size(), 1U);
    }
    EXPECT_EQ(errorName("status", {{"vm", "zoe"}}), "not-found");
    EXPECT_EQ(client().call("jobs", {{"tenant", "blue"}})["jobs"].size(), 0U);
    EXPECT_EQ(client().call("jobs", {{"open", true},
                                     {"since", 1},
                                     {"limit", 1}})["jobs"][0]["ended"],
              Json());
    EXPECT_EQ(errorName("jobs", {{"limit", 1000000}}), "invalid-parameter");
    EXPECT_EQ(client().call("info")["version"], "1");
}

TEST_F(Control, ALongHistoryIsCutShort)
{
    start();
    store.ensureVm(anna, "anna");
    // Results as long as they may get: all of them would be too much for one
    // reply.
    std::string why = "failed: " + std::string(8000, 'x');
    Change change;
    for (int i = 0; i < 400; i++)
    {
        JobRecord job;
        job.id = "j" + std::to_string(i);
        job.uuid = anna;
        job.name = "anna";
        job.tenant = "green";
        change.openJob = job;
        store.transition(anna, i == 0 ? State::running : State::trapped,
                         State::trapped, change);
        change = {};
        change.closeJob = JobEnd{job.id, why, {}};
    }
    Json reply = client().call("jobs", {{"limit", 10000}});
    EXPECT_EQ(reply["truncated"], true);
    EXPECT_LT(reply["jobs"].size(), 400U);
    EXPECT_GT(reply["jobs"].size(), 100U);
    EXPECT_EQ(reply["jobs"][0]["id"], "j399");
    EXPECT_EQ(client().call("jobs", {{"limit", 10}})["truncated"], false);
}

TEST_F(Control, RetriesWhatIsHeld)
{
    start();
    store.ensureVm(anna, "anna");
    EXPECT_EQ(errorName("retry", {{"vm", "anna"}}), "wrong-state");
    store.transition(anna, State::running, State::held);
    Json reply = client().call("retry", {{"vm", "anna"}});
    EXPECT_EQ(reply["vm"]["state"], "retrying");
}

TEST_F(Control, TheSocketIsItsOwnersAndGroups)
{
    start();
    struct stat info = {};
    ASSERT_EQ(::stat(options.path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0660U);
    EXPECT_THAT([&] { Server second(options); },
                ThrowsMessage<Error>(HasSubstr("another process listens")));
    thread = {};
    server.reset();
    EXPECT_FALSE(std::filesystem::exists(options.path));
    EXPECT_THAT([&] { client(); },
                ThrowsMessage<Error>(HasSubstr("does airlock-hostd run")));
}

TEST_F(Control, ReplacesAStaleSocketButNoFile)
{
    {
        UniqueFd dead = listenUnix(options.path);
    }
    ASSERT_TRUE(std::filesystem::exists(options.path));
    start();
    EXPECT_NO_THROW(client().call("echo"));
    options.path = directory.path() / "file";
    writeFileAtomic(options.path, std::string_view("precious"));
    EXPECT_THAT([&] { Server other(options); },
                ThrowsMessage<Error>(HasSubstr("is no socket")));
    EXPECT_TRUE(std::filesystem::exists(options.path));
}

TEST(ControlTime, IsWrittenAsIso8601)
{
    EXPECT_EQ(timeText(Timestamp(1500ms)), "1970-01-01T00:00:01.500Z");
    EXPECT_EQ(timeText(Timestamp(std::chrono::seconds(1795278605))),
              "2026-11-21T16:30:05.000Z");
}

} // namespace
} // namespace airlock::host::control
