#pragma once

#include "checks.hpp"
#include "common/progress.hpp"
#include "devmodel/vm/guest_shell.hpp"
#include "devmodel/vm/survey.hpp"
#include "domain_watch.hpp"
#include "options.hpp"
#include "tools/rigs/host_rig.hpp"

#include <optional>
#include <string>
#include <vector>

namespace airlock::demo
{

/** One life of the guest: trap, job at the boot server, return. */
struct Life
{
    vm::Trap trap;
    Json job; ///< of the host agent's history, see airlockctl(1)
};

struct StepTime
{
    std::string name;
    double seconds = 0;
};

/** All that the demo has seen. */
struct Outcome
{
    std::string accelerator;
    std::string whyAccelerator;
    std::vector<StepTime> steps;
    std::vector<Life> lives;
    vm::Survey full;     ///< the boot machine, its firmware ready
    vm::Survey stripped; ///< the production machine, guest running
    Json guest;          ///< the last report of airlock-probe
    Checks checks;

    Json toJson() const;
};

/** The story of one guest that is a libvirt domain: started, trapped, booted
 * by the boot server, back on the production machine, rebooted from inside,
 * trapped, booted elsewhere and back again. */
class Story
{
  public:
    /** Before the first thread: enters namespaces. */
    Story(const Options& options, const ProgressStyle& style);

    /** Throws what goes wrong on the way; what the guest does wrong is in the
     * outcome's checks. */
    const Outcome& run();

    rig::HostRig& host() { return *rig_; }

  private:
    void chooseAccelerator();
    void startHost();
    void surveyBootMachine();
    void live(const std::string& name, const std::string& how);
    void start();
    void rebootFromInside();
    void lookAround(const std::string& name);
    void checkWitness();
    void checkNetwork(const std::string& name, const Json& report);
    void writeMarker(vm::ConsoleShell& shell, const std::string& name);
    void finish(Step& step, const std::string& name, const std::string& note);
    std::string title(const std::string& text)
    {
        return steps_.next() + " " + text;
    }
    /** Whether the guest can be asked: it has a shell on its console. */
    bool hasShell() const { return options_.booted == "shell"; }
    bool ownImage() const;
    vm::ConsoleShell shell()
    {
        return vm::ConsoleShell(rig_->guest().console());
    }

    Options options_;
    ProgressStyle style_;
    StepCounter steps_;
    vm::QemuBuilds qemu_;
    vm::GuestSpec spec_;
    std::optional<rig::HostRig> rig_;
    std::optional<DomainWatch> watch_;
    Json markers_ = Json::object(); ///< name -> digest
    bool witness_ = false;
    Outcome outcome_;
};

} // namespace airlock::demo
