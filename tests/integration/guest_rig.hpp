#pragma once

#include "common/json.hpp"
#include "devmodel/vm/guest_shell.hpp"
#include "devmodel/vm/hand_over.hpp"
#include "guest_files.hpp"

#include <chrono>
#include <map>
#include <memory>
#include <string>

namespace airlock::test
{

/** One guest on the production machine, and what the test remembers of it. */
class GuestRig
{
  public:
    explicit GuestRig(const GuestCase& guest);

    vm::ProductionVm& production() { return *production_; }
    const GuestFiles& files() const { return files_; }

    /** Boots the trapped guest and hands it over; on the way asks the guest on
     * the boot machine for a report and lets it write a marker. */
    vm::CycleReport boot();

    /** Asks the guest on the production machine for a report, and fails the
     * test for everything that is not well (EXPECT): another boot id than on
     * the boot machine, uptime back, silent vCPUs, failed units, trouble in
     * dmesg, a lost marker, no carrier, a clock that jumped. */
    void expectWell();

    /** Reboots from inside; the trap that it ended in. */
    vm::Trap rebootFromInside();

    /** The guest's own word (airlock-probe), boot machine, last boot. */
    const Json& bootReport() const { return bootReport_; }
    const Json& lastReport() const { return lastReport_; }

  private:
    void mark(vm::GuestShell& shell, const std::string& name);
    void expectMarkers();

    GuestFiles files_;
    std::unique_ptr<vm::ProductionVm> production_;
    std::map<std::string, std::string> markers_; ///< name -> sha256
    Json bootReport_;
    std::chrono::steady_clock::time_point bootReportTime_;
    Json lastReport_;
    unsigned boots_ = 0;
};

} // namespace airlock::test
