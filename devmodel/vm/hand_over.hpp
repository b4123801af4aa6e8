#pragma once

#include "common/json.hpp"
#include "devmodel/handover/bundle.hpp"
#include "devmodel/handover/memory_image.hpp"
#include "devmodel/handover/reduce.hpp"
#include "devmodel/vm/boot_vm.hpp"
#include "devmodel/vm/production_vm.hpp"
#include "devmodel/vm/step_clock.hpp"

#include <functional>
#include <string>
#include <vector>

namespace airlock::vm
{

/** What a hand-over did. */
struct HandOverReport
{
    std::vector<StepTime> steps; ///< in the order in which they were done
    std::vector<handover::SectionId> kept;
    std::vector<handover::DroppedSection> dropped;
    handover::MemoryFigures memory;
    Digest memoryRoot{};
    std::size_t receivedBytes = 0; ///< stream of the boot machine
    std::size_t loadedBytes = 0;   ///< stream that was admitted and loaded

    double seconds() const;
    Json toJson() const;
};

/** What a manifest says of the machines that a guest is started on. */
handover::GuestShape shapeOf(const GuestSpec& spec);

/** Throws Refused when a manifest is not the answer to this job, or not of the
 * machine that this guest is started on. */
void requireAnswer(const handover::Manifest& manifest,
                   const handover::JobTicket& job, const GuestSpec& spec);

/** Makes a bundle of what a boot left behind, digests included. */
handover::Bundle makeBundle(BootedGuest guest, const GuestSpec& spec,
                            const handover::JobTicket& job);

/** Takes a guest out of a bundle into the trapped production machine and lets
 * it run there: memory copied and compared with its digests, device state
 * parsed, reduced, admitted and loaded, links up, cont.
 *
 * All or nothing: on any exception the VM is trapped, no code of the guest has
 * run and the disks are as the boot machine left them; another bundle can be
 * handed over then. Refused says what was not acceptable and why: a bundle of
 * another job, a section, a page.
 */
HandOverReport handOver(TrappedVm& production, const handover::Bundle& bundle,
                        const handover::JobTicket& job);

/** The hand-over without its last step: the VM is paused, with its state
 * loaded. */
HandOverReport loadBundle(TrappedVm& production, const handover::Bundle& bundle,
                          const handover::JobTicket& job);

/** Where and how guests are booted. */
struct BootSite
{
    Qemu qemu;
    BootOptions options;
    BootedPolicy policy = BootedShell{};
    Milliseconds timeout = std::chrono::minutes(10);
    std::filesystem::path log;
    /** Told what is being done, several times a second while it takes long;
     * may be empty. */
    std::function<void(const std::string& what)> progress;
};

/** The whole way of one boot. */
struct CycleReport
{
    std::vector<StepTime> boot; ///< start, boot, save, end, bundle
    HandOverReport handOver;
    /** From the trapped guest to the guest running again. */
    double seconds() const;
    Json toJson() const;
};

/** Called with the boot machine as soon as its guest counts as booted. */
using BootedHook = std::function<void(BootVm&)>;

/** Boots the trapped guest on the full machine and brings it back, with a job
 * ticket of its own. All or nothing, as handOver(). The guest's specification
 * needs a UUID. */
CycleReport bootAndHandOver(ProductionVm& production, const BootSite& site,
                            const BootedHook& booted = {});

} // namespace airlock::vm
