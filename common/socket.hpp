#pragma once

#include "common/bytes.hpp"
#include "common/deadline.hpp"
#include "common/fd.hpp"

#include <filesystem>
#include <optional>
#include <utility>

namespace airlock
{

/** Connects to a Unix stream socket; tries again until the deadline while
 * nobody listens there yet. Throws TimedOut or SystemError with the path. */
UniqueFd connectUnix(const std::filesystem::path& path, Milliseconds timeout);

/** Listens on a Unix stream socket that did not exist before. Who may connect
 * is a matter of the directory. */
UniqueFd listenUnix(const std::filesystem::path& path, int backlog = 16);

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
