#pragma once

#include "hostagent/agent/cycle.hpp"
#include "hostagent/hypervisor/libvirt.hpp"

#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <thread>

namespace airlock::host
{

/** Follows all airlock domains of a libvirt connection and takes each one
 * through its reboots, many at once. */
class Agent
{
  public:
    struct Options
    {
        std::string uri = "qemu:///system";
        /** All domains are looked at so often even without an event. */
        std::chrono::seconds scan{30};
        /** A line for the journal. */
        std::function<void(const std::string&)> log;
    };

    Agent(CycleContext& context, Options options);
    Agent(const Agent&) = delete;
    Agent& operator=(const Agent&) = delete;

    /** Works until stop is requested; then all threads have ended. Reconnects
     * to libvirt when that goes away. `alive` is called every second. */
    void run(const std::stop_token& stop, const std::function<void()>& alive);

    /** Lets a held VM try again. Throws Error if it is not held. */
    void retry(const std::string& uuid);

    /** Whether libvirt is connected. */
    bool connected() const;

  private:
    void connect();
    void poke(const std::string& uuid);
    void pokeAll();
    void startWork();
    void work(const std::string& uuid, const std::stop_token& stop);
    std::optional<Milliseconds> runCycle(const std::string& uuid,
                                         const std::stop_token& stop);
    void reap();
    void removeOrphans(const std::stop_token& stop);

    CycleContext& context_;
    Options options_;
    std::shared_ptr<Connection> connection_;

    mutable std::mutex mutex_;
    std::condition_variable_any changed_;
    std::set<std::string> poked_;
    struct Worker
    {
        bool over = false;
        bool again = false; ///< poked while it was at work
        std::jthread thread;
    };
    std::map<std::string, Worker> workers_;
    std::map<std::string, std::chrono::steady_clock::time_point> later_;
    std::map<std::string, std::chrono::seconds> limits_; ///< of reboots, seen
};

} // namespace airlock::host
