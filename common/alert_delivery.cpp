#include "common/alert_delivery.hpp"

#include "common/control.hpp"
#include "common/error.hpp"
#include "common/log.hpp"
#include "common/process.hpp"
#include "common/toml_table.hpp"

#include <unistd.h>

#include <array>

namespace airlock
{

namespace
{

/** Of a command, in the log. */
constexpr std::size_t maxSaid = 4096;

std::string hostName()
{
    std::array<char, 256> name{};
    return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

std::string now()
{
    return control::timeText(std::chrono::time_point_cast<Milliseconds>(
        std::chrono::system_clock::now()));
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

void readAlertSettings(TomlTable& table, AlertSettings& out)
{
    std::string webhook;
    table.text("command", out.command);
    table.text("webhook", webhook);
    table.path("webhook-authorities", out.webhookAuthorities);
    table.time("time", out.time);
    if (!webhook.empty())
    {
        out.webhook = http::parseWebAddress(webhook);
    }
}

AlertDelivery::AlertDelivery(AlertSettings settings)
    : settings_(std::move(settings)),
      thread_([this](const std::stop_token& stop) { work(stop); })
{}

AlertDelivery::~AlertDelivery()
{
    thread_.request_stop();
    thread_.join();
    if (!waiting_.empty())
    {
        log::warning("Alerts were not delivered before the end",
                     {{"COUNT", std::to_string(waiting_.size())}});
    }
}

Json AlertDelivery::stamped(Json body, const std::string& time)
{
    body["time"] = time;
    body["host"] = hostName();
    return body;
}

void AlertDelivery::deliver(AlertNote note)
{
    if (!settings_.any())
    {
        return;
    }
    note.body = stamped(std::move(note.body), now());
    {
        const std::lock_guard lock(mutex_);
        if (waiting_.size() < maxWaiting)
        {
            waiting_.push_back(std::move(note));
            changed_.notify_all();
            return;
        }
    }
    log::error("an alert was dropped: too many wait to be delivered",
               {{"ALERT", dumpJson(note.body)}});
}

void AlertDelivery::work(const std::stop_token& stop)
{
    for (;;)
    {
        AlertNote next;
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
        tell(next);
    }
}

void AlertDelivery::tell(const AlertNote& note) const
{
    if (settings_.webhook)
    {
        orLog("the alert webhook failed", [&] {
            http::postJson(*settings_.webhook, note.body, settings_.time,
                           settings_.webhookAuthorities);
        });
    }
    if (!settings_.command.empty())
    {
        orLog("the alert command failed", [&] { runCommand(note); });
    }
}

void AlertDelivery::runCommand(const AlertNote& note) const
{
    SpawnOptions options;
    options.argv = {settings_.command};
    options.argv.insert(options.argv.end(), note.words.begin(),
                        note.words.end());
    const ProcessOutput output = runProgram(options, settings_.time, maxOutput);
    if (!output.status.ok())
    {
        throw Error(output.status.describe() + ": " +
                    plainText(output.err, maxSaid));
    }
}

} // namespace airlock
