#include "common/console.hpp"

#include "common/bytes.hpp"
#include "common/file.hpp"
#include "common/json.hpp"
#include "common/sha256.hpp"
#include "common/socket.hpp"

#include <fcntl.h>
#include <regex.h>

#include <algorithm>
#include <array>
#include <memory>

namespace airlock
{

namespace
{

constexpr std::size_t bufferMax = 1U << 20;
constexpr std::size_t readStep = 64U << 10;
constexpr std::size_t quoteMax = 200;
/** Longest line that a terminal in canonical mode takes (N_TTY_BUF_SIZE). */
constexpr std::size_t lineMax = 4095;
constexpr Milliseconds sendTime = std::chrono::seconds(10);

std::string shellQuote(std::string_view text)
{
    std::string out = "'";
    for (char c : text)
    {
        out += c == '\'' ? std::string("'\\''") : std::string(1, c);
    }
    return out + "'";
}

std::string withoutCarriageReturns(std::string text)
{
    text.erase(std::remove(text.begin(), text.end(), '\r'), text.end());
    return text;
}

/** A compiled POSIX regular expression. */
class Regex
{
  public:
    explicit Regex(const std::string& expression)
    {
        if (::regcomp(&compiled_, expression.c_str(),
                      REG_EXTENDED | REG_NEWLINE) != 0)
        {
            throw Error("not a POSIX extended regular expression: " +
                        expression);
        }
    }
    Regex(const Regex&) = delete;
    Regex& operator=(const Regex&) = delete;
    ~Regex() { ::regfree(&compiled_); }

    /** Where the first match ends. */
    std::optional<std::size_t> find(const std::string& text) const
    {
        regmatch_t match = {0, static_cast<regoff_t>(text.size())};
        if (::regexec(&compiled_, text.data(), 1, &match, REG_STARTEND) != 0)
        {
            return std::nullopt;
        }
        return static_cast<std::size_t>(match.rm_eo);
    }

  private:
    regex_t compiled_ = {};
};

/** A word that no output holds by chance. */
std::string newMark(unsigned number)
{
    std::array<std::uint8_t, 6> random{};
    fillRandom(random);
    return toHex(random) + std::to_string(number);
}

} // namespace

Console::Console(UniqueFd socket,
                 const std::optional<std::filesystem::path>& transcript)
    : socket_(std::move(socket))
{
    if (transcript)
    {
        transcript_ = openFile(*transcript, O_WRONLY | O_CREAT | O_APPEND);
    }
}

Console Console::connect(const std::filesystem::path& socket,
                         Milliseconds timeout,
                         const std::optional<std::filesystem::path>& transcript)
{
    return Console(connectUnix(socket, timeout), transcript);
}

void Console::send(std::string_view text)
{
    sendAll(socket_.get(), text, Deadline(sendTime));
}

void Console::sendLine(std::string_view text)
{
    send(std::string(text) + "\n");
}

bool Console::receive(const Deadline& deadline)
{
    std::string fresh;
    if (!receiveSome(socket_.get(), fresh, readStep, deadline))
    {
        return false;
    }
    if (transcript_)
    {
        writeAll(transcript_.get(), asBytes(fresh));
    }
    buffer_ += fresh;
    if (buffer_.size() > bufferMax)
    {
        buffer_.erase(0, buffer_.size() - bufferMax);
    }
    return true;
}

/** `find` gives where in the buffer the match ends, or nothing. */
template <typename Find>
std::string Console::waitUntil(const Find& find, const std::string& what,
                               Milliseconds timeout)
{
    Deadline deadline(timeout);
    for (;;)
    {
        if (std::optional<std::size_t> end = find(buffer_))
        {
            std::string out = buffer_.substr(0, *end);
            buffer_.erase(0, *end);
            return out;
        }
        if (deadline.passed() || !receive(deadline))
        {
            std::size_t from =
                buffer_.size() - std::min(quoteMax, buffer_.size());
            throw TimedOut("the console did not show " + what + " within " +
                           std::to_string(timeout.count()) +
                           " ms; it last showed " +
                           printable(buffer_.substr(from), quoteMax));
        }
    }
}

std::string Console::waitFor(std::string_view text, Milliseconds timeout)
{
    auto find = [text](const std::string& buffer) {
        std::size_t begin = buffer.find(text);
        return begin == std::string::npos
                   ? std::nullopt
                   : std::optional<std::size_t>(begin + text.size());
    };
    return waitUntil(find, printable(text), timeout);
}

std::string Console::waitForRegex(const std::string& expression,
                                  Milliseconds timeout)
{
    Regex regex(expression);
    auto find = [&regex](const std::string& buffer) {
        return regex.find(buffer);
    };
    return waitUntil(find, "a match of " + printable(expression), timeout);
}

Console::CommandResult Console::runCommand(const std::string& command,
                                           Milliseconds timeout)
{
    Deadline deadline(timeout);
    std::string mark = newMark(++commands_);
    // The terminal echoes the line: the marks must not stand in it as such.
    std::string line =
        "printf '%s-%s\\n' begin " + mark + "; eval " + shellQuote(command) +
        " </dev/null; printf '%s-%s-%s;\\n' end " + mark + " \"$?\"";
    if (line.size() > lineMax)
    {
        throw Error("a console command of " + std::to_string(command.size()) +
                    " bytes is too long for a terminal line");
    }
    sendLine(line);
    waitForRegex("begin-" + mark + "\r*\n", timeout);
    std::string endMark = "end-" + mark + "-";
    std::string output = waitFor(endMark, deadline.left());
    output.resize(output.size() - endMark.size());
    std::string status = waitFor(";", deadline.left());
    if (status.find_first_not_of("0123456789") != status.size() - 1 ||
        status.size() > 4)
    {
        throw Refused("console",
                      "a command's exit status is " + printable(status));
    }
    return {std::stoi(status), withoutCarriageReturns(std::move(output))};
}

void Console::drain()
{
    while (receive(Deadline(Milliseconds::zero())))
    {}
}

} // namespace airlock
