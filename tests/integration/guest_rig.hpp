#pragma once

#include "common/file.hpp"
#include "common/json.hpp"
#include "devmodel/vm/guest_shell.hpp"
#include "devmodel/vm/hand_over.hpp"

#include <filesystem>
#include <map>
#include <optional>
#include <string>

namespace airlock::test
{

/** What a test wants of its guest. */
struct GuestCase
{
    std::string kernel = "cloud"; ///< of tools/build-image
    unsigned vcpus = 2;
    std::uint64_t memory = 1ULL << 30;
    bool msix = true;

    /** "standard_2cpu_1GiB_msix", good as the name of a test. */
    std::string name() const;
};

/** One guest on a copy of the image, both QEMUs, and what the test remembers
 * of it. Everything goes away with the object. */
class GuestRig
{
  public:
    explicit GuestRig(const GuestCase& guest);

    vm::ProductionVm& production() { return *production_; }
    const vm::GuestSpec& spec() const { return spec_; }
    const vm::BootSite& site() const { return site_; }
    const std::filesystem::path& directory() const { return files_.path(); }

    /** Boots the trapped guest and hands it over; on the way asks the guest on
     * the boot machine for a report and lets it write a marker. */
    vm::CycleReport boot();

    /** Asks the guest on the production machine for a report, and fails the
     * test for everything that is not well (EXPECT): another boot id than on
     * the boot machine, uptime back, silent vCPUs, failed units, trouble in
     * dmesg, a lost marker, no carrier. */
    void expectWell();

    /** Reboots from inside; the trap that it ended in. */
    vm::Trap rebootFromInside();

    /** The guest's own word (airlock-probe), boot machine, last boot. */
    const Json& bootReport() const { return bootReport_; }
    const Json& lastReport() const { return lastReport_; }

  private:
    void mark(vm::GuestShell& shell, const std::string& name);
    void expectMarkers();

    TempDirectory files_;
    vm::GuestSpec spec_;
    vm::BootSite site_;
    std::optional<vm::ProductionVm> production_;
    std::map<std::string, std::string> markers_; ///< name -> sha256
    Json bootReport_;
    Json lastReport_;
    unsigned boots_ = 0;
};

} // namespace airlock::test
