#include "hostagent/store/store.hpp"

#include "common/file.hpp"
#include "common/json.hpp"
#include "hostagent/store/schema.hpp"

#include <SQLiteCpp/SQLiteCpp.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sqlite3.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <utility>

namespace airlock::host
{

namespace
{

constexpr std::array<std::pair<State, std::string_view>, 9> names = {{
    {State::running, "running"},
    {State::trapped, "trapped"},
    {State::exporting, "exporting"},
    {State::booting, "booting"},
    {State::returning, "returning"},
    {State::applying, "applying"},
    {State::admitting, "admitting"},
    {State::retrying, "retrying"},
    {State::held, "held"},
}};

constexpr std::size_t maxJobs = 10000;
/** How long the daemon before us may take to let go of the file. */
constexpr int busyMilliseconds = 2000;

std::int64_t toInteger(Timestamp time)
{
    return time.time_since_epoch().count();
}

Timestamp toTime(std::int64_t milliseconds)
{
    return Timestamp(std::chrono::milliseconds(milliseconds));
}

Timestamp systemTime()
{
    return std::chrono::time_point_cast<std::chrono::milliseconds>(
        std::chrono::system_clock::now());
}

std::string secondsToText(const std::map<std::string, double>& seconds)
{
    return dumpJson(Json(seconds));
}

std::map<std::string, double> secondsFromText(const std::string& text)
{
    Json json = parseJson(text, "jobs.seconds");
    std::map<std::string, double> out;
    for (const auto& [stage, value] : json.items())
    {
        out[stage] = JsonField(value, "jobs.seconds").number();
    }
    return out;
}

std::string figuresToText(const Figures& figures)
{
    return dumpJson(Json(figures));
}

Figures figuresFromText(const std::string& text)
{
    Json json = parseJson(text, "jobs.figures");
    Figures out;
    for (const auto& [name, value] : json.items())
    {
        out[name] = JsonField(value, "jobs.figures").u64();
    }
    return out;
}

constexpr const char* vmColumns =
    "uuid, name, state, generation, job_id, boot_server, attempts, since, "
    "reason, nonce";

VmRecord readVm(SQLite::Statement& row)
{
    VmRecord vm;
    vm.uuid = row.getColumn(0).getString();
    vm.name = row.getColumn(1).getString();
    vm.state = parseState(row.getColumn(2).getString());
    vm.generation = static_cast<std::uint64_t>(row.getColumn(3).getInt64());
    vm.jobId = row.getColumn(4).getString();
    vm.bootServer = row.getColumn(5).getString();
    vm.attempts = row.getColumn(6).getUInt();
    vm.since = toTime(row.getColumn(7).getInt64());
    vm.reason = row.getColumn(8).getString();
    vm.nonce = row.getColumn(9).getString();
    return vm;
}

constexpr const char* jobColumns =
    "id, uuid, name, tenant, generation, server, started, ended, result, "
    "seconds, figures";

JobRecord readJob(SQLite::Statement& row)
{
    JobRecord job;
    job.id = row.getColumn(0).getString();
    job.uuid = row.getColumn(1).getString();
    job.name = row.getColumn(2).getString();
    job.tenant = row.getColumn(3).getString();
    job.generation = static_cast<std::uint64_t>(row.getColumn(4).getInt64());
    job.server = row.getColumn(5).getString();
    job.started = toTime(row.getColumn(6).getInt64());
    if (!row.getColumn(7).isNull())
    {
        job.ended = toTime(row.getColumn(7).getInt64());
    }
    job.result = row.getColumn(8).getString();
    job.seconds = secondsFromText(row.getColumn(9).getString());
    job.figures = figuresFromText(row.getColumn(10).getString());
    return job;
}

/** The WHERE clause of a query; parameters in the order of `values`. */
struct Filter
{
    std::string where = " WHERE 1";
    std::vector<std::string> texts;
    std::vector<std::int64_t> numbers;

