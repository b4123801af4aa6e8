#pragma once

#include "common/deadline.hpp"
#include "common/fd.hpp"
#include "common/json.hpp"

#include <deque>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

namespace airlock
{

/** QEMU answered a command with an error (docs/interop/qmp-spec.rst). */
class QmpError : public Error
{
  public:
    QmpError(std::string_view command, std::string errorClass,
             std::string description);

    /** "GenericError", "CommandNotFound", "DeviceNotFound"... */
    const std::string& errorClass() const { return class_; }
    const std::string& description() const { return description_; }

  private:
    std::string class_;
    std::string description_;
};

/** An asynchronous event: its name and its "data" (an empty object when the
 * event has none). */
struct QmpEvent
{
    std::string name;
    Json data;
};

/** What the peer may make us hold. */
struct QmpLimits
{
    std::size_t lineBytes = 16U << 20; ///< longer: the connection is refused
    std::size_t queueBytes = 4U << 20; ///< unread events, as JSON text
    std::size_t queueEvents = 1024;    ///< unread events; the oldest goes
    JsonLimits json = {16U << 20, 64};
};

/** Somebody who can give QEMU commands: a connection of our own, or libvirt's.
 */
class QmpCommands
{
  public:
    virtual ~QmpCommands() = default;

    /** Runs a command; its "return" value. Throws QmpError, TimedOut (a late
     * answer is then ignored), Refused, or Error when the peer has gone. */
    virtual Json execute(std::string_view command, const Json& arguments = {},
                         Milliseconds timeout = std::chrono::seconds(30)) = 0;

    /** As execute(), with a file descriptor for commands such as getfd and
     * add-fd. Ours stays open. */
    virtual Json
    executeWithFd(std::string_view command, const Json& arguments, int fd,
                  Milliseconds timeout = std::chrono::seconds(30)) = 0;
};

/** A client of one QEMU machine protocol connection.
 *
 * The peer may be a QEMU that its guest has taken over: everything it sends is
 * bounded, a text that is no QMP throws Refused, and no stream of events can
 * push a time-out back. After Refused or a closed connection the client is of
 * no further use. Not shared between threads; move only.
 *
 * Events that arrive while a command waits for its answer are queued until
 * waitEvent() asks for them. When the queue is full the oldest one is lost and
 * counted; state that matters must have a query command as well.
 */
class QmpClient : public QmpCommands
{
  public:
    /** Takes a connected socket, reads the greeting and leaves capabilities
     * negotiation (qmp_capabilities). */
    explicit QmpClient(UniqueFd socket,
                       Milliseconds timeout = std::chrono::seconds(10),
                       const QmpLimits& limits = {});

    /** Connects to a listening socket, waiting for it to appear. */
    static QmpClient connect(const std::filesystem::path& path,
                             Milliseconds timeout = std::chrono::seconds(10));

    Json execute(std::string_view command, const Json& arguments = {},
                 Milliseconds timeout = std::chrono::seconds(30)) override;
    Json
    executeWithFd(std::string_view command, const Json& arguments, int fd,
                  Milliseconds timeout = std::chrono::seconds(30)) override;

    using Predicate = std::function<bool(const QmpEvent&)>;

    /** The oldest event that matches, taken from the queue; waits for one.
     * The others stay queued. Throws TimedOut. */
    QmpEvent waitEvent(const Predicate& matches, Milliseconds timeout);
    QmpEvent waitEvent(std::string_view name, Milliseconds timeout);

    /** As waitEvent(), but only what has already been sent to us. */
    std::optional<QmpEvent> pollEvent(std::string_view name);

    /** Forgets what is queued, for example before a new job. */
    void clearEvents();
    std::size_t lostEvents() const { return lostEvents_; }

    /** For poll(2): readable when something has arrived. */
    int fd() const { return socket_.get(); }
    /** The greeting's version as "10.0.13", for logs. */
    const std::string& version() const { return version_; }

  private:
    struct QueuedEvent
    {
        QmpEvent event;
        std::size_t bytes = 0;
    };

    Json run(std::string_view command, const Json& arguments,
             std::optional<int> passFd, Milliseconds timeout);
    void greet(const Deadline& deadline);
    std::optional<Json> nextMessage(const Deadline& deadline);
    std::optional<std::string> takeLine();
    void queueEvent(const Json& message, std::size_t bytes);
    std::optional<QmpEvent> takeQueued(const Predicate& matches);

    UniqueFd socket_;
    QmpLimits limits_;
    std::string version_;
    std::string buffer_;
    std::size_t scanned_ = 0; ///< bytes of buffer_ known to hold no newline
    std::deque<QueuedEvent> events_;
    std::size_t eventBytes_ = 0;
    std::size_t lostEvents_ = 0;
    std::uint64_t lastId_ = 0;
};

} // namespace airlock
