#pragma once

#include "common/webhook.hpp"
#include "hostagent/agent/cycle.hpp"

#include <condition_variable>
#include <deque>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

namespace airlock::host
{

/** Who is told when a VM needs attention, beside the journal. */
struct AlertSettings
{
    /** Run with what, UUID, name and reason as arguments; empty: none. */
    std::string command;
    /** Gets each alert as JSON by POST. */
    std::optional<http::WebAddress> webhook;
    /** PEM, for an https webhook; empty: those that the system trusts. */
    std::filesystem::path webhookAuthorities;
    std::chrono::seconds time{10}; ///< for the webhook, and for the command
};

/** Tells an operator. raise() writes to the journal and returns at once; the
 * command and the webhook are a thread's, one alert after the other. Neither a
 * slow nor a broken one holds up a reboot: what cannot be delivered is logged,
 * and when too many wait the newest is dropped. */
class Alerts
{
  public:
    static constexpr std::size_t maxWaiting = 256;

    explicit Alerts(AlertSettings settings);
    Alerts(const Alerts&) = delete;
    Alerts& operator=(const Alerts&) = delete;
    /** Waits for the delivery that goes on; later ones are dropped. */
    ~Alerts();

    /** From any thread. False when it is the one that was raised for this VM
     * last and its state has not changed since: that is told once. */
    bool raise(const Alert& alert);
    /** A VM changed its state. */
    void changed(const std::string& uuid);

    /** What a webhook gets. */
    static Json toJson(const Alert& alert, const std::string& time);

  private:
    struct Waiting
    {
        Alert alert;
        std::string time;
    };

    bool isNews(const Alert& alert);
    void queue(const Alert& alert);
    void work(const std::stop_token& stop);
    void deliver(const Waiting& waiting) const;
    void runCommand(const Alert& alert) const;

    AlertSettings settings_;
    std::mutex mutex_;
    std::condition_variable_any changed_;
    std::deque<Waiting> waiting_;
    std::map<std::string, Alert> last_; ///< by UUID, since its state changed
    std::jthread thread_;
};

} // namespace airlock::host
