#pragma once

#include <span>
#include <string_view>

namespace SQLite
{
class Database;
}

namespace airlock::host
{

/** SQL that leads from each version of the schema to the next one: step 0
 * makes version 1 out of an empty file. Steps are only ever appended. */
std::span<const std::string_view> storeMigrations();

/** Runs the steps that the database has not seen yet, each in a transaction
 * of its own together with its version number (PRAGMA user_version).
 *
 * Throws Refused when the file belongs to another program
 * (PRAGMA application_id) or has a version that is not among the steps.
 */
void migrate(SQLite::Database& database,
             std::span<const std::string_view> steps);

} // namespace airlock::host
