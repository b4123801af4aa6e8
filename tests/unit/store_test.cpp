#include "common/file.hpp"
#include "hostagent/store/schema.hpp"
#include "hostagent/store/store.hpp"

#include <SQLiteCpp/SQLiteCpp.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <thread>

namespace airlock::host
{
namespace
{

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Key;
using ::testing::Pair;
using ::testing::ThrowsMessage;
using ::testing::UnorderedElementsAre;

constexpr const char* anna = "00000000-0000-4000-8000-00000000000a";
constexpr const char* bert = "00000000-0000-4000-8000-00000000000b";

Timestamp at(std::int64_t seconds)
{
    return Timestamp(std::chrono::seconds(seconds));
}

class StoreTest : public ::testing::Test
{
  protected:
    /** A store whose clock is `time`. */
    Store open()
    {
        return Store(file, [this] { return at(time); });
    }

    JobRecord job(const std::string& id, const char* uuid = anna)
    {
        JobRecord out;
        out.id = id;
        out.uuid = uuid;
        out.name = uuid == anna ? "anna" : "bert";
        out.tenant = "green";
        out.generation = 1;
        out.server = "boot1";
        return out;
    }

    /** Runs an action in a child that then dies without any clean-up. */
    template <typename Action>
    void inDyingChild(Action&& action)
    {
        pid_t child = ::fork();
        ASSERT_GE(child, 0);
        if (child == 0)
        {
            action();
            ::_exit(7);
        }
        int status = 0;
        ASSERT_EQ(::waitpid(child, &status, 0), child);
        ASSERT_TRUE(WIFEXITED(status));
        ASSERT_EQ(WEXITSTATUS(status), 7);
    }

