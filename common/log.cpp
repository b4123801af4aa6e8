#include "common/log.hpp"

#include "common/json.hpp"

#include <sys/stat.h>
#include <sys/uio.h>
#include <systemd/sd-journal.h>

#include <atomic>
#include <cstdlib>
#include <mutex>

namespace airlock::log
{

namespace
{

constexpr std::size_t maxValue = 1024;

std::atomic<Level> lowest = Level::info;

/** Whether stderr is the very stream that systemd connected to the journal. */
bool connectedToJournal()
{
    const char* stream = std::getenv("JOURNAL_STREAM");
    struct stat info = {};
    if (stream == nullptr || ::fstat(STDERR_FILENO, &info) != 0)
    {
        return false;
    }
    return std::to_string(info.st_dev) + ":" + std::to_string(info.st_ino) ==
           stream;
}

const char* nameOf(Level level)
{
    switch (level)
    {
    case Level::error:
        return "error";
    case Level::warning:
        return "warning";
    case Level::notice:
        return "notice";
    case Level::info:
        return "info";
    case Level::debug:
        return "debug";
    }
    return "info";
}

/** In quotes unless it is one word. */
std::string shellValue(const std::string& value)
{
    std::string text = plainText(value, maxValue);
    bool word =
        !text.empty() && text.find_first_of(" \"'=\\") == std::string::npos;
    if (word)
    {
        return text;
    }
    std::string out = "\"";
    for (char c : text)
    {
        out += c == '"' ? '\'' : c;
    }
    return out + "\"";
}

constexpr std::string_view messageId = "MESSAGE_ID";

/** The journal has the fields, too; who just reads it sees the message only. */
std::string lineOf(std::string_view message, const std::vector<Field>& fields,
                   bool withId)
{
    std::string line(message);
    for (const auto& [name, value] : fields)
    {
        if (withId || name != messageId)
        {
            line += " ";
            line += name;
            line += "=" + shellValue(value);
        }
    }
    return line;
}

void writeText(Level level, std::string_view message,
               const std::vector<Field>& fields)
{
    const std::string line = std::string(nameOf(level)) + ": " +
                             lineOf(message, fields, true) + "\n";
    static std::mutex mutex;
    std::lock_guard lock(mutex);
    std::fwrite(line.data(), 1, line.size(), stderr);
}

/** Ours are told from those of other programs; MESSAGE_ID is the journal's. */
std::string journalName(std::string_view name)
{
    return name == messageId ? std::string(name)
                             : "AIRLOCK_" + std::string(name);
}

void writeJournal(Level level, std::string_view message,
                  const std::vector<Field>& fields)
{
    std::vector<std::string> texts = {
        "MESSAGE=" + lineOf(message, fields, false),
        "PRIORITY=" + std::to_string(static_cast<int>(level))};
    for (const auto& [name, value] : fields)
    {
        texts.push_back(journalName(name) + "=" + plainText(value, maxValue));
    }
    std::vector<iovec> parts;
    for (std::string& text : texts)
    {
        parts.push_back({text.data(), text.size()});
    }
    ::sd_journal_sendv(parts.data(), static_cast<int>(parts.size()));
}

} // namespace

void setLevel(Level level)
{
    lowest = level;
}

void write(Level level, std::string_view message,
           const std::vector<Field>& fields)
{
    if (level > lowest)
    {
        return;
    }
    static const bool journal = connectedToJournal();
    if (journal)
    {
        writeJournal(level, message, fields);
    }
    else
    {
        writeText(level, message, fields);
    }
}

} // namespace airlock::log
