#pragma once

#include "common/error.hpp"

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace airlock::host
{

/** Where a VM is on its way through a reboot.
 *
 *     running -> trapped -> exporting -> booting -> returning -> admitting
 *        ^                                                           |
 *        +------------------------ applying <------------------------+
 *
 * A failed attempt before `applying` leads to `retrying`, and from there to
 * `exporting` again or, when the attempts are used up, to `held`. The delta is
 * applied last, when the state is loaded and nothing can be refused any more;
 * if the QEMU process is lost meanwhile, the delta is completed in the next
 * one before that one's boot (`trapped`).
 */
enum class State
{
    running,
    trapped,   ///< its reset was caught; nothing has been done yet
    exporting, ///< disks go to a boot server
    booting,   ///< the boot server has all it needs
    returning, ///< state, memory and delta come back
    admitting, ///< state and memory are checked and loaded; disk untouched
    applying,  ///< the delta is being applied: from here on only forward
    retrying,  ///< waits for the next attempt
    held,      ///< waits for an operator
};

inline constexpr State allStates[] = {
    State::running,  State::trapped,   State::exporting,
    State::booting,  State::returning, State::admitting,
    State::applying, State::retrying,  State::held,
};

/** "running", "trapped"...: the words of logs, the database and the CLI. */
std::string_view toString(State state);
/** Throws Refused for a word that is no state. */
State parseState(std::string_view word);

/** Whether a change of state keeps the promise about the disk: from
 * `applying` the only ways lead to `running` and `trapped`, both when the delta
 * is complete, and to `held`; nothing but `admitting` or `held` leads into it.
 * A running guest can only be trapped or held. All else is up to the state
 * machine. */
bool mayFollow(State from, State to);

/** Milliseconds since 1970, UTC. */
using Timestamp = std::chrono::time_point<std::chrono::system_clock,
                                          std::chrono::milliseconds>;

/** One VM as the host agent last knew it. */
struct VmRecord
{
    std::string uuid; ///< of the libvirt domain
    std::string name; ///< of the libvirt domain, for people
    State state = State::running;
    std::uint64_t generation = 0; ///< number of traps so far
    std::string jobId;            ///< empty: no job at a boot server
    std::string bootServer;       ///< empty: none chosen
    unsigned attempts = 0;        ///< of this generation
    Timestamp since;              ///< when `state` was entered
    std::string reason;           ///< for `retrying` and `held`: why
    std::string nonce;            ///< of the job, hex
    /** Steps of this generation that are done, with their time: what need
     * not be done again after a crash ("disk/0", "delta/1"). */
    std::map<std::string, Timestamp> marks;
};

/** Mark of a VM that is held while a delta is only half applied. */
inline constexpr const char* incompleteDeltaMark = "delta-incomplete";

/** Whether its disks may be half written: then the delta must stay, and
 * nothing but its completion leads on. */
bool deltaPending(const VmRecord& vm);

/** What a job moved, by name: "memory-bytes", "disk-0-delta-bytes",
 * "sections-kept"; listed in airlockctl(1). */
using Figures = std::map<std::string, std::uint64_t>;

/** A job in the history, open while `ended` is missing. */
struct JobRecord
{
    std::string id; ///< unique in this history; the host agent's own
    std::string uuid;
    std::string name;
    std::string tenant;
    std::uint64_t generation = 0;
    std::string server;
    Timestamp started;
    std::optional<Timestamp> ended;
    std::string result; ///< "done", or a word and a reason; empty while open
    std::map<std::string, double> seconds; ///< by stage
    Figures figures;
};

struct JobEnd
{
    std::string id;
    std::string result;
    std::map<std::string, double> seconds;
    Figures figures;
};

/** What changes together with a state. What is missing stays as it is. */
struct Change
{
    std::optional<std::uint64_t> generation; ///< another one clears the marks
    std::optional<std::string> jobId;
    std::optional<std::string> bootServer;
    std::optional<unsigned> attempts;
    std::optional<std::string> reason;
    std::optional<std::string> nonce;
    std::vector<std::string> marks; ///< steps that are done by now
    bool clearMarks = false;        ///< before `marks` are added
    bool discardDelta = false;      ///< removes incompleteDeltaMark
    std::optional<JobRecord> openJob;
    std::optional<JobEnd> closeJob; ///< closed before `openJob` is opened
};

/** Which jobs to list; the newest first. */
struct JobQuery
{
    std::optional<std::string> uuid;
    std::optional<std::string> name;
    std::optional<std::string> tenant;
    std::optional<std::string> server;
    std::optional<std::string> result; ///< its first word, without a colon
    std::optional<Timestamp> startedSince;
    bool openOnly = false;
    std::size_t limit = 100; ///< at most 10000
};

/** A transition that does not start where the VM is. */
class StateConflict : public Error
{
  public:
    StateConflict(const std::string& what, State actual)
        : Error(what), actual_(actual)
    {}

    State actual() const { return actual_; }

  private:
    State actual_;
};

/** The host agent's memory: SQLite, write-ahead log, synced at each commit.
 *
 * What a function has returned from survives a crash of the process and of
 * the machine; what it threw from has not happened. One process at a time has
 * the file open. Functions may be called from any thread. Each throws Error
 * when the database cannot be read or written (disk full included).
 */
class Store
{
  public:
    using Clock = std::function<Timestamp()>;

    /** Opens or creates the file (mode 0600) and brings its schema up to
     * date. Refuses a file of another program, one that a newer version
     * wrote, and one that another process holds. */
    explicit Store(const std::filesystem::path& file, Clock clock = {});
    Store(const Store&) = delete;
    Store& operator=(const Store&) = delete;
    ~Store();

    /** Adds a VM as `running`, generation 0; of a VM that is known only the
     * name changes. Returns what is stored then. */
    VmRecord ensureVm(const std::string& uuid, const std::string& name);
    /** Forgets a VM and its marks; its jobs stay in the history. False when
     * it was not known. */
    bool forgetVm(const std::string& uuid);

    std::optional<VmRecord> vm(const std::string& uuid) const;
    std::vector<VmRecord> vms() const; ///< by name
    std::map<State, std::size_t> countByState() const;

    /** From one state to another, with all of `change`, or not at all.
     *
     * Throws StateConflict when the VM is not in `from`, Error when it is not
     * known, when mayFollow() forbids it, or when it is held with a delta that
     * is only half applied and would be neither held nor `applying` then.
     * `from` and `to` may be equal: `since` is then kept. Returns what is
     * stored now.
     */
    VmRecord transition(const std::string& uuid, State from, State to,
                        const Change& change = {});

    /** Notes that a step is done, if the VM is still in `state`; noting it
     * twice keeps the first time. Throws StateConflict otherwise. */
    void mark(const std::string& uuid, State state, const std::string& step);

    std::vector<JobRecord> jobs(const JobQuery& query = {}) const;
    std::optional<JobRecord> job(const std::string& id) const;
    /** Removes closed jobs that ended before; returns how many. */
    std::size_t pruneJobs(Timestamp endedBefore);

    /** Writes to the disk without changing anything: throws Error when a
     * change of state could not be noted either. */
    void tryWrite();

  private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace airlock::host
