/** A reboot, step by step: from each state that the store may have, with each
 * state that QEMU may be in, against a boot server that says what it likes. */
#include "common/http_server.hpp"
#include "common/sha256.hpp"
#include "devmodel/vm/hand_over.hpp"
#include "fake_domain.hpp"
#include "hostagent/agent/cycle.hpp"
#include "test_pki.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

namespace airlock::host
{
namespace
{

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

/** Answers what a test wrote down for "METHOD /path", else 404. */
class ScriptedServer
{
  public:
    explicit ScriptedServer(test::TestPki& pki)
        : http_(std::make_unique<http::Server>(
              http::Server::Options{"127.0.0.1", 0}, pki.server(),
              [this](const auto& request) {
                  return std::make_unique<Call>(*this, request);
              }))
    {}

    std::uint16_t port() const { return http_->port(); }

    /** Its port is closed. */
    void stop() { http_.reset(); }

    void answer(const std::string& call, std::string body)
    {
        std::lock_guard lock(mutex_);
        answers_[call] = std::move(body);
    }

    void answer(const std::string& call, const Json& body)
    {
        answer(call, dumpJson(body));
    }

    /** Called with each call, in a thread of the server. Set it before. */
    std::function<void(const std::string& call)> onCall;
    /** A long answer; nothing for others. */
    std::function<std::unique_ptr<http::BodySource>(const std::string& call)>
        stream;

  private:
    class Call : public http::Exchange
    {
      public:
        Call(ScriptedServer& server, const http::Request& request)
            : server_(server), name_(request.method + " ")
        {
            for (const std::string& part : request.path)
            {
                name_ += "/" + part;
            }
        }

        Body body() const override
        {
            return name_ == "POST /v1/jobs" ? Body::json : Body::none;
        }

        http::Answer finish() override { return server_.find(name_); }

      private:
        ScriptedServer& server_;
        std::string name_;
    };

    http::Answer find(const std::string& call)
    {
        if (onCall)
        {
            onCall(call);
        }
        if (auto body = stream ? stream(call) : nullptr)
        {
            http::Answer out;
            out.type = http::octetsType;
            out.stream = std::move(body);
            return out;
        }
        std::lock_guard lock(mutex_);
        auto found = answers_.find(call);
        if (found == answers_.end())
        {
            throw http::Problem(404, "not-found", "nothing is written down");
        }
        http::Answer out;
        out.body = found->second;
        return out;
    }

    mutable std::mutex mutex_;
    std::map<std::string, std::string> answers_;
    std::unique_ptr<http::Server> http_;
};

class CycleTest : public ::testing::Test
{
  protected:
    CycleTest()
    {
        std::filesystem::create_directory(spool());
        settings.retryDelay = std::chrono::seconds(3600);
    }

    std::filesystem::path spool() const { return directory.path() / "spool"; }

    CycleContext context()
    {
        return {store,
                *servers,
                *slots,
                settings,
                spool(),
                [this](const Alert& alert) { alerts.push_back(alert); },
                [](const VmRecord&) {}};
    }

    std::optional<Milliseconds> run()
    {
        CycleContext all = context();
        return Cycle(all, domain, {}).run();
    }

    VmRecord vm() const { return store.vm(domain->uuid()).value(); }

    /** As a host agent leaves it that ended in this state, `ago` before. */
    void enter(State state, std::chrono::seconds ago = std::chrono::seconds(0))
    {
        age = ago;
        store.ensureVm(domain->uuid(), domain->name());
        Change change;
        change.generation = 1;
        change.jobId = job;
        change.bootServer = "boot1";
        change.nonce = toHex(nonce);
        change.attempts = 1;
        JobRecord opened;
        opened.id = job;
        opened.uuid = domain->uuid();
        change.openJob = opened;
        change.marks = {lifeMark()};
        store.transition(domain->uuid(), State::running, State::trapped,
                         change);
        if (state == State::applying)
        {
            store.transition(domain->uuid(), State::trapped, State::admitting);
        }
        State from = vm().state;
        store.transition(domain->uuid(), from, state);
        age = std::chrono::seconds(0);
    }