    void text(const char* condition, const std::optional<std::string>& value)
    {
        if (value)
        {
            where += fmt::format(" AND {}", condition);
            texts.push_back(*value);
        }
    }
};

Filter filterOf(const JobQuery& query)
{
    Filter filter;
    filter.text("uuid = ?", query.uuid);
    filter.text("name = ?", query.name);
    filter.text("tenant = ?", query.tenant);
    filter.text("server = ?", query.server);
    filter.text("outcome = rtrim(?, ':')", query.result);
    if (query.openOnly)
    {
        filter.where += " AND ended IS NULL";
    }
    if (query.startedSince)
    {
        filter.where += " AND started >= ?";
        filter.numbers.push_back(toInteger(*query.startedSince));
    }
    return filter;
}

std::string advice(int code)
{
    switch (code)
    {
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return "; is another airlock-hostd running?";
    case SQLITE_FULL:
        return "; make room in the file system";
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return "; put back a copy, or move it away to start without "
               "history";
    default:
        return "";
    }
}

} // namespace

std::string_view toString(State state)
{
    for (const auto& [value, name] : names)
    {
        if (value == state)
        {
            return name;
        }
    }
    throw Error("no state of a VM has number " +
                std::to_string(static_cast<int>(state)));
}

State parseState(std::string_view word)
{
    for (const auto& [value, name] : names)
    {
        if (name == word)
        {
            return value;
        }
    }
    throw Refused("state", printable(word) + " is no state of a VM");
}

bool mayFollow(State from, State to)
{
    if (from == to || to == State::held)
    {
        return true;
    }
    if (from == State::applying)
    {
        return to == State::running || to == State::trapped;
    }
    if (to == State::applying)
    {
        return from == State::admitting || from == State::held;
    }
    return from != State::running || to == State::trapped;
}

bool deltaPending(const VmRecord& vm)
{
    return vm.state == State::applying ||
           vm.marks.contains(incompleteDeltaMark);
}

class Store::Impl
{
  public:
    /** Runs an action under the lock; errors of SQLite become ours. */
    template <typename Action>
    auto guarded(Action&& action)
    {
        std::lock_guard lock(mutex_);
        try
        {
            return action();
        }
        catch (const SQLite::Exception& e)
        {
            throw Error("the host agent's database " + file_.string() +
                        " failed: " + e.what() + advice(e.getErrorCode()));
        }
    }

    Impl(const std::filesystem::path& file, Clock clock)
        : file_(file), clock_(clock ? std::move(clock) : systemTime)
    {
        // Made here for its mode, which SQLite's log takes over. Never opened
        // when it exists: closing it would drop the locks of this process.
        if (!std::filesystem::exists(file))
        {
            openFile(file, O_RDWR | O_CREAT | O_EXCL, 0600);
        }
        guarded([&] { open(); });
    }

    std::optional<VmRecord> vm(const std::string& uuid)
    {
        SQLite::Statement query(
            *database_,
            fmt::format("SELECT {} FROM vms WHERE uuid = ?", vmColumns));
        query.bind(1, uuid);
        if (!query.executeStep())
        {
            return std::nullopt;
        }
        VmRecord record = readVm(query);
        record.marks = marks(uuid);
        return record;
    }

    std::vector<VmRecord> vms()
    {
        SQLite::Statement query(
            *database_,
            fmt::format("SELECT {} FROM vms ORDER BY name, uuid", vmColumns));
        std::vector<VmRecord> out;
        while (query.executeStep())
        {
            out.push_back(readVm(query));
            out.back().marks = marks(out.back().uuid);
        }
        return out;
    }

    VmRecord ensure(const std::string& uuid, const std::string& name)
    {
        run("INSERT INTO vms (uuid, name, state, since) "
            "VALUES (?, ?, 'running', ?) "
            "ON CONFLICT (uuid) DO UPDATE SET name = excluded.name",
            uuid, name, now());
        return *vm(uuid);
    }

    VmRecord transition(const std::string& uuid, State from, State to,
                        const Change& change)
    {
        SQLite::Transaction transaction(*database_,
                                        SQLite::TransactionBehavior::IMMEDIATE);
        VmRecord record = expect(uuid, from);
        bool kept = to == State::held || to == State::applying;
        bool pending = from == State::held && deltaPending(record);
        if (!mayFollow(from, to) || (pending && !kept))
        {
            throw Error(fmt::format("{} may not go from {} to {}", record.name,
                                    toString(from), toString(to)));
        }
        bool clear =
            change.clearMarks ||
            (change.generation && *change.generation != record.generation);
        merge(record, change);
        record.state = to;
        record.since = from == to ? record.since : clock_();
        write(record);
        writeMarks(uuid, clear, change.marks);
        if (change.discardDelta)
        {
            run("DELETE FROM marks WHERE uuid = ? AND step = ?", uuid,
                incompleteDeltaMark);
        }
        writeJobs(change);
        VmRecord out = *vm(uuid);
        transaction.commit();
        return out;
    }

