#pragma once

#include "common/deadline.hpp"
#include "common/fd.hpp"

#include <filesystem>
#include <optional>
#include <string>

namespace airlock
{

/** Talks to a guest's console in the manner of expect(1): sends lines, waits
 * for texts. Made for the Unix socket of a QEMU chardev or a socket pair.
 *
 * The guest is not trusted: what it says is kept in a bounded buffer (the
 * oldest goes first) and never interpreted. Not shared between threads; move
 * only.
 */
class Console
{
  public:
    /** Takes a connected socket. With a transcript path, all that the guest
     * says is appended to that file. */
    explicit Console(
        UniqueFd socket,
        const std::optional<std::filesystem::path>& transcript = std::nullopt);

    static Console connect(
        const std::filesystem::path& socket,
        Milliseconds timeout = std::chrono::seconds(10),
        const std::optional<std::filesystem::path>& transcript = std::nullopt);

    void send(std::string_view text);
    void sendLine(std::string_view text);

    /** Waits until the guest has said `text`. Returns what it said up to and
     * including it, and forgets that. Throws TimedOut quoting the last words;
     * Error when the connection was closed. */
    std::string waitFor(std::string_view text, Milliseconds timeout);

    /** As waitFor() with a POSIX extended regular expression; '^' and '$'
     * match at line ends. (std::regex would use stack in proportion to what
     * the guest says.) */
    std::string waitForRegex(const std::string& expression,
                             Milliseconds timeout);

    struct CommandResult
    {
        int status = 0;     ///< exit status of the shell command
        std::string output; ///< stdout and stderr, lines end in "\n"
    };

    /** Runs a command in the POSIX shell that is logged in at this console.
     *
     * Its input is /dev/null. The output ends at a mark that the shell prints
     * with the exit status; what the kernel writes to the same console in
     * between is part of it. Throws TimedOut.
     */
    CommandResult runCommand(const std::string& command, Milliseconds timeout);

    /** Reads what has come without waiting for more, so that the guest's
     * writes do not block on a full socket. */
    void drain();

    /** Reads what has come, and forgets it with all that was not consumed: what
     * is waited for next is said from now on. */
    void forget()
    {
        drain();
        buffer_.clear();
    }

    /** What came and was not consumed yet, at most 1 MiB. */
    const std::string& unread() const { return buffer_; }
    int fd() const { return socket_.get(); }

  private:
    template <typename Find>
    std::string waitUntil(const Find& find, const std::string& what,
                          Milliseconds timeout);
    bool receive(const Deadline& deadline);

    UniqueFd socket_;
    UniqueFd transcript_;
    std::string buffer_;
    unsigned commands_ = 0;
};

} // namespace airlock
