#pragma once

#include "common/control.hpp"
#include "common/deadline.hpp"
#include "common/fd.hpp"

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

namespace airlock::control
{

/** Who is at the other end, as the kernel says (SO_PEERCRED, SO_PEERGROUPS).
 */
struct Peer
{
    pid_t pid = -1;
    uid_t uid = static_cast<uid_t>(-1);
    std::vector<gid_t> groups; ///< the main one and all others
};

struct ServerOptions
{
    /** A stale socket there is replaced, a live one is an error. */
    std::filesystem::path path;
    Daemon daemon;
    /** Members may connect beside root. */
    std::optional<gid_t> group;
    /** And our own user, if nobody else runs as it. */
    bool ownUser = true;
    std::size_t maxConnections = 64;
    /** A request has to be complete in this time. */
    Milliseconds requestTime = std::chrono::seconds(10);
    /** Replies that a peer does not take; beyond it is cut off. */
    std::size_t maxUnsent = 4U << 20;
};

/** Whether a peer may talk to a server that runs as the user `self`. */
bool mayTalk(const Peer& peer, const ServerOptions& options, uid_t self);

/** Answers a call. What it throws becomes the reply: CallError by its name,
 * Refused as invalid-parameter, another Error as failed. */
using Handler =
    std::function<Json(const JsonField& parameters, const Peer& peer)>;

/** The daemon's end. One thread runs it; handlers are called from that
 * thread and should be short. */
class Server
{
  public:
    /** Listens from now on; answers when run() is called. */
    explicit Server(const ServerOptions& options);
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;
    /** Removes the socket. */
    ~Server();

    /** Before run() only. The method "events" is there without it. */
    void handle(const std::string& method, Handler handler);

    /** Goes to all who follow the events and is kept among the last 256. From
     * any thread. A "time" is added. */
    void publish(Json event);

    /** Serves until stop is requested. */
    void run(const std::stop_token& stop);

  private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace airlock::control
