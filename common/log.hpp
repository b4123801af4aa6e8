#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

/** What daemons tell the operator.
 *
 * A message is a constant sentence; what varies is in fields, so that both can
 * be searched for. Under systemd (stderr is a stream of the journal, see
 * JOURNAL_STREAM in systemd.exec(5)) entries go to the journal with their
 * fields, as AIRLOCK_NAME but for MESSAGE_ID; elsewhere they are lines on
 * stderr:
 *
 *     warning: a boot failed JOB=3f… DOMAIN=web1 REASON="the guest …"
 *
 * Values may come from outside: they are bounded, and printed as printable
 * ASCII. Safe to call from several threads. Libraries do not log; daemons do.
 */
namespace airlock::log
{

enum class Level : int
{
    error = 3,
    warning = 4,
    notice = 5,
    info = 6,
    debug = 7,
};

/** Names are [A-Z0-9_] and do not begin with '_'. */
using Field = std::pair<std::string_view, std::string>;

/** Entries below this level are left out; info unless it was set. */
void setLevel(Level level);

void write(Level level, std::string_view message,
           const std::vector<Field>& fields);

inline void error(std::string_view message,
                  const std::vector<Field>& fields = {})
{
    write(Level::error, message, fields);
}
inline void warning(std::string_view message,
                    const std::vector<Field>& fields = {})
{
    write(Level::warning, message, fields);
}
inline void notice(std::string_view message,
                   const std::vector<Field>& fields = {})
{
    write(Level::notice, message, fields);
}
inline void info(std::string_view message,
                 const std::vector<Field>& fields = {})
{
    write(Level::info, message, fields);
}
inline void debug(std::string_view message,
                  const std::vector<Field>& fields = {})
{
    write(Level::debug, message, fields);
}

} // namespace airlock::log
