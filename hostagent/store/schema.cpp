#include "hostagent/store/schema.hpp"

#include "common/error.hpp"

#include <SQLiteCpp/SQLiteCpp.h>
#include <fmt/format.h>

namespace airlock::host
{

namespace
{

/** "ALhs": tells our file from any other SQLite database. */
constexpr int applicationId = 0x414c6873;

constexpr std::string_view version1 = R"sql(
CREATE TABLE vms (
    uuid        TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    state       TEXT NOT NULL,
    generation  INTEGER NOT NULL DEFAULT 0,
    job_id      TEXT NOT NULL DEFAULT '',
    boot_server TEXT NOT NULL DEFAULT '',
    attempts    INTEGER NOT NULL DEFAULT 0,
    since       INTEGER NOT NULL,
    reason      TEXT NOT NULL DEFAULT '',
    nonce       TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE marks (
    uuid TEXT NOT NULL REFERENCES vms(uuid) ON DELETE CASCADE,
    step TEXT NOT NULL,
    at   INTEGER NOT NULL,
    PRIMARY KEY (uuid, step)
) STRICT, WITHOUT ROWID;
CREATE TABLE jobs (
    id         TEXT PRIMARY KEY,
    uuid       TEXT NOT NULL,
    name       TEXT NOT NULL,
    tenant     TEXT NOT NULL,
    generation INTEGER NOT NULL,
    server     TEXT NOT NULL,
    started    INTEGER NOT NULL,
    ended      INTEGER,
    result     TEXT NOT NULL DEFAULT '',
    seconds    TEXT NOT NULL DEFAULT '{}'
) STRICT;
CREATE INDEX jobs_by_vm ON jobs (uuid, started);
CREATE INDEX jobs_by_start ON jobs (started);
)sql";

/** How a job ended is the first word of its result, "failed" of "failed: the
 * guest…". Each filter of the history has an index. */
constexpr std::string_view version2 = R"sql(
ALTER TABLE jobs ADD COLUMN outcome TEXT GENERATED ALWAYS AS (
    rtrim(substr(result, 1, instr(result || ' ', ' ') - 1), ':')) VIRTUAL;
CREATE INDEX jobs_by_name ON jobs (name, started);
CREATE INDEX jobs_by_tenant ON jobs (tenant, started);
CREATE INDEX jobs_by_server ON jobs (server, started);
CREATE INDEX jobs_by_outcome ON jobs (outcome, started);
CREATE INDEX jobs_by_end ON jobs (ended);
)sql";

constexpr std::string_view version3 = R"sql(
ALTER TABLE jobs ADD COLUMN figures TEXT NOT NULL DEFAULT '{}';
)sql";

constexpr std::string_view steps_[] = {version1, version2, version3};

int pragma(SQLite::Database& database, const char* name)
{
    return database.execAndGet(fmt::format("PRAGMA {}", name)).getInt();
}

} // namespace

std::span<const std::string_view> storeMigrations()
{
    return steps_;
}

void migrate(SQLite::Database& database,
             std::span<const std::string_view> steps)
{
    const std::string& file = database.getFilename();
    int owner = pragma(database, "application_id");
    int version = pragma(database, "user_version");
    bool fresh =
        owner == 0 && version == 0 && pragma(database, "schema_version") == 0;
    if (!fresh && owner != applicationId)
    {
        throw Refused(file, "is a database of another program");
    }
    if (version < 0 || static_cast<std::size_t>(version) > steps.size())
    {
        throw Refused(file, fmt::format("has schema version {}, this program "
                                        "knows up to {}: install the version "
                                        "that wrote it",
                                        version, steps.size()));
    }
    for (auto i = static_cast<std::size_t>(version); i < steps.size(); i++)
    {
        SQLite::Transaction transaction(database);
        database.exec(std::string(steps[i]));
        database.exec(fmt::format("PRAGMA application_id = {}", applicationId));
        database.exec(fmt::format("PRAGMA user_version = {}", i + 1));
        transaction.commit();
    }
}

} // namespace airlock::host