    std::string lifeMark() const
    {
        return fmt::format("life/{:016x}/{}", domain->life, domain->traps);
    }

    std::filesystem::path deltaFile() const
    {
        return spool() / (domain->uuid() + "-1-disk0");
    }

    /** What an earlier process has fetched. */
    void writeDelta() const
    {
        std::string delta = emptyDelta();
        writeFileAtomic(deltaFile(), delta, 0600);
        auto disks =
            spooledDisks(parseDomain(domain->xml()),
                         findDisks(*domain, {"virtio-disk0", "virtio-disk1"}));
        disks.at(0).delta = {delta.size(),
                             sha256(Bytes(delta.begin(), delta.end()))};
        DeltaSpool(spool(), domain->uuid(), 1).complete(disks);
    }

    std::string jobPath(const std::string& rest = "") const
    {
        return "/v1/jobs/" + job + rest;
    }

    Json status(const char* state) const
    {
        return {{"id", job},       {"state", state},
                {"stage", "boot"}, {"uploaded", {true, true}},
                {"tries", 1},      {"seconds", Json::object()}};
    }

    Json done(Json disks) const
    {
        Json out = status("done");
        out["result"] = {{"memory-stream-bytes", 100},
                         {"disks", std::move(disks)}};
        return out;
    }

    /** Of the boot that was asked for. */
    handover::Manifest manifest() const
    {
        handover::Manifest out;
        out.job = {domain->uuid(), 1, nonce};
        out.guest = vm::shapeOf(parseDomain(domain->xml()).guest());
        return out;
    }

    static Json file(const std::string& content)
    {
        return {
            {"stream-bytes", content.size()},
            {"sha256",
             toHex(sha256(ByteView(Bytes(content.begin(), content.end()))))}};
    }

    /** An image stream that changes nothing. */
    static std::string emptyDelta()
    {
        class Empty : public handover::ImageSource
        {
          public:
            std::uint64_t bytes() const override
            {
                return test::FakeDomain::diskBytes;
            }
            std::uint64_t nextData(std::uint64_t) override { return bytes(); }
            void read(std::span<std::uint8_t>, std::uint64_t) override {}
        };
        Empty source;
        std::string out;
        handover::writeImageStream(source, [&](ByteView data) {
            out.append(data.begin(), data.end());
        });
        return out;
    }

    std::vector<std::string> alertKinds() const
    {
        std::vector<std::string> out;
        for (const Alert& alert : alerts)
        {
            out.push_back(alert.what);
        }
        return out;
    }

