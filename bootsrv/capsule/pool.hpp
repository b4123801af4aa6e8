#pragma once

#include "bootsrv/capsule/pool_config.hpp"
#include "trust/crypto.hpp"

#include <filesystem>
#include <memory>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

/** Several capsules side by side on one machine. */
namespace airlock::capsule
{

/** Keeps each of several capsules at work in a thread of its own. What happens
 * to one is none of the others' business. */
class Pool
{
  public:
    struct Member
    {
        std::string name;
        std::string tap;
        StartMode start;
        SupervisorLimits limits;
    };
    using Watcher = std::function<void(const Json& member)>;

    /** They are at work on return. `watcher` is told of changes, from any
     * thread. No end of a mode takes as long as `stuckAfter`. */
    explicit Pool(std::vector<Member> members, const Watcher& watcher = {},
                  Milliseconds stuckAfter = std::chrono::minutes(5));
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;
    /** Pulls the power of all of them, at the same time. */
    ~Pool();

    /** {"capsules": [{"name", "tap", "state", "since", ...}]}, with "stuck"
     * when its processes cannot be ended. */
    Json status() const;

  private:
    struct Worker
    {
        std::string tap;
        std::unique_ptr<Supervisor> supervisor;
        std::jthread thread;
    };

    Milliseconds stuckAfter_;
    std::vector<Worker> workers_;
};

/** Keeps the capsules of a configuration at work until SIGTERM or SIGINT, and
 * answers at its control socket. Tells the service manager when it is ready,
 * that it is alive, and how it is. Error when one of them was not made yet. */
void servePool(const PoolConfig& config);

/** What the site has new capsules enrolled with. */
struct PoolApproval
{
    const trust::Key& siteKey;
    std::uint64_t generation = 1;
    Milliseconds bootTime;
};

/** Makes and enrols the capsules that are not there. One is there when all of
 * it went well. False when one of them failed, which was said. */
bool makePool(const PoolConfig& config, const PoolApproval& approval);

} // namespace airlock::capsule
