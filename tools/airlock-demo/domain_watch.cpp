#include "domain_watch.hpp"

#include <thread>

namespace airlock::demo
{

namespace
{

constexpr Milliseconds waitStep{200};
constexpr Milliseconds trapTime = std::chrono::minutes(5);

} // namespace

DomainWatch::DomainWatch(rig::HostRig& host)
    : host_(host), connection_(host.libvirt().uri(), [](const std::string&) {})
{}

vm::Trap DomainWatch::waitTrap(const std::function<void()>& tick)
{
    for (Deadline deadline(trapTime);;)
    {
        if (host_.domainState() == "paused")
        {
            domain_ = connection_.activeDomains().at(0);
            if (auto trap = vm::queryTrap(*domain_).trap)
            {
                return *trap;
            }
        }
        if (deadline.passed())
        {
            throw TimedOut("the guest was not seen trapped; " + host_.logs());
        }
        tick();
        std::this_thread::sleep_for(waitStep);
    }
}

} // namespace airlock::demo