    std::chrono::seconds age{0};
    Digest nonce{};
    std::string job = boot::jobId(nonce);
    TempDirectory directory;
    test::TestPki pki;
    ScriptedServer server{pki};
    std::shared_ptr<test::FakeDomain> domain =
        std::make_shared<test::FakeDomain>();
    Store store{directory.path() / "state.db", [this] {
                    return std::chrono::time_point_cast<Milliseconds>(
                        std::chrono::system_clock::now() - age);
                }};
    std::optional<ServerPool> servers{
        std::in_place,
        std::vector<ServerSettings>{{"boot1", {"127.0.0.1", server.port()}, 1}},
        pki.client()};
    std::optional<JobSlots> slots{1U};
    RebootSettings settings;
    std::vector<Alert> alerts;
};

TEST_F(CycleTest, TheRulesOfTheFakes)
{
    // A started domain is trapped; no boot server answers: it waits.
    EXPECT_EQ(run(), std::chrono::seconds(2));
    EXPECT_EQ(vm().state, State::trapped);
    EXPECT_EQ(vm().generation, 1U);
    EXPECT_THAT(alerts, IsEmpty());
}

TEST_F(CycleTest, AResultHasADeltaForEachDiskThatIsWritable)
{
    domain->dataReadOnly = false;
    enter(State::returning);
    std::string delta = emptyDelta();
    server.answer("GET " + jobPath(), done({file(delta), nullptr}));
    server.answer("GET " + jobPath("/disks/0"), delta);
    run();
    EXPECT_EQ(vm().state, State::retrying);
    EXPECT_THAT(vm().reason, HasSubstr("disk 1"));
    EXPECT_FALSE(std::filesystem::exists(deltaFile()));
}

TEST_F(CycleTest, AResultHasNoDeltaForADiskThatIsReadOnly)
{
    enter(State::returning);
    std::string delta = emptyDelta();
    server.answer("GET " + jobPath(), done({file(delta), file(delta)}));
    server.answer("GET " + jobPath("/disks/0"), delta);
    server.answer("GET " + jobPath("/disks/1"), delta);
    run();
    EXPECT_EQ(vm().state, State::retrying);
    EXPECT_THAT(vm().reason, HasSubstr("disk 1"));
}

TEST_F(CycleTest, AJobHasAsManyDisksAsItWasAskedFor)
{
    enter(State::exporting);
    Json answer = status("receiving");
    answer["uploaded"] = Json::array();
    server.answer("POST /v1/jobs", answer);
    run();
    EXPECT_EQ(vm().state, State::retrying);
    EXPECT_THAT(vm().reason, HasSubstr("number of disks"));
}

/** Of the states in which a boot server is asked. */
class ServerStateTest : public CycleTest,
                        public ::testing::WithParamInterface<State>
{};

TEST_P(ServerStateTest, AServerThatLeftTheConfigurationIsGivenUp)
{
    enter(GetParam());
    servers.emplace(std::vector<ServerSettings>{}, pki.client());
    run();
    EXPECT_EQ(vm().state, State::retrying);
    EXPECT_THAT(vm().reason, HasSubstr("boot1"));
    EXPECT_THAT(alertKinds(), ElementsAre("retrying"));
}

TEST_P(ServerStateTest, AServerThatIsCutOffIsWaitedForUntilItIsLate)
{
    State state = GetParam();
    settings.limit = std::chrono::seconds(0);
    settings.serverTime = std::chrono::seconds(1000);
    settings.uploadTime = settings.returnTime = std::chrono::seconds(1000);
    enter(state);
    server.stop();
    if (state != State::booting) // which waits by asking again and again
    {
        EXPECT_EQ(run(), std::chrono::seconds(2));
        EXPECT_EQ(vm().state, state);
        EXPECT_THAT(alerts, IsEmpty());
    }
    settings.serverTime = std::chrono::seconds(-1);
    settings.uploadTime = settings.returnTime = std::chrono::seconds(-1);
    run();
    EXPECT_EQ(vm().state, State::retrying);
    EXPECT_THAT(alertKinds(), ElementsAre("retrying"));
}

INSTANTIATE_TEST_SUITE_P(All, ServerStateTest,
                         ::testing::Values(State::exporting, State::booting,
                                           State::returning, State::admitting),
                         [](const auto& test) {
                             return std::string(toString(test.param));
                         });

TEST_F(CycleTest, AGuestThatCannotBeResumedIsToldOf)
{
    enter(State::applying);
    writeDelta();
    domain->isLoaded();
    bool broken = true;
    domain->onCommand = [&](const std::string& command) {
        if (broken && command == "set_link")
        {
            throw QmpError(command, "DeviceNotFound", "no net0");
        }
    };
    EXPECT_EQ(run(), std::chrono::seconds(2));
    EXPECT_EQ(vm().state, State::running);
    EXPECT_THAT(alertKinds(), ElementsAre("stuck"));
    EXPECT_EQ(domain->resumed, 0U);
    // What is left is to resume it.
    broken = false;
    EXPECT_EQ(run(), std::nullopt);
    EXPECT_EQ(domain->resumed, 1U);
    EXPECT_THAT(domain->applied, SizeIs(1));
}

TEST_F(CycleTest, ADiskThatTakesNoDeltaIsTriedAgainAndThenHeld)
{
    enter(State::applying);
    writeDelta();
    domain->isLoaded();
    domain->onCommand = [&](const std::string& command) {
        if (command == "__internal.airlock_apply")
        {
            throw QmpError(command, "GenericError", "no space");
        }
    };
    EXPECT_EQ(run(), std::chrono::seconds(2));
    EXPECT_EQ(vm().state, State::applying);
    settings.returnTime = std::chrono::seconds(-1);
    run();
    EXPECT_EQ(vm().state, State::held);
    EXPECT_TRUE(vm().marks.contains(incompleteDeltaMark));
    EXPECT_THAT(alertKinds(), ElementsAre("applying", "held"));
    EXPECT_TRUE(std::filesystem::exists(deltaFile()));
}

TEST_F(CycleTest, WhoIsOnItsWayForTooLongIsToldOf)
{
    enter(State::booting, std::chrono::hours(1));
    domain->runState = RunState::off;
    const std::string uuid = domain->uuid();
    CycleContext all = context();
    alertStuck(all, {}, {{uuid, std::chrono::hours(2)}});
    EXPECT_THAT(alerts, IsEmpty());
    alertStuck(all, {}, {});
    EXPECT_THAT(alertKinds(), ElementsAre("stuck"));
    EXPECT_THAT(alerts.at(0).why, HasSubstr("booting"));
}

TEST_F(CycleTest, NobodyIsStuckThatHasNothingToDo)
{
    for (State state : {State::trapped, State::held})
    {
        SCOPED_TRACE(toString(state));
        nonce[0]++;
        job = boot::jobId(nonce);
        enter(State::booting, std::chrono::hours(24));
        store.transition(domain->uuid(), State::booting, state, {.jobId = ""});
        age = std::chrono::seconds(0);
        alertStuck(context(), {}, {}); // off
        EXPECT_THAT(alerts, IsEmpty());
        store.forgetVm(domain->uuid());
    }
}

/** Held with a disk that is half written: what leads on is its completion. */
class HalfWrittenTest : public CycleTest
{
  protected:
    HalfWrittenTest()
    {
        enter(State::applying);
        writeDelta();
        store.transition(domain->uuid(), State::applying, State::held,
                         {.marks = {incompleteDeltaMark}});
    }