    void mark(const std::string& uuid, State state, const std::string& step)
    {
        SQLite::Transaction transaction(*database_,
                                        SQLite::TransactionBehavior::IMMEDIATE);
        expect(uuid, state);
        writeMarks(uuid, false, {step});
        transaction.commit();
    }

    std::vector<JobRecord> jobs(const JobQuery& query)
    {
        Filter filter = filterOf(query);
        SQLite::Statement rows(
            *database_,
            fmt::format("SELECT {} FROM jobs{} ORDER BY started DESC, "
                        "rowid DESC LIMIT {}",
                        jobColumns, filter.where,
                        std::min(query.limit, maxJobs)));
        int index = 0;
        for (const std::string& text : filter.texts)
        {
            rows.bind(++index, text);
        }
        for (std::int64_t number : filter.numbers)
        {
            rows.bind(++index, number);
        }
        std::vector<JobRecord> out;
        while (rows.executeStep())
        {
            out.push_back(readJob(rows));
        }
        return out;
    }

    std::optional<JobRecord> job(const std::string& id)
    {
        SQLite::Statement query(
            *database_,
            fmt::format("SELECT {} FROM jobs WHERE id = ?", jobColumns));
        query.bind(1, id);
        if (!query.executeStep())
        {
            return std::nullopt;
        }
        return readJob(query);
    }

    std::map<State, std::size_t> countByState()
    {
        SQLite::Statement query(
            *database_, "SELECT state, count(*) FROM vms GROUP BY state");
        std::map<State, std::size_t> out;
        while (query.executeStep())
        {
            out[parseState(query.getColumn(0).getString())] =
                static_cast<std::size_t>(query.getColumn(1).getInt64());
        }
        return out;
    }

    /** Runs one statement with its parameters; rows that it changed. */
    template <typename... Values>
    int run(const char* sql, const Values&... values)
    {
        SQLite::Statement statement(*database_, sql);
        int index = 0;
        (statement.bind(++index, values), ...);
        return statement.exec();
    }

  private:
    void open()
    {
        database_.emplace(file_.string(), SQLite::OPEN_READWRITE,
                          busyMilliseconds);
        // One host agent at a time: the lock is kept until the process ends.
        database_->exec("PRAGMA locking_mode = EXCLUSIVE");
        database_->exec("PRAGMA foreign_keys = ON");
        database_->exec("PRAGMA synchronous = FULL");
        std::string mode =
            database_->execAndGet("PRAGMA journal_mode = WAL").getString();
        if (mode != "wal")
        {
            throw Error("the file system of " + file_.string() +
                        " has no locks that SQLite's log needs; choose "
                        "another state directory");
        }
        migrate(*database_, storeMigrations());
        database_->exec("BEGIN IMMEDIATE; COMMIT");
    }

  public:
    /** One that changes nothing but has to reach the disk. */
    void tryWrite()
    {
        database_->exec(
            fmt::format("PRAGMA user_version = {}", storeMigrations().size()));
    }

  private:
    std::int64_t now() const { return toInteger(clock_()); }

    std::map<std::string, Timestamp> marks(const std::string& uuid)
    {
        SQLite::Statement query(*database_,
                                "SELECT step, at FROM marks WHERE uuid = ?");
        query.bind(1, uuid);
        std::map<std::string, Timestamp> out;
        while (query.executeStep())
        {
            out[query.getColumn(0).getString()] =
                toTime(query.getColumn(1).getInt64());
        }
        return out;
    }

    VmRecord expect(const std::string& uuid, State state)
    {
        std::optional<VmRecord> record = vm(uuid);
        if (!record)
        {
            throw Error("no VM with UUID " + printable(uuid) + " is known");
        }
        if (record->state != state)
        {
            throw StateConflict(fmt::format("{} is {}, not {}", record->name,
                                            toString(record->state),
                                            toString(state)),
                                record->state);
        }
        return *record;
    }

