#include "tools/rigs/capsule_at_work.hpp"

#include "common/file.hpp"
#include "common/process.hpp"

namespace airlock::rig
{

void plugIn(const NetNamespace& boot)
{
    boot.run([] {
        runTool({"ip", "link", "add", "cable", "type", "bridge",
                 "mcast_snooping", "0"});
        runTool({"ip", "tuntap", "add", capsuleTap, "mode", "tap"});
        for (const char* link : {"cable", "eth0", capsuleTap})
        {
            runTool({"ip", "link", "set", link, "addrgenmode", "none"});
        }
        for (const char* link : {"eth0", capsuleTap})
        {
            runTool({"ip", "link", "set", link, "master", "cable", "up"});
        }
        runTool({"ip", "link", "set", "cable", "up"});
    });
}

AtWork::AtWork(capsule::Capsule& capsule, const NetNamespace& boot,
               const capsule::CapsuleOptions& options, Milliseconds dirtyTime)
    : capsule_(capsule), options_(options), dirtyTime_(dirtyTime),
      // Children die with the thread that started them.
      thread_([this, &boot] { boot.run([this] { work(); }); })
{}

AtWork::~AtWork()
{
    stop_ = true;
    thread_.join();
}

std::vector<capsule::ModeEnd> AtWork::ends() const
{
    const std::lock_guard lock(mutex_);
    return ends_;
}

bool AtWork::waitEnds(std::size_t number, Milliseconds time) const
{
    for (Deadline deadline(time); ends().size() < number;)
    {
        if (deadline.passed())
        {
            return false;
        }
        std::this_thread::sleep_for(Milliseconds(100));
    }
    return true;
}

std::string AtWork::console() const
{
    return readTextFile(capsule_.dataDisk().parent_path() / "console",
                        1U << 20);
}

void AtWork::work()
{
    for (bool dirty = false; !stop_;)
    {
        capsule::RunningMode mode = capsule_.start(options_, dirty);
        const Deadline deadline(dirtyTime_);
        while (!mode.ended(Milliseconds(100)) && !stop_ &&
               !(dirty && deadline.passed()))
        {}
        if (stop_)
        {
            return;
        }
        const capsule::ModeEnd end = mode.finish(Milliseconds(1));
        dirty = !dirty && end.dirtyNext;
        const std::lock_guard lock(mutex_);
        ends_.push_back(end);
    }
}

} // namespace airlock::rig