    void expectKept() const
    {
        EXPECT_EQ(vm().state, State::held);
        EXPECT_TRUE(vm().marks.contains(incompleteDeltaMark));
        EXPECT_TRUE(std::filesystem::exists(deltaFile()));
    }
};

TEST_F(HalfWrittenTest, IsKeptWhenItsQemuEnds)
{
    domain->runState = RunState::off;
    EXPECT_EQ(run(), std::nullopt);
    expectKept();
}

TEST_F(HalfWrittenTest, IsKeptWhateverQemuSays)
{
    domain->onCommand = [](const std::string& command) {
        throw QmpError(command, "GenericError", "not now");
    };
    EXPECT_THROW(run(), QmpError);
    expectKept();
}

TEST_F(HalfWrittenTest, TakesNoSlot)
{
    slots.emplace(0U); // there is none
    EXPECT_EQ(run(), std::nullopt);
    expectKept();
}

TEST_F(HalfWrittenTest, IsCompletedInTheNextLifeBeforeItBoots)
{
    domain->isStarted(RunState::running);
    domain->isTrapped();
    run();
    EXPECT_THAT(domain->applied, SizeIs(1));
    EXPECT_EQ(vm().state, State::trapped);
    EXPECT_FALSE(std::filesystem::exists(deltaFile()));
}

/** What the host agent finds in QEMU when it looks. */
enum class Found
{
    off,
    startedPaused, ///< a new QEMU before its stub has run
    starting,      ///< the same, and the stub is about to run
    trapped,       ///< as the store knows it
    trappedAnew,   ///< a new QEMU
    loaded,
    running,
    paused,        ///< it has run
    ranAndTrapped, ///< it has run with the state and has reset itself
};

/** A state of the store, what QEMU is like, and what has to come of it. */
struct Cell
{
    State state;
    Found found;
    State then;
    const char* deltas; ///< "kept", "applied", "gone"
    bool alerted = false;
    bool resumed = false;
};

std::string nameOf(Found found)
{
    switch (found)
    {
    case Found::off:
        return "Off";
    case Found::startedPaused:
        return "StartedPaused";
    case Found::starting:
        return "Starting";
    case Found::trapped:
        return "Trapped";
    case Found::trappedAnew:
        return "TrappedAnew";
    case Found::loaded:
        return "Loaded";
    case Found::running:
        return "Running";
    case Found::paused:
        return "Paused";
    default:
        return "RanAndTrapped";
    }
}

class CellTest : public CycleTest, public ::testing::WithParamInterface<Cell>
{
  protected:
    void arrange(Found found)
    {
        switch (found)
        {
        case Found::off:
            domain->runState = RunState::off;
            break;
        case Found::startedPaused:
            domain->isStarted(RunState::paused);
            break;
        case Found::starting:
            domain->isStarted(RunState::running);
            break;
        case Found::trapped:
            break;
        case Found::trappedAnew:
            domain->isStarted(RunState::running);
            domain->isTrapped();
            break;
        case Found::loaded:
            domain->isLoaded();
            break;
        case Found::running:
            domain->runs();
            break;
        case Found::paused:
            domain->runs();
            domain->runState = RunState::paused;
            break;
        case Found::ranAndTrapped:
            domain->runs();
            domain->isTrapped();
            domain->traps++;
            break;
        }
    }
};

TEST_P(CellTest, DoesWhatTheDiskNeeds)
{
    const Cell& cell = GetParam();
    enter(cell.state);
    writeDelta();
    arrange(cell.found);
    server.stop();
    run();
    EXPECT_EQ(toString(vm().state), toString(cell.then));
    EXPECT_EQ(domain->applied.empty()
                  ? std::filesystem::exists(deltaFile()) ? "kept" : "gone"
                  : "applied",
              std::string(cell.deltas));
    EXPECT_EQ(!alerts.empty(), cell.alerted);
    EXPECT_EQ(domain->resumed != 0, cell.resumed);
}

INSTANTIATE_TEST_SUITE_P(
    Applying, CellTest,
    ::testing::Values(
        Cell{State::applying, Found::off, State::applying, "kept"},
        Cell{State::applying, Found::startedPaused, State::applying, "kept"},
        Cell{State::applying, Found::starting, State::applying, "kept"},
        Cell{State::applying, Found::trapped, State::trapped, "applied"},
        Cell{State::applying, Found::trappedAnew, State::trapped, "applied"},
        Cell{State::applying, Found::loaded, State::running, "applied", false,
             true},
        Cell{State::applying, Found::running, State::running, "gone", true},
        Cell{State::applying, Found::paused, State::running, "gone", true},
        Cell{State::applying, Found::ranAndTrapped, State::trapped, "gone",
             true}),
    [](const auto& test) { return nameOf(test.param.found); });

INSTANTIATE_TEST_SUITE_P(
    Admitting, CellTest,
    ::testing::Values(
        Cell{State::admitting, Found::off, State::trapped, "gone"},
        Cell{State::admitting, Found::startedPaused, State::trapped, "gone"},
        Cell{State::admitting, Found::starting, State::trapped, "gone"},
        Cell{State::admitting, Found::trapped, State::admitting, "kept"},
        Cell{State::admitting, Found::trappedAnew, State::trapped, "gone"},
        Cell{State::admitting, Found::loaded, State::running, "applied", false,
             true},
        Cell{State::admitting, Found::running, State::running, "gone", true},
        Cell{State::admitting, Found::paused, State::running, "gone", true},
        Cell{State::admitting, Found::ranAndTrapped, State::trapped, "gone"}),
    [](const auto& test) { return nameOf(test.param.found); });

INSTANTIATE_TEST_SUITE_P(
    Returning, CellTest,
    ::testing::Values(
        Cell{State::returning, Found::off, State::trapped, "gone"},
        Cell{State::returning, Found::startedPaused, State::trapped, "gone"},
        Cell{State::returning, Found::starting, State::trapped, "gone"},
        Cell{State::returning, Found::trapped, State::returning, "kept"},
        Cell{State::returning, Found::trappedAnew, State::trapped, "gone"},
        Cell{State::returning, Found::running, State::running, "gone"},
        Cell{State::returning, Found::paused, State::running, "gone"},
        Cell{State::returning, Found::ranAndTrapped, State::trapped, "gone"}),
    [](const auto& test) { return nameOf(test.param.found); });

TEST_F(HalfWrittenTest, IsNotCompletedOverWhatTheGuestWroteSince)
{
    domain->runs();
    domain->isTrapped();
    domain->traps++;
    run();
    EXPECT_THAT(domain->applied, IsEmpty());
    EXPECT_THAT(alertKinds(), ElementsAre("resumed"));
    EXPECT_EQ(vm().state, State::trapped);
    EXPECT_FALSE(std::filesystem::exists(deltaFile()));
}

TEST_F(CycleTest, ADeltaIsCompleteBeforeTheStateIsAdmitted)
{
    enter(State::returning);
    std::string delta = emptyDelta();
    server.answer("GET " + jobPath(), done({file(delta), nullptr}));
    server.answer("GET " + jobPath("/disks/0"), delta);
    std::vector<SpooledDisk> disks =
        spooledDisks(parseDomain(domain->xml()),
                     findDisks(*domain, {"virtio-disk0", "virtio-disk1"}));
    std::size_t deltas = 0;
    server.onCall = [&](const std::string& call) {
        if (call == "GET " + jobPath("/manifest"))
        {
            auto open = DeltaSpool(spool(), domain->uuid(), 1).open(disks);
            deltas = static_cast<std::size_t>(std::ranges::count_if(
                open, [](const auto& one) { return one.has_value(); }));
        }
    };
    run();
    EXPECT_EQ(deltas, 1U);
    EXPECT_EQ(vm().state, State::retrying); // there is no manifest
    EXPECT_TRUE(std::filesystem::is_empty(spool()));
}

/** A byte now and then. */
class Trickle : public http::BodySource
{
  public:
    std::uint64_t bytes() const override { return 10000; }
    std::size_t read(std::span<std::uint8_t> out) override
    {
        std::this_thread::sleep_for(Milliseconds(100));
        out[0] = 0;
        return 1;
    }
};

TEST_F(CycleTest, AServerThatTricklesIsNotWaitedForForEver)
{
    settings.returnTime = std::chrono::seconds(100);
    enter(State::admitting, std::chrono::seconds(99));
    server.answer("GET " + jobPath("/manifest"), manifest().toJson());
    server.stream = [&](const std::string& call) {
        return call == "GET " + jobPath("/state") ? std::make_unique<Trickle>()
                                                  : nullptr;
    };
    run();
    EXPECT_EQ(vm().state, State::retrying);
    EXPECT_THAT(vm().reason, HasSubstr("takes too long"));
}

TEST_F(CycleTest, NothingIsFetchedOfAGuestThatWasNotAskedFor)
{
    enter(State::admitting);
    handover::Manifest other = manifest();
    other.guest.memoryBytes = other.guest.lowMemoryBytes = 1U << 30;
    server.answer("GET " + jobPath("/manifest"), other.toJson());
    bool fetched = false;
    server.onCall = [&](const std::string& call) {
        fetched = fetched || call == "GET " + jobPath("/state");
    };
    run();
    EXPECT_EQ(vm().state, State::retrying);
    EXPECT_THAT(vm().reason, HasSubstr("on another machine"));
    EXPECT_FALSE(fetched);
}

TEST_F(CycleTest, ALinkThatAnOperatorHasTakenDownStaysDown)
{
    for (bool down : {false, true})
    {
        SCOPED_TRACE(down);
        nonce[0]++;
        job = boot::jobId(nonce);
        domain->isTrapped();
        domain->commands.clear();
        enter(State::applying);
        writeDelta();
        domain->isLoaded();
        domain->nicElements = down ? "<link state='down'/>" : "";
        run();
        EXPECT_EQ(vm().state, State::running);
        EXPECT_THAT(domain->commands,
                    Contains(AllOf(HasSubstr("set_link"), HasSubstr("true")))
                        .Times(down ? 0 : 1));
        store.forgetVm(domain->uuid());
    }
}

TEST_F(CycleTest, ATrapThatLibvirtMissedIsToldAgain)
{
    domain->runState = RunState::running;
    server.stop();
    run();
    EXPECT_EQ(domain->runState, RunState::paused);
    EXPECT_EQ(vm().state, State::trapped);
}

TEST_F(CycleTest, AGuestOfWhichLibvirtThinksThatItRunsIsResumed)
{
    enter(State::applying);
    writeDelta();
    domain->isLoaded();
    domain->runState = RunState::running;
    run();
    EXPECT_EQ(domain->resumed, 1U);
    EXPECT_EQ(vm().state, State::running);
    EXPECT_THAT(alerts, IsEmpty());
}

TEST_F(CycleTest, AStartedDomainThatIsRefusedIsHeldAndSeen)
{
    domain->deviceElements = "<hostdev/>";
    EXPECT_EQ(run(), std::nullopt);
    EXPECT_EQ(vm().state, State::held);
    EXPECT_THAT(vm().reason, HasSubstr("hostdev"));
    EXPECT_THAT(alertKinds(), ElementsAre("held"));
    EXPECT_EQ(run(), std::nullopt);
    EXPECT_THAT(alerts, SizeIs(1));
    // Mended and started again it is followed.
    domain->deviceElements = "";
    domain->isStarted(RunState::running);
    domain->isTrapped();
    server.stop();
    run();
    EXPECT_EQ(vm().state, State::trapped);
}

TEST_F(CycleTest, AGuestThatRunsIsNotHeldForItsXml)
{
    domain->runs();
    domain->deviceElements = "<hostdev/>";
    EXPECT_EQ(run(), std::nullopt);
    EXPECT_EQ(vm().state, State::running);
    EXPECT_THAT(alerts, IsEmpty());
}

TEST_F(HalfWrittenTest, IsKeptWhenItsXmlIsRefused)
{
    domain->deviceElements = "<hostdev/>";
    domain->isStarted(RunState::running);
    domain->isTrapped();
    run();
    expectKept();
    EXPECT_THAT(vm().reason, HasSubstr("hostdev"));
}

TEST_F(CycleTest, TheJobOfADomainThatIsOffIsAbandoned)
{
    enter(State::booting);
    server.answer("DELETE " + jobPath(), status("gone"));
    std::atomic<bool> removed = false;
    server.onCall = [&](const std::string& call) {
        removed = removed || call == "DELETE " + jobPath();
    };
    abandonJob(context(), domain->uuid());
    EXPECT_TRUE(removed);
    EXPECT_EQ(vm().state, State::trapped);
    EXPECT_EQ(vm().jobId, "");
    EXPECT_EQ(store.job(job)->result, "abandoned");
}

TEST_F(CycleTest, ADomainThatIsGoneIsForgotten)
{
    enter(State::booting);
    server.stop();
    forgetDomain(context(), domain->uuid());
    EXPECT_FALSE(store.vm(domain->uuid()));
    EXPECT_EQ(store.job(job)->result, "abandoned");
    forgetDomain(context(), domain->uuid());
}

TEST_F(CycleTest, ADeltaIsAppliedWithoutASlot)
{
    enter(State::applying);
    writeDelta();
    domain->isLoaded();
    slots.emplace(0U); // others have them all
    run();
    EXPECT_EQ(vm().state, State::running);
    EXPECT_EQ(domain->resumed, 1U);
}

TEST_F(HalfWrittenTest, IsNotForgotten)
{
    abandonJob(context(), domain->uuid());
    forgetDomain(context(), domain->uuid());
    expectKept();
}

/** A QEMU that was lost while it took the delta, and then something else
 * happened to its disks. */
class OtherDisksTest : public CycleTest
{
  protected:
    OtherDisksTest()
    {
        domain->source = (directory.path() / "root.raw").string();
        writeFileAtomic(domain->source, "one");
        enter(State::applying);
        writeDelta();
        domain->isStarted(RunState::running);
        domain->isTrapped();
    }