    static void merge(VmRecord& record, const Change& change)
    {
        record.generation = change.generation.value_or(record.generation);
        record.jobId = change.jobId.value_or(record.jobId);
        record.bootServer = change.bootServer.value_or(record.bootServer);
        record.attempts = change.attempts.value_or(record.attempts);
        record.reason = change.reason.value_or(record.reason);
        record.nonce = change.nonce.value_or(record.nonce);
    }

    void write(const VmRecord& record)
    {
        run("UPDATE vms SET state = ?, generation = ?, job_id = ?, "
            "boot_server = ?, attempts = ?, since = ?, reason = ?, nonce = ? "
            "WHERE uuid = ?",
            std::string(toString(record.state)),
            static_cast<std::int64_t>(record.generation), record.jobId,
            record.bootServer, record.attempts, toInteger(record.since),
            record.reason, record.nonce, record.uuid);
    }

    void writeMarks(const std::string& uuid, bool clear,
                    const std::vector<std::string>& steps)
    {
        if (clear)
        {
            run("DELETE FROM marks WHERE uuid = ?", uuid);
        }
        for (const std::string& step : steps)
        {
            run("INSERT INTO marks (uuid, step, at) VALUES (?, ?, ?) "
                "ON CONFLICT DO NOTHING",
                uuid, step, now());
        }
    }

    void writeJobs(const Change& change)
    {
        if (change.closeJob)
        {
            const JobEnd& end = *change.closeJob;
            int closed =
                run("UPDATE jobs SET ended = ?, result = ?, "
                    "seconds = ?, figures = ? WHERE id = ? AND ended IS NULL",
                    now(), end.result, secondsToText(end.seconds),
                    figuresToText(end.figures), end.id);
            if (closed != 1)
            {
                throw Error("no job " + printable(end.id) + " is open");
            }
        }
        if (change.openJob)
        {
            const JobRecord& job = *change.openJob;
            run("INSERT INTO jobs (id, uuid, name, tenant, generation, "
                "server, started, seconds) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                job.id, job.uuid, job.name, job.tenant,
                static_cast<std::int64_t>(job.generation), job.server, now(),
                secondsToText(job.seconds));
        }
    }

    std::filesystem::path file_;
    Clock clock_;
    std::mutex mutex_;
    std::optional<SQLite::Database> database_;
};

Store::Store(const std::filesystem::path& file, Clock clock)
    : impl_(std::make_unique<Impl>(file, std::move(clock)))
{}

Store::~Store() = default;

VmRecord Store::ensureVm(const std::string& uuid, const std::string& name)
{
    return impl_->guarded([&] { return impl_->ensure(uuid, name); });
}

bool Store::forgetVm(const std::string& uuid)
{
    return impl_->guarded(
        [&] { return impl_->run("DELETE FROM vms WHERE uuid = ?", uuid) > 0; });
}

std::optional<VmRecord> Store::vm(const std::string& uuid) const
{
    return impl_->guarded([&] { return impl_->vm(uuid); });
}

std::vector<VmRecord> Store::vms() const
{
    return impl_->guarded([&] { return impl_->vms(); });
}

std::map<State, std::size_t> Store::countByState() const
{
    return impl_->guarded([&] { return impl_->countByState(); });
}

VmRecord Store::transition(const std::string& uuid, State from, State to,
                           const Change& change)
{
    return impl_->guarded(
        [&] { return impl_->transition(uuid, from, to, change); });
}

void Store::mark(const std::string& uuid, State state, const std::string& step)
{
    impl_->guarded([&] { impl_->mark(uuid, state, step); });
}

std::vector<JobRecord> Store::jobs(const JobQuery& query) const
{
    return impl_->guarded([&] { return impl_->jobs(query); });
}

std::optional<JobRecord> Store::job(const std::string& id) const
{
    return impl_->guarded([&] { return impl_->job(id); });
}

void Store::tryWrite()
{
    impl_->guarded([&] { impl_->tryWrite(); });
}

std::size_t Store::pruneJobs(Timestamp endedBefore)
{
    return impl_->guarded([&] {
        return static_cast<std::size_t>(
            impl_->run("DELETE FROM jobs WHERE ended < ?",
                       endedBefore.time_since_epoch().count()));
    });
}

} // namespace airlock::host
