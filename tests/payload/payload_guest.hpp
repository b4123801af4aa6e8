#pragma once

#include "common/error.hpp"
#include "common/file.hpp"
#include "devmodel/handover/section.hpp"
#include "devmodel/vm/hand_over.hpp"

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

namespace airlock::test
{

/** Access widths of the CPU's port and memory instructions, in bytes. */
inline constexpr std::array<unsigned, 3> widths = {1, 2, 4};

/** The bits of an access of that width: what an empty bus reads as. */
constexpr std::uint32_t allOnes(unsigned width)
{
    return width == 4 ? ~0U : (1U << 8 * width) - 1;
}

/** Addresses for the payload's sweep of memory: first, first + step, ... up to
 * last, each one page long and page-aligned. */
struct MemoryRange
{
    std::uint32_t first = 0;
    std::uint32_t last = 0;
    std::uint32_t step = 0x1000;
};

/** A read that gave something else than all ones. */
struct Mismatch
{
    std::uint32_t address = 0;
    std::uint32_t width = 0;
    std::uint32_t value = 0;
};
std::ostream& operator<<(std::ostream& out, const Mismatch& mismatch);

/** What a sweep found. */
struct Findings
{
    std::uint32_t done = 0;    ///< ports or pages
    std::uint32_t checked = 0; ///< accesses to what nothing claims
    std::uint32_t claimed = 0; ///< reads of ports that a device claims
    std::uint32_t mismatches = 0;
    std::vector<Mismatch> list; ///< the first of them
    double seconds = 0;
};

/** The running payload, spoken to through the guest's memory. */
class Payload
{
  public:
    /** `memory` is the memfd that is the guest's RAM; it stays the caller's.
     * Calls `check` while it waits, which may throw to end the wait. */
    Payload(int memory, std::function<void()> check);

    /** Reads and writes one port. */
    std::uint32_t in(std::uint16_t port, unsigned width);
    void out(std::uint16_t port, unsigned width, std::uint32_t value);
    /** Reads and writes physical memory. */
    std::uint32_t peek(std::uint32_t address, unsigned width);
    void poke(std::uint32_t address, unsigned width, std::uint32_t value);

    /** The doors: what the guest does last. Does not wait for it. */
    void startOut(std::uint16_t port, unsigned width, std::uint32_t value);
    void startTripleFault();
    /** The write is vCPU 1's, which the payload starts for it. */
    void startOutByVcpu1(std::uint16_t port, unsigned width,
                         std::uint32_t value);

    /** All 65536 ports in all widths; those in `claimed` are only read. */
    Findings sweepIn(const std::vector<std::uint16_t>& claimed);
    /** Writes a value to all ports but the claimed ones in all widths. */
    Findings sweepOut(const std::vector<std::uint16_t>& claimed,
                      std::uint32_t value);
    /** Reads each page, writes the value to it and reads it again. */
    Findings sweepMemory(const std::vector<MemoryRange>& ranges,
                         std::uint32_t value);

  private:
    std::uint32_t get(std::uint32_t address) const;
    void set(std::uint32_t address, std::uint32_t value);
    void setAccess(std::uint32_t address, unsigned width, std::uint32_t value);
    void setClaimed(const std::vector<std::uint16_t>& ports);
    void run(std::uint32_t command);
    Findings sweep(std::uint32_t command, std::uint32_t value);

    int memory_;
    std::function<void()> check_;
};

/** What selects a register of a device on the root bus, by port 0xcf8. */
constexpr std::uint32_t configAddress(unsigned slot, unsigned offset)
{
    return 0x80000000 | slot << 11 | offset;
}

/** Reads and writes a register in a device's configuration space. */
std::uint32_t readConfig(Payload& payload, unsigned slot, unsigned offset,
                         unsigned width);
void writeConfig(Payload& payload, unsigned slot, unsigned offset,
                 unsigned width, std::uint32_t value);

/** The boot machine did not boot the payload. */
class BootFailed : public Error
{
  public:
    using Error::Error;
};

/** The payload as a guest: booted by firmware on the boot machine, brought to
 * life on one production machine by the real hand-over, any number of times.
 */
class PayloadGuest
{
  public:
    struct Options
    {
        vm::Accelerator accelerator = vm::Accelerator::tcg;
        unsigned vcpus = 1;
        /** Give the production machine one device more than the boot machine
         * has: a virtio-rng at `ioBarSlot` with the legacy interface, and so
         * with an I/O BAR. */
        bool ioBar = false;
    };
    static constexpr unsigned ioBarSlot = 0x06;

    /** Boots the payload and starts the production machine, which is then
     * trapped by its cold start. Throws BootFailed. */
    explicit PayloadGuest(const Options& options);

    vm::ProductionVm& production() { return *production_; }
    vm::Machine& machine() { return production_->machine(); }

    /** Loads the booted payload into the trapped VM; it stays paused. */
    void load();
    /** Loads it and lets it run, links up. */
    void start();
    /** The payload in the VM. */
    Payload payload();

    /** Stops the VM and saves all of its devices; resume() goes on. */
    Bytes stopAndSave();
    void resume() { machine().resume(); }

    double bootSeconds() const { return bootSeconds_; }

  private:
    void bootPayload(const vm::Qemu& qemu);
    vm::BootedGuest boot(const vm::Qemu& qemu);
    void startProduction(const vm::Qemu& qemu);
    void loadWithIoBar();

    TempDirectory directory_;
    Options options_;
    vm::GuestSpec spec_;
    handover::JobTicket job_;
    std::optional<handover::Bundle> bundle_;
    std::optional<vm::ProductionVm> production_;
    double bootSeconds_ = 0;
};

/** The guest under that accelerator. Where the host's KVM does not even run
 * firmware, it is under TCG, and the test's output says so. */
std::unique_ptr<PayloadGuest> makeGuest(vm::Accelerator accelerator,
                                        unsigned vcpus = 1);

/** "kvm" or "tcg", as name of a test. */
std::string acceleratorName(vm::Accelerator accelerator);

/** Which values differ between two states of one machine, as "section: field
 * old -> new", but for those that running code changes: the CPUs' general
 * registers, instruction pointers, flags and TSCs, and the clocks. Both have to
 * have the same sections. */
std::vector<std::string> changedByDevices(ByteView before, ByteView after);

} // namespace airlock::test