    void expectHeld(const std::string& why)
    {
        run();
        EXPECT_EQ(vm().state, State::held);
        EXPECT_THAT(vm().reason, HasSubstr(why));
        EXPECT_TRUE(vm().marks.contains(incompleteDeltaMark));
        EXPECT_THAT(domain->applied, IsEmpty());
        EXPECT_THAT(alertKinds(), ElementsAre("held"));
        // And is left alone then.
        EXPECT_EQ(run(), std::nullopt);
        EXPECT_THAT(alerts, SizeIs(1));
    }
};

TEST_F(OtherDisksTest, TheSameDisksTakeIt)
{
    run();
    EXPECT_THAT(domain->applied, SizeIs(1));
}

TEST_F(OtherDisksTest, AnotherSource)
{
    domain->source = "/images/other.raw";
    expectHeld("other.raw");
}

TEST_F(OtherDisksTest, AnotherFileOfThatName)
{
    writeFileAtomic(domain->source, "two"); // the old inode is still in use
    expectHeld("another file");
}

TEST_F(OtherDisksTest, ADiskThatIsWritableNow)
{
    domain->dataReadOnly = false;
    expectHeld("was read-only");
}

TEST_F(OtherDisksTest, ADeltaThatIsMissing)
{
    std::filesystem::remove(deltaFile());
    expectHeld("vda: is missing");
}

TEST_F(OtherDisksTest, ADeltaThatSomebodyChanged)
{
    std::string delta = emptyDelta();
    delta.back() = static_cast<char>(delta.back() ^ 1);
    writeFileAtomic(deltaFile(), delta);
    expectHeld("not what the boot server sent");
}

TEST_F(OtherDisksTest, AreFollowedAgainWhenTheDeltaWasDiscarded)
{
    domain->source = "/images/other.raw";
    expectHeld("other.raw");
    discardDelta(context(), vm());
    EXPECT_EQ(vm().state, State::held);
    EXPECT_FALSE(deltaPending(vm()));
    EXPECT_EQ(vm().jobId, "");
    EXPECT_FALSE(std::filesystem::exists(deltaFile()));
    EXPECT_EQ(run(), std::nullopt); // held in this life
    EXPECT_EQ(vm().state, State::held);
    domain->isStarted(RunState::running);
    domain->isTrapped();
    server.stop();
    run();
    EXPECT_EQ(vm().state, State::trapped);
    EXPECT_EQ(vm().generation, 2U);
}

TEST_F(HalfWrittenTest, DoesNotRunWithADeltaThatWasDiscarded)
{
    domain->isLoaded();
    discardDelta(context(), vm());
    store.transition(domain->uuid(), State::held, State::trapped); // retry
    run();
    EXPECT_EQ(vm().state, State::held);
    EXPECT_EQ(domain->resumed, 0U);
}

} // namespace
} // namespace airlock::host