    TempDirectory directory{"airlock-store"};
    std::filesystem::path file = directory.path() / "host.db";
    std::int64_t time = 1000;
};

TEST(State, HasAWordForEachValue)
{
    for (State state : allStates)
    {
        EXPECT_EQ(parseState(toString(state)), state);
    }
    EXPECT_THAT([] { parseState("asleep\n"); },
                ThrowsMessage<Refused>(HasSubstr("\"asleep?\"")));
}

TEST(State, NothingLeadsBackFromAnAppliedDelta)
{
    for (State to : {State::exporting, State::booting, State::returning,
                     State::admitting, State::retrying})
    {
        EXPECT_FALSE(mayFollow(State::applying, to)) << toString(to);
    }
    for (State from : {State::running, State::trapped, State::exporting,
                       State::booting, State::returning, State::retrying})
    {
        EXPECT_FALSE(mayFollow(from, State::applying)) << toString(from);
    }
    EXPECT_TRUE(mayFollow(State::admitting, State::applying));
    EXPECT_TRUE(mayFollow(State::applying, State::applying));
    EXPECT_TRUE(mayFollow(State::applying, State::running));
    EXPECT_TRUE(mayFollow(State::applying, State::trapped));
    EXPECT_FALSE(mayFollow(State::running, State::exporting));
    for (State from : allStates)
    {
        EXPECT_TRUE(mayFollow(from, State::held)) << toString(from);
    }
}

TEST_F(StoreTest, AVmStartsRunning)
{
    Store store = open();
    VmRecord vm = store.ensureVm(anna, "anna");
    EXPECT_EQ(vm.state, State::running);
    EXPECT_EQ(vm.generation, 0U);
    EXPECT_EQ(vm.since, at(1000));
    EXPECT_EQ(store.vm(bert), std::nullopt);
}

TEST_F(StoreTest, KeepsAllOfATransitionOverARestart)
{
    {
        Store store = open();
        store.ensureVm(anna, "anna");
        time = 2000;
        Change change;
        change.generation = 3;
        change.nonce = "c0ffee";
        change.attempts = 1;
        change.reason = "cold start";
        store.transition(anna, State::running, State::trapped, change);
        time = 2005;
        change = {};
        change.jobId = "j1";
        change.bootServer = "boot1";
        change.marks = {"disk/0"};
        change.openJob = job("j1");
        store.transition(anna, State::trapped, State::exporting, change);
    }
    Store store = open();
    VmRecord vm = store.vm(anna).value();
    EXPECT_EQ(vm.name, "anna");
    EXPECT_EQ(vm.state, State::exporting);
    EXPECT_EQ(vm.generation, 3U);
    EXPECT_EQ(vm.jobId, "j1");
    EXPECT_EQ(vm.bootServer, "boot1");
    EXPECT_EQ(vm.attempts, 1U);
    EXPECT_EQ(vm.since, at(2005));
    EXPECT_EQ(vm.reason, "cold start");
    EXPECT_EQ(vm.nonce, "c0ffee");
    EXPECT_THAT(vm.marks, ElementsAre(Pair("disk/0", at(2005))));
    EXPECT_EQ(store.job("j1").value().started, at(2005));
}

TEST_F(StoreTest, RefusesATransitionFromAnotherState)
{
    Store store = open();
    store.ensureVm(anna, "anna");
    Change change;
    change.reason = "must not stay";
    change.openJob = job("j1");
    try
    {
        store.transition(anna, State::exporting, State::booting, change);
        FAIL() << "went from exporting though it was running";
    }
    catch (const StateConflict& e)
    {
        EXPECT_EQ(e.actual(), State::running);
        EXPECT_THAT(e.what(), HasSubstr("anna is running, not exporting"));
    }
    EXPECT_EQ(store.vm(anna).value().reason, "");
    EXPECT_EQ(store.job("j1").has_value(), false);
    EXPECT_THROW(store.transition(bert, State::running, State::trapped), Error);
}

TEST_F(StoreTest, RefusesAForbiddenTransition)
{
    Store store = open();
    store.ensureVm(anna, "anna");
    EXPECT_THAT(
        [&] { store.transition(anna, State::running, State::applying); },
        ThrowsMessage<Error>(
            HasSubstr("anna may not go from running to applying")));
    EXPECT_EQ(store.vm(anna).value().state, State::running);
}

TEST_F(StoreTest, NothingButItsCompletionFollowsAHalfAppliedDelta)
{
    Store store = open();
    store.ensureVm(anna, "anna");
    for (State state : {State::trapped, State::admitting, State::applying})
    {
        store.transition(anna, store.vm(anna)->state, state);
    }
    EXPECT_TRUE(deltaPending(*store.vm(anna)));
    store.transition(anna, State::applying, State::held,
                     {.marks = {incompleteDeltaMark}});
    EXPECT_TRUE(deltaPending(*store.vm(anna)));
    for (State state : {State::trapped, State::running, State::retrying})
    {
        EXPECT_THROW(
            store.transition(anna, State::held, state, {.clearMarks = true}),
            Error)
            << toString(state);
    }
    store.transition(anna, State::held, State::applying);
    store.transition(anna, State::applying, State::trapped,
                     {.clearMarks = true});
    EXPECT_FALSE(deltaPending(*store.vm(anna)));
}

TEST_F(StoreTest, ATransitionIsUndoneWhenItsJobCannotBeWritten)
{
    Store store = open();
    store.ensureVm(anna, "anna");
    store.ensureVm(bert, "bert");
    Change change;
    change.openJob = job("j1");
    store.transition(anna, State::running, State::trapped, change);
    change.openJob = job("j1", bert);
    change.reason = "must not stay";
    EXPECT_THROW(store.transition(bert, State::running, State::trapped, change),
                 Error);
    EXPECT_EQ(store.vm(bert).value().state, State::running);
    EXPECT_EQ(store.vm(bert).value().reason, "");
    change = {};
    change.closeJob = JobEnd{"no such job", "done", {}};
    EXPECT_THROW(
        store.transition(anna, State::trapped, State::exporting, change),
        Error);
    EXPECT_EQ(store.vm(anna).value().state, State::trapped);
}

TEST_F(StoreTest, StayingInAStateKeepsItsTime)
{
    Store store = open();
    store.ensureVm(anna, "anna");
    time = 4000;
    Change change;
    change.reason = "seen";
    VmRecord vm =
        store.transition(anna, State::running, State::running, change);
    EXPECT_EQ(vm.since, at(1000));
    EXPECT_EQ(vm.reason, "seen");
}

TEST_F(StoreTest, MarksBelongToAGenerationAndAState)
{
    Store store = open();
    store.ensureVm(anna, "anna");
    Change change;
    change.generation = 1;
    store.transition(anna, State::running, State::trapped, change);
    store.mark(anna, State::trapped, "disk/0");
    time = 1500;
    store.mark(anna, State::trapped, "disk/0");
    store.mark(anna, State::trapped, "disk/1");
    EXPECT_THAT(
        store.vm(anna).value().marks,
        ElementsAre(Pair("disk/0", at(1000)), Pair("disk/1", at(1500))));
    EXPECT_THROW(store.mark(anna, State::booting, "x"), StateConflict);
    store.transition(anna, State::trapped, State::trapped, change);
    EXPECT_THAT(store.vm(anna).value().marks,
                ElementsAre(Key("disk/0"), Key("disk/1")));
    change.generation = 2;
    change.marks = {"new"};
    store.transition(anna, State::trapped, State::trapped, change);
    EXPECT_THAT(store.vm(anna).value().marks, ElementsAre(Key("new")));
    change = {};
    change.clearMarks = true;
    store.transition(anna, State::trapped, State::trapped, change);
    EXPECT_THAT(store.vm(anna).value().marks, IsEmpty());
}

TEST_F(StoreTest, ForgetsAVmButNotItsJobs)
{
    Store store = open();
    store.ensureVm(anna, "anna");
    Change change;
    change.openJob = job("j1");
    change.marks = {"x"};
    store.transition(anna, State::running, State::trapped, change);
    EXPECT_TRUE(store.forgetVm(anna));
    EXPECT_FALSE(store.forgetVm(anna));
    EXPECT_THAT(store.vms(), IsEmpty());
    EXPECT_TRUE(store.job("j1").has_value());
    EXPECT_THAT(store.ensureVm(anna, "anna").marks, IsEmpty());
}

TEST_F(StoreTest, RenamesAVmThatItKnows)
{
    Store store = open();
    store.ensureVm(anna, "zoe");
    store.ensureVm(bert, "bert");
    store.transition(anna, State::running, State::held);
    EXPECT_EQ(store.ensureVm(anna, "anna").state, State::held);
    std::vector<VmRecord> vms = store.vms();
    ASSERT_EQ(vms.size(), 2U);
    EXPECT_EQ(vms[0].name, "anna");
    EXPECT_THAT(
        store.countByState(),
        UnorderedElementsAre(Pair(State::running, 1), Pair(State::held, 1)));
}

TEST_F(StoreTest, JobHistoryCanBeQueried)
{
    Store store = open();
    store.ensureVm(anna, "anna");
    store.ensureVm(bert, "bert");
    Change change;
    change.openJob = job("j1");
    store.transition(anna, State::running, State::trapped, change);
    time = 1100;
    change.openJob = job("j2", bert);
    change.openJob->tenant = "blue";
    store.transition(bert, State::running, State::trapped, change);
    time = 1200;
    change = {};
    change.closeJob = JobEnd{"j1",
                             "failed: time-out",
                             {{"exporting", 1.5}, {"booting", 90}},
                             {{"memory-bytes", 1ULL << 40}}};
    change.openJob = job("j3");
    change.openJob->server = "boot2";
    store.transition(anna, State::trapped, State::retrying, change);

    auto ids = [&](const JobQuery& query) {
        std::vector<std::string> out;
        for (const JobRecord& record : store.jobs(query))
        {
            out.push_back(record.id);
        }
        return out;
    };
    JobQuery query;
    EXPECT_THAT(ids(query), ElementsAre("j3", "j2", "j1"));
    query.limit = 2;
    EXPECT_THAT(ids(query), ElementsAre("j3", "j2"));
    query = {};
    query.uuid = anna;
    EXPECT_THAT(ids(query), ElementsAre("j3", "j1"));
    query.result = "failed";
    EXPECT_THAT(ids(query), ElementsAre("j1"));
    query.result = "failed:";
    EXPECT_THAT(ids(query), ElementsAre("j1"));
    query.result = "fail";
    EXPECT_THAT(ids(query), IsEmpty());
    query = {};
    query.tenant = "blue";
    EXPECT_THAT(ids(query), ElementsAre("j2"));
    query = {};
    query.server = "boot2";
    query.name = "anna";
    EXPECT_THAT(ids(query), ElementsAre("j3"));
    query = {};
    query.openOnly = true;
    query.startedSince = at(1100);
    EXPECT_THAT(ids(query), ElementsAre("j3", "j2"));

    JobRecord closed = store.job("j1").value();
    EXPECT_EQ(closed.started, at(1000));
    EXPECT_EQ(closed.ended, at(1200));
    EXPECT_EQ(closed.seconds.at("booting"), 90);
    EXPECT_EQ(closed.figures.at("memory-bytes"), 1ULL << 40);
    EXPECT_TRUE(store.job("j2").value().figures.empty());
    EXPECT_EQ(store.pruneJobs(at(1200)), 0U);
    EXPECT_EQ(store.pruneJobs(at(1201)), 1U);
    EXPECT_THAT(ids({}), ElementsAre("j3", "j2"));
}

TEST_F(StoreTest, TextsFromOutsideAreOnlyTexts)
{
    Store store = open();
    std::string name = "x'; DROP TABLE vms; --";
    store.ensureVm(anna, name);
    EXPECT_EQ(store.vm(anna).value().name, name);
    JobQuery query;
    query.tenant = "' OR 1=1 --";
    EXPECT_THAT(store.jobs(query), IsEmpty());
}

TEST_F(StoreTest, WhatIsCommittedSurvivesACrash)
{
    inDyingChild([&] {
        auto* store = new Store(open());
        store->ensureVm(anna, "anna");
        Change change;
        change.generation = 1;
        change.openJob = job("j1");
        store->transition(anna, State::running, State::trapped, change);
        store->mark(anna, State::trapped, "disk/0");
    });
    {
        Store store = open();
        VmRecord vm = store.vm(anna).value();
        EXPECT_EQ(vm.state, State::trapped);
        EXPECT_THAT(vm.marks, ElementsAre(Key("disk/0")));
        EXPECT_TRUE(store.job("j1").has_value());
    }
    // And again, with the log of the one before to be recovered.
    inDyingChild([&] {
        auto* store = new Store(open());
        store->transition(anna, State::trapped, State::exporting);
    });
    EXPECT_EQ(open().vm(anna).value().state, State::exporting);
}

TEST_F(StoreTest, ACrashInsideATransactionChangesNothing)
{
    {
        Store store = open();
        store.ensureVm(anna, "anna");
    }
    inDyingChild([&] {
        auto* raw = new SQLite::Database(file.string(), SQLite::OPEN_READWRITE);
        raw->exec("BEGIN IMMEDIATE");
        raw->exec("UPDATE vms SET state = 'booting'");
        raw->exec("INSERT INTO marks VALUES ('" + std::string(anna) +
                  "', 'x', 1)");
    });
    VmRecord vm = open().vm(anna).value();
    EXPECT_EQ(vm.state, State::running);
    EXPECT_THAT(vm.marks, IsEmpty());
}

TEST_F(StoreTest, KilledWhileItWritesItHasWholeTransitionsOnly)
{
    {
        Store store = open();
        store.ensureVm(anna, "anna");
        store.transition(anna, State::running, State::trapped);
    }
    for (int round = 1; round <= 5; round++)
    {
        pid_t child = ::fork();
        ASSERT_GE(child, 0);
        if (child == 0)
        {
            Store store = open();
            for (std::uint64_t i = store.vm(anna).value().generation + 1;; i++)
            {
                Change change;
                change.generation = i;
                change.attempts = static_cast<unsigned>(i);
                change.nonce = std::to_string(i);
                change.marks = {std::to_string(i)};
                store.transition(anna, State::trapped, State::trapped, change);
            }
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(40 * round));
        ::kill(child, SIGKILL);
        ASSERT_EQ(::waitpid(child, nullptr, 0), child);
        VmRecord vm = open().vm(anna).value();
        std::string expected = std::to_string(vm.generation);
        EXPECT_EQ(vm.attempts, vm.generation);
        if (vm.generation > 0)
        {
            EXPECT_EQ(vm.nonce, expected);
            EXPECT_THAT(vm.marks, ElementsAre(Key(expected)));
        }
    }
    EXPECT_GT(open().vm(anna).value().generation, 0U);
}

TEST_F(StoreTest, OneProcessAtATime)
{
    Store store = open();
    store.ensureVm(anna, "anna");
    EXPECT_THAT([&] { open(); },
                ThrowsMessage<Error>(HasSubstr("another airlock-hostd")));
    inDyingChild([&] {
        try
        {
            open();
        }
        catch (const Error&)
        {
            ::_exit(7);
        }
        ::_exit(1);
    });
    EXPECT_EQ(store.vm(anna).value().name, "anna");
}

TEST_F(StoreTest, OnlyTheOwnerMayReadIt)
{
    Store store = open();
    store.ensureVm(anna, "anna");
    for (const auto& entry :
         std::filesystem::directory_iterator(directory.path()))
    {
        struct stat info = {};
        ASSERT_EQ(::stat(entry.path().c_str(), &info), 0);
        EXPECT_EQ(info.st_mode & 0777, 0600U) << entry.path();
    }
}

TEST_F(StoreTest, RefusesWhatIsNotItsOwn)
{
    {
        SQLite::Database raw(file.string(),
                             SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
        raw.exec("CREATE TABLE recipes (name TEXT)");
    }
    EXPECT_THAT([&] { open(); },
                ThrowsMessage<Refused>(HasSubstr("another program")));
    std::filesystem::remove(file);
    writeFileAtomic(file, std::string_view("this is no database, not at all"));
    EXPECT_THAT([&] { open(); }, ThrowsMessage<Error>(HasSubstr("put back")));
}

TEST_F(StoreTest, RefusesANewerSchema)
{
    open();
    {
        SQLite::Database raw(file.string(), SQLite::OPEN_READWRITE);
        raw.exec("PRAGMA user_version = 99");
    }
    EXPECT_THAT([&] { open(); },
                ThrowsMessage<Refused>(HasSubstr("schema version 99")));
}

TEST_F(StoreTest, MigratesStepByStep)
{
    std::vector<std::string_view> steps(storeMigrations().begin(),
                                        storeMigrations().end());
    {
        Store store = open();
        store.ensureVm(anna, "anna");
    }
    SQLite::Database raw(file.string(), SQLite::OPEN_READWRITE);
    steps.push_back("ALTER TABLE vms ADD COLUMN colour TEXT DEFAULT 'red'");
    migrate(raw, steps);
    EXPECT_EQ(raw.execAndGet("SELECT colour FROM vms").getString(), "red");
    steps.push_back("ALTER TABLE vms DROP COLUMN colour; nonsense");
    EXPECT_THROW(migrate(raw, steps), SQLite::Exception);
    EXPECT_EQ(raw.execAndGet("SELECT colour FROM vms").getString(), "red");
    EXPECT_EQ(raw.execAndGet("PRAGMA user_version").getInt(),
              static_cast<int>(storeMigrations().size() + 1));
}

TEST_F(StoreTest, AHistoryOfVersionOneIsFilteredToo)
{
    {
        SQLite::Database raw(file.string(),
                             SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE);
        migrate(raw, storeMigrations().first(1));
        raw.exec("INSERT INTO jobs (id, uuid, name, tenant, generation, "
                 "server, started, ended, result) VALUES "
                 "('j1', 'u', 'anna', 'green', 1, 'boot1', 1, 2, "
                 "'failed: the guest did not come up')");
    }
    Store store = open();
    JobQuery query;
    query.result = "failed";
    ASSERT_EQ(store.jobs(query).size(), 1U);
    EXPECT_EQ(store.jobs(query)[0].result, "failed: the guest did not come up");
    query.result = "done";
    EXPECT_THAT(store.jobs(query), IsEmpty());
}

/** Each filter of the history is answered by an index. */
TEST_F(StoreTest, QueriesOfTheHistoryUseIndices)
{
    open();
    SQLite::Database raw(file.string(), SQLite::OPEN_READWRITE);
    for (const char* column : {"uuid", "name", "tenant", "server", "outcome"})
    {
        SQLite::Statement plan(
            raw, std::string("EXPLAIN QUERY PLAN SELECT id FROM jobs WHERE ") +
                     column + " = ? AND started >= ? ORDER BY started DESC");
        ASSERT_TRUE(plan.executeStep());
        EXPECT_THAT(plan.getColumn(3).getString(),
                    HasSubstr("USING INDEX jobs_by_"))
            << column;
    }
}

TEST_F(StoreTest, TriesToWriteWithoutChangingAnything)
{
    Store store = open();
    store.ensureVm(anna, "anna");
    EXPECT_NO_THROW(store.tryWrite());
    EXPECT_EQ(store.vms().size(), 1U);
    // The file may not grow any more: neither can a change be noted.
    struct rlimit old = {};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
    struct rlimit none = old;
    none.rlim_cur = 0;
    auto handler = std::signal(SIGXFSZ, SIG_IGN);
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &none), 0);
    EXPECT_THROW(store.tryWrite(), Error);
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
    std::signal(SIGXFSZ, handler);
    EXPECT_NO_THROW(store.tryWrite());
}

TEST_F(StoreTest, ADamagedStateIsAnError)
{
    {
        Store store = open();
        store.ensureVm(anna, "anna");
    }
    {
        SQLite::Database raw(file.string(), SQLite::OPEN_READWRITE);
        raw.exec("UPDATE vms SET state = 'lost'");
    }
    Store store = open();
    EXPECT_THROW(store.vms(), Refused);
}

TEST_F(StoreTest, ManyThreadsShareIt)
{
    Store store = open();
    constexpr int threads = 4;
    constexpr int rounds = 10;
    store.ensureVm(anna, "anna");
    store.transition(anna, State::running, State::trapped);
    std::vector<std::thread> workers;
    for (int t = 0; t < threads; t++)
    {
        workers.emplace_back([&store, t] {
            for (int i = 0; i < rounds; i++)
            {
                store.mark(anna, State::trapped,
                           std::to_string(t) + "/" + std::to_string(i));
            }
        });
    }
    for (std::thread& worker : workers)
    {
        worker.join();
    }
    EXPECT_EQ(store.vm(anna).value().marks.size(), threads * rounds);
}

} // namespace
} // namespace airlock::host
