#include "hostagent/daemon/alerts.hpp"

#include "common/log.hpp"
#include "common/process.hpp"
#include "hostagent/control/protocol.hpp"

#include <unistd.h>

#include <array>

namespace airlock::host
{

namespace
{

/** For rules on alerts; listed in airlock-hostd(8). */
constexpr const char* alertId = "1c8a4d7be3d14b0f9a5e6c20f7d3b981";

/** Of a command, in the log. */
constexpr std::size_t maxSaid = 4096;

std::string hostName()
{
    std::array<char, 256> name{};
    return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

template <typename Action>
void orLog(const char* message, const Action& action)
{
    try
    {
        action();
    }
    catch (const std::exception& error)
    {
        log::error(message, {{"REASON", error.what()}});
    }
}

} // namespace

Alerts::Alerts(AlertSettings settings)
    : settings_(std::move(settings)),
      thread_([this](const std::stop_token& stop) { work(stop); })
{}

Alerts::~Alerts()
{
    thread_.request_stop();
    thread_.join();
    if (!waiting_.empty())
    {
        log::warning("Alerts were not delivered before the end",
                     {{"COUNT", std::to_string(waiting_.size())}});
    }
}

bool Alerts::isNews(const Alert& alert)
{
    std::lock_guard lock(mutex_);
    auto [last, fresh] = last_.try_emplace(alert.uuid, alert);
    bool news = fresh || last->second.what != alert.what ||
                last->second.why != alert.why;
    last->second = alert;
    return news;
}

void Alerts::changed(const std::string& uuid)
{
    std::lock_guard lock(mutex_);
    last_.erase(uuid);
}

bool Alerts::raise(const Alert& alert)
{
    if (!isNews(alert))
    {
        return false;
    }
    log::warning("a VM needs attention", {{"MESSAGE_ID", alertId},
                                          {"DOMAIN", alert.name},
                                          {"VM_UUID", alert.uuid},
                                          {"WHAT", alert.what},
                                          {"REASON", alert.why}});
    if (!settings_.command.empty() || settings_.webhook)
    {
        queue(alert);
    }
    return true;
}

void Alerts::queue(const Alert& alert)
{
    auto now = std::chrono::time_point_cast<Milliseconds>(
        std::chrono::system_clock::now());
    bool full = false;
    {
        std::lock_guard lock(mutex_);
        full = waiting_.size() >= maxWaiting;
        if (!full)
        {
            waiting_.push_back({alert, control::timeText(now)});
        }
    }
    changed_.notify_all();
    if (full)
    {
        log::error("an alert was dropped: too many wait to be delivered",
                   {{"DOMAIN", alert.name}, {"WHAT", alert.what}});
    }
}

Json Alerts::toJson(const Alert& alert, const std::string& time)
{
    return {{"time", time},         {"host", hostName()},
            {"what", alert.what},   {"reason", alert.why},
            {"domain", alert.name}, {"uuid", alert.uuid}};
}

void Alerts::work(const std::stop_token& stop)
{
    for (;;)
    {
        Waiting next;
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, stop, [this] { return !waiting_.empty(); });
            if (stop.stop_requested())
            {
                return;
            }
            next = std::move(waiting_.front());
            waiting_.pop_front();
        }
        deliver(next);
    }
}

void Alerts::deliver(const Waiting& waiting) const
{
    if (settings_.webhook)
    {
        orLog("the alert webhook failed", [&] {
            http::postJson(*settings_.webhook,
                           toJson(waiting.alert, waiting.time), settings_.time,
                           settings_.webhookAuthorities);
        });
    }
    if (!settings_.command.empty())
    {
        orLog("the alert command failed", [&] { runCommand(waiting.alert); });
    }
}

void Alerts::runCommand(const Alert& alert) const
{
    SpawnOptions options;
    options.argv = {settings_.command, alert.what, alert.uuid, alert.name,
                    alert.why};
    ProcessOutput output = runProgram(options, settings_.time);
    if (!output.status.ok())
    {
        throw Error(output.status.describe() + ": " +
                    plainText(output.err, maxSaid));
    }
}

} // namespace airlock::host
