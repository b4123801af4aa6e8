#pragma once

#include "bootsrv/capsule/capsule.hpp"
#include "tools/rigs/net_namespace.hpp"

#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace airlock::rig
{

/** The tap device of plugIn(). */
inline constexpr const char* capsuleTap = "cap0";

/** The capsule's end of the cable: what its tap sends comes out of eth0 of the
 * boot host's namespace. */
void plugIn(const NetNamespace& boot);

/** Keeps a capsule at work in a namespace as "airlock-bootd capsule run" does,
 * and notes how each of its modes ended. */
class AtWork
{
  public:
    AtWork(capsule::Capsule& capsule, const NetNamespace& boot,
           const capsule::CapsuleOptions& options,
           Milliseconds dirtyTime = std::chrono::minutes(25));
    AtWork(const AtWork&) = delete;
    AtWork& operator=(const AtWork&) = delete;
    ~AtWork();

    std::vector<capsule::ModeEnd> ends() const;
    /** False when so many modes did not end in time. */
    bool waitEnds(std::size_t number, Milliseconds time) const;
    /** Of the mode that runs now. */
    std::string console() const;

  private:
    void work();

    capsule::Capsule& capsule_;
    capsule::CapsuleOptions options_;
    Milliseconds dirtyTime_;
    std::atomic<bool> stop_ = false;
    mutable std::mutex mutex_;
    std::vector<capsule::ModeEnd> ends_;
    std::thread thread_;
};

} // namespace airlock::rig
