#pragma once

#include <condition_variable>
#include <cstdint>
#include <list>
#include <map>
#include <mutex>
#include <stop_token>
#include <string>

namespace airlock::host
{

/** A limit on jobs at once. Whoever has to wait is served by turns of tenants,
 * within a tenant in order of arrival: a storm of one does not starve others.
 */
class JobSlots
{
  public:
    explicit JobSlots(unsigned count) : free_(count) {}

    /** Given back at its end. */
    class Slot
    {
      public:
        explicit Slot(JobSlots* owner) : owner_(owner) {}
        Slot(Slot&& other) noexcept : owner_(other.owner_)
        {
            other.owner_ = nullptr;
        }
        Slot& operator=(Slot&&) = delete;
        ~Slot()
        {
            if (owner_ != nullptr)
            {
                owner_->release();
            }
        }
        explicit operator bool() const { return owner_ != nullptr; }

      private:
        JobSlots* owner_;
    };

    /** Waits for a slot; an empty one when stop is requested. */
    Slot acquire(const std::string& tenant, std::stop_token stop);

  private:
    void release();
    bool isNext(const std::string& tenant, std::uint64_t ticket) const;
    const std::string* nextTenant() const;

    std::mutex mutex_;
    std::condition_variable_any changed_;
    unsigned free_;
    std::uint64_t tickets_ = 0;
    std::map<std::string, std::list<std::uint64_t>> waiting_;
    std::map<std::string, std::uint64_t> served_; ///< when, by tenant
};

} // namespace airlock::host
