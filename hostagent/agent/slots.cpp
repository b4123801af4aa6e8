#include "hostagent/agent/slots.hpp"

namespace airlock::host
{

const std::string* JobSlots::nextTenant() const
{
    const std::string* next = nullptr;
    std::uint64_t oldest = 0;
    for (const auto& [tenant, queue] : waiting_)
    {
        auto last = served_.find(tenant);
        std::uint64_t served = last == served_.end() ? 0 : last->second;
        if (next == nullptr || served < oldest)
        {
            next = &tenant;
            oldest = served;
        }
    }
    return next;
}

bool JobSlots::isNext(const std::string& tenant, std::uint64_t ticket) const
{
    const std::string* next = nextTenant();
    return free_ > 0 && next != nullptr && *next == tenant &&
           waiting_.at(tenant).front() == ticket;
}

JobSlots::Slot JobSlots::acquire(const std::string& tenant,
                                 std::stop_token stop)
{
    std::unique_lock lock(mutex_);
    std::uint64_t ticket = ++tickets_;
    waiting_[tenant].push_back(ticket);
    bool mine = changed_.wait(lock, std::move(stop),
                              [&] { return isNext(tenant, ticket); });
    auto queue = waiting_.find(tenant);
    queue->second.remove(ticket);
    if (queue->second.empty())
    {
        waiting_.erase(queue);
    }
    if (mine)
    {
        free_--;
        served_[tenant] = ++tickets_;
    }
    changed_.notify_all();
    return Slot(mine ? this : nullptr);
}

void JobSlots::release()
{
    std::lock_guard lock(mutex_);
    free_++;
    changed_.notify_all();
}

} // namespace airlock::host
