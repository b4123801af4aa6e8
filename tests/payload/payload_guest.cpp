#include "tests/payload/payload_guest.hpp"

#include "common/error.hpp"
#include "devmodel/handover/admit.hpp"
#include "devmodel/handover/schema.hpp"
#include "devmodel/handover/stream.hpp"
#include "tests/payload/port_payload.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>

namespace airlock::test
{

namespace
{

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t memorySize = 64ULL << 20;
/** The firmware takes a disk only with two whole cylinders. */
constexpr std::uintmax_t diskSize = 1U << 20;
constexpr Milliseconds bootTime = std::chrono::minutes(1);
constexpr Milliseconds trapTime = std::chrono::seconds(30);
constexpr Milliseconds commandTime = std::chrono::minutes(2);
constexpr Milliseconds pollStep{1};
constexpr std::uint16_t pciAddress = 0xcf8;
constexpr std::uint16_t pciData = 0xcfc;

std::filesystem::path copyPayload(const std::filesystem::path& directory)
{
    std::filesystem::path disk = directory / "payload.raw";
    std::filesystem::copy_file(PORT_PAYLOAD_IMAGE, disk);
    std::filesystem::resize_file(disk, diskSize);
    return disk;
}

vm::GuestSpec specFor(const PayloadGuest::Options& options,
                      const std::filesystem::path& disk)
{
    vm::GuestSpec spec;
    spec.name = "payload";
    spec.uuid = "4c1be0a3-52d7-4b0a-9f6e-2d6a1c7f0b58";
    spec.vcpus = options.vcpus;
    spec.memory = memorySize;
    spec.accelerator = options.accelerator;
    if (options.accelerator == vm::Accelerator::kvm)
    {
        // Hosts that have KVM for real mode only may lack features of later
        // models; the payload needs none of them.
        spec.cpuModel = "pentium3-v1";
    }
    spec.disks = {{disk, false}};
    spec.nics = {{"52:54:00:a1:0c:07"}};
    return spec;
}

bool changesByRunning(const std::string& section, const std::string& field,
                      bool kvm)
{
    if (section == "cpu")
    {
        // Which parts of the vector state are in use is the host CPU's own
        // bookkeeping: registers that hold zeros may count as unused (SDM
        // volume 1, 13.6). The registers themselves are compared.
        return field.starts_with("env.regs") || field == "env.eip" ||
               field == "env.eflags" || field == "env.tsc" ||
               (kvm && field == "env.xstate_bv");
    }
    if (section == "apic")
    {
        // With KVM's APIC, QEMU fills in the time of saving (hw/i386/kvm/
        // apic.c: kvm_get_apic_state()).
        return kvm && field == "initial_count_load_time";
    }
    return section == "timer" || section == "kvmclock";
}

} // namespace

std::ostream& operator<<(std::ostream& out, const Mismatch& mismatch)
{
    return out << fmt::format("{:#x}, {} bytes: {:#x}", mismatch.address,
                              mismatch.width, mismatch.value);
}

Payload::Payload(int memory, std::function<void()> check)
    : memory_(memory), check_(std::move(check))
{
    if (get(MAILBOX_MAGIC) != PAYLOAD_MAGIC)
    {
        throw Error("the payload is not in the guest's memory");
    }
}

std::uint32_t Payload::get(std::uint32_t address) const
{
    std::array<std::uint8_t, 4> bytes{};
    readExactAt(memory_, bytes, address);
    std::uint32_t value = 0;
    for (unsigned i = 4; i-- > 0;)
    {
        value = value << 8 | bytes.at(i);
    }
    return value;
}

void Payload::set(std::uint32_t address, std::uint32_t value)
{
    std::array<std::uint8_t, 4> bytes{};
    for (unsigned i = 0; i < 4; i++)
    {
        bytes.at(i) = static_cast<std::uint8_t>(value >> 8 * i);
    }
    writeAllAt(memory_, bytes, address);
}

void Payload::setAccess(std::uint32_t address, unsigned width,
                        std::uint32_t value)
{
    set(MAILBOX_ADDRESS, address);
    set(MAILBOX_WIDTH, width);
    set(MAILBOX_VALUE, value);
}

void Payload::run(std::uint32_t command)
{
    Deadline deadline(commandTime);
    set(MAILBOX_COMMAND, command);
    while (get(MAILBOX_COMMAND) != PAYLOAD_IDLE)
    {
        if (deadline.passed())
        {
            throw TimedOut(fmt::format("the payload does not finish command "
                                       "{}, it came to {:#x}",
                                       command, get(MAILBOX_PROGRESS)));
        }
        check_();
        std::this_thread::sleep_for(pollStep);
    }
}

std::uint32_t Payload::in(std::uint16_t port, unsigned width)
{
    setAccess(port, width, 0);
    run(PAYLOAD_IN);
    return get(MAILBOX_VALUE);
}

void Payload::out(std::uint16_t port, unsigned width, std::uint32_t value)
{
    setAccess(port, width, value);
    run(PAYLOAD_OUT);
}

std::uint32_t Payload::peek(std::uint32_t address, unsigned width)
{
    setAccess(address, width, 0);
    run(PAYLOAD_PEEK);
    return get(MAILBOX_VALUE);
}

void Payload::poke(std::uint32_t address, unsigned width, std::uint32_t value)
{
    setAccess(address, width, value);
    run(PAYLOAD_POKE);
}

void Payload::startOut(std::uint16_t port, unsigned width, std::uint32_t value)
{
    setAccess(port, width, value);
    set(MAILBOX_COMMAND, PAYLOAD_OUT);
}

void Payload::startOutByVcpu1(std::uint16_t port, unsigned width,
                              std::uint32_t value)
{
    setAccess(port, width, value);
    set(MAILBOX_COMMAND, PAYLOAD_OUT_BY_VCPU1);
}

void Payload::startTripleFault()
{
    set(MAILBOX_COMMAND, PAYLOAD_TRIPLE_FAULT);
}

void Payload::setClaimed(const std::vector<std::uint16_t>& ports)
{
    Bytes map(PORT_MAP_SIZE, 0);
    for (unsigned port : ports)
    {
        map.at(port / 8) |= static_cast<std::uint8_t>(1U << port % 8);
    }
    writeAllAt(memory_, map, PORT_MAP);
}

Findings Payload::sweep(std::uint32_t command, std::uint32_t value)
{
    set(MAILBOX_PROGRESS, 0);
    set(MAILBOX_CHECKED, 0);
    set(MAILBOX_CLAIMED, 0);
    set(MAILBOX_MISMATCHES, 0);
    set(MAILBOX_VALUE, value);
    Clock::time_point start = Clock::now();
    run(command);

    Findings out;
    out.seconds = std::chrono::duration<double>(Clock::now() - start).count();
    out.done = get(MAILBOX_PROGRESS);
    out.checked = get(MAILBOX_CHECKED);
    out.claimed = get(MAILBOX_CLAIMED);
    out.mismatches = get(MAILBOX_MISMATCHES);
    for (std::uint32_t i = 0; i < out.mismatches && i < MAILBOX_LIST_MAX; i++)
    {
        std::uint32_t entry = MAILBOX_LIST + i * MAILBOX_LIST_ENTRY;
        out.list.push_back({get(entry), get(entry + 4), get(entry + 8)});
    }
    return out;
}

Findings Payload::sweepIn(const std::vector<std::uint16_t>& claimed)
{
    setClaimed(claimed);
    return sweep(PAYLOAD_SWEEP_IN, 0);
}

Findings Payload::sweepOut(const std::vector<std::uint16_t>& claimed,
                           std::uint32_t value)
{
    setClaimed(claimed);
    return sweep(PAYLOAD_SWEEP_OUT, value);
}

Findings Payload::sweepMemory(const std::vector<MemoryRange>& ranges,
                              std::uint32_t value)
{
    if (ranges.size() >= MEMORY_RANGES_MAX)
    {
        throw Error("too many memory ranges for the payload");
    }
    std::uint32_t entry = MEMORY_RANGES;
    for (const MemoryRange& range : ranges)
    {
        set(entry, range.first);
        set(entry + 4, range.last);
        set(entry + 8, range.step);
        entry += MEMORY_RANGE_ENTRY;
    }
    set(entry + 8, 0);
    return sweep(PAYLOAD_SWEEP_MEMORY, value);
}

std::uint32_t readConfig(Payload& payload, unsigned slot, unsigned offset,
                         unsigned width)
{
    payload.out(pciAddress, 4, configAddress(slot, offset & ~3U));
    return payload.in(static_cast<std::uint16_t>(pciData + (offset & 3)),
                      width);
}

void writeConfig(Payload& payload, unsigned slot, unsigned offset,
                 unsigned width, std::uint32_t value)
{
    payload.out(pciAddress, 4, configAddress(slot, offset & ~3U));
    payload.out(static_cast<std::uint16_t>(pciData + (offset & 3)), width,
                value);
}

PayloadGuest::PayloadGuest(const Options& options)
    : directory_("airlock-payload"), options_(options),
      spec_(specFor(options, copyPayload(directory_.path()))),
      job_(handover::JobTicket::issue(spec_.uuid, 1))
{
    vm::QemuBuilds qemu = vm::findQemuBuilds(vm::defaultBuildDirectory());
    bootPayload(qemu.boot);
    startProduction(qemu.production);
}

vm::BootedGuest PayloadGuest::boot(const vm::Qemu& qemu)
{
    Clock::time_point start = Clock::now();
    vm::BootVm boot(qemu, spec_, {}, directory_.path() / "boot.log");
    boot.waitBooted(vm::BootedSerial{PAYLOAD_BOOTED}, bootTime);
    bootSeconds_ = std::chrono::duration<double>(Clock::now() - start).count();
    boot.save();
    return boot.end();
}

void PayloadGuest::bootPayload(const vm::Qemu& qemu)
{
    try
    {
        bundle_ = vm::makeBundle(boot(qemu), spec_, job_);
    }
    catch (const Error& error)
    {
        throw BootFailed(error.what());
    }
}

void PayloadGuest::startProduction(const vm::Qemu& qemu)
{
    vm::ProductionVm::Options options;
    options.log = directory_.path() / "production.log";
    if (options_.ioBar)
    {
        options.arguments = {
            "-device",
            fmt::format("virtio-rng-pci,id=legacy,bus=pcie.0,addr={:#x},"
                        "disable-legacy=off,rng=entropy,romfile=",
                        ioBarSlot)};
    }
    production_.emplace(qemu, spec_, options);
    vm::Trap trap = production_->waitTrap(trapTime);
    if (trap.cause != "cold-start")
    {
        throw Error("the cold start was trapped as " + vm::describe(trap));
    }
}

void PayloadGuest::load()
{
    if (options_.ioBar)
    {
        loadWithIoBar();
        return;
    }
    vm::loadBundle(*production_, *bundle_, job_);
}

/** No boot machine has a legacy virtio device, and admission lets nobody move
 * an I/O BAR but the guest itself, later on. So the extra device arrives as
 * the production machine has it: in its reset state. */
void PayloadGuest::loadWithIoBar()
{
    int memory = machine().memory();
    bundle_->copyMemoryTo(memory);
    handover::ProductionStream local = handover::parseProductionStream(
        production_->saveState(), handover::sectionSize);
    std::vector<handover::Section> candidate =
        handover::reduce(
            handover::parseBootStream(bundle_->deviceState()).sections)
            .kept;
    std::string extra = fmt::format("0000:00:{:02x}.0/virtio-rng", ioBarSlot);
    for (const handover::Section& section : local.sections)
    {
        if (section.id.idstr == extra)
        {
            candidate.push_back(section);
        }
    }
    auto environment = handover::Environment::forMemory(spec_.memory);
    environment.vcpus = spec_.vcpus;
    environment.read = [memory](std::uint64_t address,
                                std::span<std::uint8_t> out) {
        bool inside = address < memorySize && out.size() < memorySize - address;
        if (inside)
        {
            readExactAt(memory, out, address);
        }
        return inside;
    };
    production_->loadState(handover::writeProductionStream(
        local.machine,
        handover::admit(candidate, local.sections, environment)));
}

void PayloadGuest::start()
{
    load();
    production_->resume();
}

Payload PayloadGuest::payload()
{
    return Payload(machine().memory(), [this] {
        if (!machine().process().running())
        {
            throw machine().withLog("QEMU has ended");
        }
        if (auto trap = production_->trap())
        {
            throw Error("the guest was trapped: " + vm::describe(*trap));
        }
    });
}

Bytes PayloadGuest::stopAndSave()
{
    machine().stop();
    return production_->saveState();
}

std::unique_ptr<PayloadGuest> makeGuest(vm::Accelerator accelerator,
                                        unsigned vcpus)
{
    std::string why;
    try
    {
        auto guest = std::make_unique<PayloadGuest>(
            PayloadGuest::Options{.accelerator = accelerator, .vcpus = vcpus});
        fmt::print("{}: the payload booted in {:.1f} s\n",
                   acceleratorName(accelerator), guest->bootSeconds());
        return guest;
    }
    catch (const BootFailed& error)
    {
        if (accelerator != vm::Accelerator::kvm)
        {
            throw;
        }
        why = error.what();
    }
    fmt::print("KVM DOES NOT WORK ON THIS HOST, what follows is TCG: {}\n",
               why);
    return std::make_unique<PayloadGuest>(
        PayloadGuest::Options{.vcpus = vcpus});
}

std::string acceleratorName(vm::Accelerator accelerator)
{
    return accelerator == vm::Accelerator::kvm ? "kvm" : "tcg";
}

std::vector<std::string> changedByDevices(ByteView before, ByteView after)
{
    auto sections = [](ByteView state) {
        return handover::parseProductionStream(state, handover::sectionSize)
            .sections;
    };
    auto leaves = [](const handover::Section& section) {
        return handover::leaves(handover::parseSection(section));
    };
    std::vector<handover::Section> older = sections(before);
    std::vector<handover::Section> newer = sections(after);
    bool kvm = std::any_of(older.begin(), older.end(), [](const auto& section) {
        return section.id.idstr == "kvmclock";
    });
    std::vector<std::string> out;
    for (std::size_t i = 0; i < older.size(); i++)
    {
        const handover::SectionId& id = older[i].id;
        std::vector<handover::Leaf> was = leaves(older[i]);
        std::vector<handover::Leaf> is = leaves(newer.at(i));
        if (id != newer[i].id || was.size() != is.size())
        {
            out.push_back(handover::label(id) + ": has another form");
            continue;
        }
        for (std::size_t k = 0; k < was.size(); k++)
        {
            if (was[k] != is[k] &&
                !changesByRunning(id.idstr, was[k].path, kvm))
            {
                out.push_back(fmt::format("{}: {} {} -> {}",
                                          handover::label(id), was[k].path,
                                          was[k].value, is[k].value));
            }
        }
    }
    return out;
}

} // namespace airlock::test
