#pragma once

#include "common/bytes.hpp"
#include "common/deadline.hpp"
#include "common/fd.hpp"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>

namespace airlock
{

/** Connects to a Unix stream socket; tries again until the deadline while
 * nobody listens there yet. Throws TimedOut or SystemError with the path. */
UniqueFd connectUnix(const std::filesystem::path& path, Milliseconds timeout);

/** Listens on a Unix stream socket that did not exist before. Who may connect
 * is a matter of the directory. */
UniqueFd listenUnix(const std::filesystem::path& path, int backlog = 16);

/** Removes a Unix socket that nobody listens at any more, so that listenUnix()
 * can make it anew. Throws Error when somebody does, or when it is no socket.
 */
void removeStaleSocket(const std::filesystem::path& path);

/** Connects to the first address of a host (name or address) that answers. */
UniqueFd connectTcp(const std::string& host, std::uint16_t port,
                    const Deadline& deadline);

/** Listens at "127.0.0.1:9557" or "[::1]:9557"; port 0: any free one. */
UniqueFd listenTcp(const std::string& where, int backlog = 16);

/** The port that a TCP socket is bound to. */
std::uint16_t localPort(int socket);

/** A connected pair: keep `first`, pass `second` to a child. */
std::pair<UniqueFd, UniqueFd> socketPair();

/** Sends all of it; with `passFd`, that descriptor travels with the first
 * byte (SCM_RIGHTS; ours stays open). Never raises SIGPIPE. Throws TimedOut
 * when the peer does not take it, Error when it has gone. */
void sendAll(int socket, std::string_view data, const Deadline& deadline,
             std::optional<int> passFd = std::nullopt);

/** Appends what has come, at most `max` bytes, to `out`: false when nothing
 * came before the deadline. Works on any pollable descriptor. Throws Error
 * when the peer has closed the connection. */
bool receiveSome(int fd, std::string& out, std::size_t max,
                 const Deadline& deadline);

} // namespace airlock
