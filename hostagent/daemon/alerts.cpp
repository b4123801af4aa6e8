#include "hostagent/daemon/alerts.hpp"

#include "common/log.hpp"

namespace airlock::host
{

namespace
{

/** For rules on alerts; listed in airlock-hostd(8). */
constexpr const char* alertId = "1c8a4d7be3d14b0f9a5e6c20f7d3b981";

Json bodyOf(const Alert& alert)
{
    return {{"what", alert.what},
            {"reason", alert.why},
            {"domain", alert.name},
            {"uuid", alert.uuid}};
}

} // namespace

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
    delivery_.deliver(
        {{alert.what, alert.uuid, alert.name, alert.why}, bodyOf(alert)});
    return true;
}

Json Alerts::toJson(const Alert& alert, const std::string& time)
{
    return AlertDelivery::stamped(bodyOf(alert), time);
}

} // namespace airlock::host
