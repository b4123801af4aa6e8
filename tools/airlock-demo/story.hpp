#pragma once

#include "checks.hpp"
#include "common/progress.hpp"
#include "devmodel/vm/guest_shell.hpp"
#include "devmodel/vm/hand_over.hpp"
#include "devmodel/vm/host_network.hpp"
#include "devmodel/vm/survey.hpp"
#include "options.hpp"

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace airlock::demo
{

/** One life of the guest: trap, boot, hand-over. */
struct Life
{
    vm::Trap trap;
    vm::CycleReport cycle;
};

/** All that the demo has seen. */
struct Outcome
{
    std::string accelerator;
    std::string whyAccelerator;
    std::vector<Life> lives;
    vm::Survey full;     ///< the boot machine, guest booted
    vm::Survey stripped; ///< the production machine, guest running
    Json guest;          ///< the last report of airlock-probe
    Checks checks;

    Json toJson() const;
};

/** The story of one guest: started cold on the production machine, trapped,
 * booted on the full machine, handed over, rebooted from inside, trapped,
 * booted and handed over again. */
class Story
{
  public:
    /** `directory`: for the copy of the image, logs and sockets. */
    Story(const Options& options, const ProgressStyle& style,
          const std::filesystem::path& directory);

    /** Throws what goes wrong on the way; what the guest does wrong is in the
     * outcome's checks. */
    const Outcome& run();

    vm::ProductionVm& production() { return *production_; }
    /** Boots the trapped guest once more and hands it over. */
    void bootAgain(const vm::Trap& trap);

  private:
    void prepare();
    void chooseAccelerator();
    vm::Trap startCold();
    vm::Trap rebootFromInside();
    vm::CycleReport cycle(const std::string& name);
    void live(const vm::Trap& trap, const std::string& name);
    void lookAround(const std::string& name);
    void checkNetwork(const std::string& name, const Json& report);
    std::string title(const std::string& text)
    {
        return steps_.next() + " " + text;
    }
    void writeMarker(vm::GuestShell& shell, const std::string& name);
    /** Whether the guest can be asked: it has a shell on its console. */
    bool hasShell() const;

    Options options_;
    ProgressStyle style_;
    StepCounter steps_;
    std::filesystem::path directory_;
    vm::GuestSpec spec_;
    vm::BootSite site_;
    vm::Qemu productionQemu_;
    std::optional<vm::Tap> tap_;
    std::optional<vm::ProductionVm> production_;
    Json markers_ = Json::object(); ///< name -> digest
    Json bootReport_;               ///< from the boot machine, last boot
    std::chrono::steady_clock::time_point bootReportTime_;
    Outcome outcome_;
};

} // namespace airlock::demo
