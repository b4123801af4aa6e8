#pragma once

#include "common/alert_delivery.hpp"
#include "hostagent/agent/cycle.hpp"

#include <map>
#include <mutex>
#include <string>

namespace airlock::host
{

/** Tells an operator that a VM needs attention: the journal at once, the
 * command and the webhook by an AlertDelivery. */
class Alerts
{
  public:
    explicit Alerts(AlertSettings settings) : delivery_(std::move(settings)) {}

    /** From any thread. False when it is the one that was raised for this VM
     * last and its state has not changed since: that is told once. */
    bool raise(const Alert& alert);
    /** A VM changed its state. */
    void changed(const std::string& uuid);

    /** What a webhook gets. */
    static Json toJson(const Alert& alert, const std::string& time);

  private:
    bool isNews(const Alert& alert);

    std::mutex mutex_;
    std::map<std::string, Alert> last_; ///< by UUID, since its state changed
    AlertDelivery delivery_;
};

} // namespace airlock::host
