#include "tests/modes/switched_capsule.hpp"

#include "tools/rigs/capsule_case.hpp"
#include "tools/rigs/guest_case.hpp"

#include <fcntl.h>
#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <thread>

namespace airlock::test
{

namespace
{

/** The machine of the rig is the capsule; its own partitions are not used. */
constexpr std::uint64_t unusedStaging = 1U << 20;
constexpr std::size_t shown = 4000;
constexpr Milliseconds step{50};

std::string tail(const std::string& text)
{
    return text.substr(text.size() - std::min(text.size(), shown));
}

} // namespace

SwitchedCapsule::SwitchedCapsule(const std::filesystem::path& images,
                                 std::uint64_t stagingSize, unsigned cpus)
    : before_(openFile("/proc/thread-self/ns/net", O_RDONLY)),
      rig_(unusedStaging), net_(rig_), home_(rig::roomyDirectory("capsule"))
{
    net_.setUpMachine(machine::ProofMethod::mac96);
    rig_.site.listen = "0.0.0.0";
    rig_.site.port = 7420;
    net_.plugInTap();
    net_.theSwitch().enter();
    net_.startAgent();
    net_.enroll("mac96");
    options_.tap = "boot0";
    options_.cpus = cpus;
    makeCapsule(images, stagingSize);
}

SwitchedCapsule::~SwitchedCapsule()
{
    if (::setns(before_.get(), CLONE_NEWNET) != 0)
    {
        std::abort(); // what comes after would be in the wrong place
    }
}

void SwitchedCapsule::makeCapsule(const std::filesystem::path& images,
                                  std::uint64_t stagingSize)
{
    capsule_.emplace(capsule::Capsule::create(
        directory(), rig::partsOf(images, stagingSize)));
    machine::EnrolmentRequest request;
    request.name = "boot1";
    request.addressRoot = Secret(rig_.root().view());
    request.site = WipedJson(rig_.site.toJson());
    rig::enrol(*capsule_, options_, images, std::move(request), bootTime);
}

std::string SwitchedCapsule::lastWords() const
{
    return "console: " + tail(readTextFile(directory() / "console", 1U << 20)) +
           "\nswitch agent: " + tail(net_.log());
}

capsule::ModeEnd SwitchedCapsule::run(bool dirty, Milliseconds limit,
                                      const Meanwhile& meanwhile)
{
    opened_ = net_.port()["opened"];
    capsule::RunningMode mode = capsule_->start(options_, dirty);
    if (meanwhile)
    {
        meanwhile(mode);
    }
    capsule::ModeEnd end = mode.finish(limit);
    if (end.timedOut)
    {
        throw TimedOut("a mode does not end; " + lastWords());
    }
    return end;
}

void SwitchedCapsule::cut(bool dirty, const Meanwhile& meanwhile)
{
    opened_ = net_.port()["opened"];
    capsule::RunningMode mode = capsule_->start(options_, dirty);
    meanwhile(mode);
    mode.kill();
}

std::size_t SwitchedCapsule::waitOpen(capsule::RunningMode& mode)
{
    std::size_t before = 0;
    for (const Deadline deadline(bootTime);;)
    {
        // What is there when the port is still shut came before the proof.
        const std::size_t frames = net_.framesOfOthers();
        const Json port = net_.port();
        if (port["state"] == "open" && port["opened"] > opened_)
        {
            return before;
        }
        before += frames;
        if (deadline.passed() || mode.ended(step))
        {
            throw TimedOut("the port does not open; " + lastWords());
        }
    }
}

std::size_t SwitchedCapsule::waitCutOff()
{
    for (const Deadline deadline(bootTime);
         net_.port()["reason"] != "the boot host asked for it";)
    {
        if (deadline.passed())
        {
            throw TimedOut("the port is not cut off; " + lastWords());
        }
        std::this_thread::sleep_for(step);
    }
    return net_.framesOfOthers();
}

void SwitchedCapsule::asHost(const std::function<void(boot::Client&)>& action,
                             const std::string& name)
{
    net_.production().run([&] {
        boot::Client client{
            {SwitchNet::bootAddress, rig_.site.port, tls::bootRole},
            rig_.pki().client(name)};
        action(client);
    });
}

} // namespace airlock::test
