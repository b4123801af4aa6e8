#pragma once

#include "common/json.hpp"
#include "common/webhook.hpp"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace airlock
{

class TomlTable;

/** Who is told of alerts, beside the journal. */
struct AlertSettings
{
    /** Run with an alert's words as arguments; empty: none. */
    std::string command;
    /** Gets each alert as JSON by POST. */
    std::optional<http::WebAddress> webhook;
    /** PEM, for an https webhook; empty: those that the system trusts. */
    std::filesystem::path webhookAuthorities;
    std::chrono::seconds time{10}; ///< for the webhook, and for the command

    /** Whether there is anybody. */
    bool any() const { return !command.empty() || webhook; }
};

/** Reads the keys of a table [alert]; the caller is done() with it. */
void readAlertSettings(TomlTable& table, AlertSettings& out);

/** An alert in the words of both. */
struct AlertNote
{
    std::vector<std::string> words;
    Json body; ///< an object
};

/** Tells an operator. deliver() returns at once; the command and the webhook
 * are a thread's, one alert after the other. Neither a slow nor a broken one
 * holds anybody up: what cannot be delivered is logged, and when too many wait
 * the newest is dropped. */
class AlertDelivery
{
  public:
    static constexpr std::size_t maxWaiting = 256;
    /** A command that says more is ended. */
    static constexpr std::size_t maxOutput = 1U << 20;

    explicit AlertDelivery(AlertSettings settings);
    AlertDelivery(const AlertDelivery&) = delete;
    AlertDelivery& operator=(const AlertDelivery&) = delete;
    /** Waits for the delivery that goes on; later ones are dropped. */
    ~AlertDelivery();

    /** From any thread. The body gets "time" and "host". */
    void deliver(AlertNote note);

    /** The body as it is sent. */
    static Json stamped(Json body, const std::string& time);

  private:
    void work(const std::stop_token& stop);
    void tell(const AlertNote& note) const;
    void runCommand(const AlertNote& note) const;

    AlertSettings settings_;
    std::mutex mutex_;
    std::condition_variable_any changed_;
    std::deque<AlertNote> waiting_;
    std::jthread thread_;
};

} // namespace airlock
