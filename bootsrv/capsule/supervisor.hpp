#pragma once

#include "bootsrv/capsule/capsule.hpp"
#include "common/json.hpp"

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>

namespace airlock::capsule
{

/** A mode that was started: a RunningMode, or a test's. At the end of the
 * object the power is pulled. */
class ModeAtWork
{
  public:
    virtual ~ModeAtWork() = default;

    virtual bool ended(Milliseconds time) = 0;
    virtual ModeEnd finish(Milliseconds limit) = 0;
};

/** Throws when the mode cannot be started. */
using StartMode = std::function<std::unique_ptr<ModeAtWork>(bool dirty)>;

/** The one that starts a capsule's, which has to outlive it. */
StartMode starter(Capsule& capsule, const CapsuleOptions& options);

struct SupervisorLimits
{
    /** After it dirty mode is ended, whatever it does. */
    std::chrono::seconds dirty = std::chrono::minutes(30);
    /** After it clean mode is ended and started anew, be it that it hangs: its
     * kernel cannot tell. Long, for it may be at work on a job. */
    std::chrono::seconds clean = std::chrono::hours(24);
    /** Before clean mode is started again after it ended without a reason or
     * did not start; twice as long each time that it happens again, */
    Milliseconds pause = std::chrono::seconds(10);
    /** but not longer than this. */
    Milliseconds longestPause = std::chrono::minutes(10);
    /** Clean mode that lived so long did not fail. */
    std::chrono::seconds steady = std::chrono::minutes(10);
};

/** What operators get to know of a capsule. */
struct SupervisorStatus
{
    enum class State
    {
        waiting, ///< nothing runs; the next mode starts soon
        clean,
        dirty,
    };
    State state = State::waiting;
    std::chrono::system_clock::time_point since;
    std::uint64_t starts = 0;   ///< of modes
    std::uint64_t runs = 0;     ///< of them, of dirty mode: jobs
    std::uint64_t failures = 0; ///< since it worked last
    /** How the last mode ended; "" at first. */
    std::string reason;

    Json toJson() const;
};

std::string_view toString(SupervisorStatus::State state);

/** Keeps a capsule at work, mode after mode, each in a process of its own:
 * clean; dirty when clean asked for it; then clean again; each never longer
 * than its limit. */
class Supervisor
{
  public:
    /** Is told of each change of the status, from the thread of run(). */
    using Watcher = std::function<void(const SupervisorStatus&)>;

    /** `name` is for the log. */
    Supervisor(std::string name, StartMode start, SupervisorLimits limits,
               Watcher watcher = {});

    /** Returns when stop is requested; the power of the capsule is pulled then,
     * as it may be at any time. The thread has to live as long: it is the
     * parent of the capsule's processes. Whatever goes wrong with the capsule
     * is logged, and it is started again. */
    void run(const std::stop_token& stop);

    const std::string& name() const { return name_; }
    SupervisorStatus status() const;
    /** For how long run() has not come round: if that is minutes, the capsule's
     * processes cannot be ended. */
    Milliseconds silent() const;

  private:
    /** Nothing when stop was requested. */
    std::optional<ModeEnd> runMode(bool dirty, const std::stop_token& stop);
    /** Whether clean mode did what it is there for. */
    bool judge(const ModeEnd& end, bool dirty, Milliseconds lived);
    void failed(const std::string& why);
    void rest(const std::stop_token& stop);
    void change(const std::function<void(SupervisorStatus&)>& action);
    void ping();

    std::string name_;
    StartMode start_;
    SupervisorLimits limits_;
    Watcher watcher_;
    mutable std::mutex mutex_;
    SupervisorStatus status_;
    std::atomic<std::chrono::steady_clock::time_point> seen_;
};

/** The pause after so many failures in a row, the first one included. */
Milliseconds pauseAfter(const SupervisorLimits& limits, std::uint64_t failures);

} // namespace airlock::capsule
