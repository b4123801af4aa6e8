/** Every port and a sample of memory of the production machine, from inside a
 * guest. The guest is a payload that a test tells what to read and write.
 *
 * What the machine does with words and dwords that touch two owners: QEMU
 * gives an access whole to the owner of its first port. A word at 0x63 is the
 * empty bus's, and nothing of it reaches 0x64; a word at 0x64 is the trap's,
 * which takes its low byte and answers for the other one as the empty bus
 * would. Real hardware splits such accesses. No driver makes them, and the
 * rule is safe: what is written next to a claimed port cannot leak into it.
 * The ports of PCI configuration are QEMU's own code, which takes only
 * aligned accesses. */
#include "devmodel/vm/survey.hpp"
#include "tests/payload/payload_guest.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace airlock::test
{
namespace
{

constexpr unsigned portCount = 0x10000;
constexpr Milliseconds powerOffTime = std::chrono::seconds(30);
constexpr std::size_t mtreeMax = 4U << 20;

constexpr std::uint16_t sysctl = 0x61;
constexpr std::uint16_t kbd = 0x64;
constexpr std::uint16_t pmStatus = 0x600;
constexpr std::uint16_t pmEnable = 0x602;
constexpr std::uint16_t pmControl = 0x604;
constexpr std::uint16_t pmTimer = 0x608;
constexpr std::uint16_t pciAddress = 0xcf8;
constexpr std::uint16_t resetControl = 0xcf9;
constexpr std::uint16_t pciData = 0xcfc;

constexpr std::uint32_t powerButton = 0x100;
constexpr std::uint32_t sciEnabled = 1;
constexpr std::uint32_t powerOff = 0x2000; // SLP_EN with type 0, S5

/** Each of them would do something if it came through to a door: pulse reset
 * at 0x64, reset at 0xcf9, power off at 0x604. */
constexpr std::array<std::uint32_t, 4> patterns = {0xfefefefe, 0x06060606,
                                                   0x20202020, 0xffffffff};

/** All ports that the production machine has, without PCI BARs. */
const std::vector<vm::AddressRange>& claimedRanges()
{
    static const std::vector<vm::AddressRange> ranges = {
        {0x61, 0x61, "airlock-trap-sysctl"},
        {0x64, 0x64, "airlock-trap-kbd"},
        {0x600, 0x603, "airlock-pm-evt"},
        {0x604, 0x605, "airlock-pm-cnt"},
        {0x608, 0x60b, "airlock-pm-tmr"},
        {0xcf8, 0xcf8, "pci-conf-idx"},
        {0xcf9, 0xcf9, "airlock-trap-rst-cnt"},
        {0xcfa, 0xcfb, "pci-conf-idx"},
        {0xcfc, 0xcff, "pci-conf-data"},
    };
    return ranges;
}

std::vector<std::uint16_t> claimedPorts()
{
    std::vector<std::uint16_t> out;
    for (const vm::AddressRange& range : claimedRanges())
    {
        for (std::uint64_t port = range.first; port <= range.last; port++)
        {
            out.push_back(static_cast<std::uint16_t>(port));
        }
    }
    return out;
}

std::string memoryTree(vm::Machine& machine)
{
    Json answer = machine.qmp().execute("human-monitor-command",
                                        {{"command-line", "info mtree -f"}});
    return JsonField(answer, "info mtree").string(mtreeMax);
}

/** What a read gives of a register of `length` bytes at `base`: beyond it the
 * bus is empty. */
std::uint32_t seen(std::uint32_t value, unsigned length, unsigned offset,
                   unsigned width)
{
    std::uint64_t bus = ~0ULL << 8 * length;
    return static_cast<std::uint32_t>((bus | value) >> 8 * offset) &
           allOnes(width);
}

void expectRegister(Payload& payload, std::uint16_t base, unsigned length,
                    std::uint32_t value)
{
    for (unsigned offset = 0; offset < length; offset++)
    {
        for (unsigned width : widths)
        {
            auto port = static_cast<std::uint16_t>(base + offset);
            EXPECT_EQ(payload.in(port, width),
                      seen(value, length, offset, width))
                << fmt::format("port {:#x}, {} bytes", port, width);
        }
    }
}

void expectSwept(const Findings& findings, const char* what)
{
    std::size_t unclaimed = portCount - claimedPorts().size();
    EXPECT_EQ(findings.done, portCount);
    EXPECT_EQ(findings.checked, unclaimed * widths.size());
    EXPECT_EQ(findings.mismatches, 0U);
    for (const Mismatch& mismatch : findings.list)
    {
        ADD_FAILURE() << mismatch;
    }
    fmt::print("{}: {} ports, {} accesses to unclaimed ones, {:.2f} s\n", what,
               findings.done, findings.checked, findings.seconds);
    std::fflush(stdout);
}

void expectNothingChanged(ByteView before, ByteView after)
{
    for (const std::string& change : changedByDevices(before, after))
    {
        ADD_FAILURE() << change;
    }
}

class Ports : public testing::TestWithParam<vm::Accelerator>
{};

TEST_P(Ports, UnclaimedAreEmpty)
{
    auto made = makeGuest(GetParam(), 2);
    PayloadGuest& guest = *made;
    guest.start();
    Payload payload = guest.payload();
    std::vector<std::uint16_t> claimed = claimedPorts();
    // A state that is not the one after reset, so that a loss would show.
    payload.out(pmEnable, 2, powerButton);

    Bytes before = guest.stopAndSave();
    guest.resume();
    Findings reads = payload.sweepIn(claimed);
    expectSwept(reads, "read");
    EXPECT_EQ(reads.claimed, claimed.size() * widths.size());
    // An exit of KVM takes long; half of the patterns then have to do.
    bool kvm = GetParam() == vm::Accelerator::kvm;
    for (std::size_t i = 0; i < patterns.size(); i += kvm ? 2 : 1)
    {
        std::uint32_t pattern = patterns.at(i);
        expectSwept(payload.sweepOut(claimed, pattern),
                    fmt::format("written {:#x}", pattern).c_str());
    }
    expectSwept(payload.sweepIn(claimed), "read again");
    expectNothingChanged(before, guest.stopAndSave());
    EXPECT_FALSE(guest.production().trap());
    EXPECT_TRUE(guest.machine().process().running());
}

TEST(PortMap, ClaimedAreTheOnesKnown)
{
    PayloadGuest guest({});
    guest.load();
    std::vector<vm::AddressRange> ranges =
        vm::flatRanges(memoryTree(guest.machine()), "I/O");
    ASSERT_EQ(ranges.size(), claimedRanges().size());
    for (std::size_t i = 0; i < ranges.size(); i++)
    {
        EXPECT_EQ(ranges[i].name, claimedRanges()[i].name);
        EXPECT_EQ(describe(ranges[i]), describe(claimedRanges()[i]));
    }
}

/** Reads, and what may be written to a door without opening it. */
void expectDoorsWork(Payload& payload)
{
    expectRegister(payload, sysctl, 1, 0x20);
    expectRegister(payload, kbd, 1, 0x00);
    expectRegister(payload, resetControl, 1, 0x00);
    struct Write
    {
        std::uint16_t port;
        unsigned width;
        std::uint32_t value;
    };
    constexpr std::array<Write, 12> harmless = {{
        {sysctl, 1, 0xff},
        {sysctl, 4, 0xfefefefe},
        {kbd, 1, 0x00},
        {kbd, 1, 0xd1}, // write output port
        {kbd, 1, 0xff}, // pulses no line
        {kbd, 2, 0xfe00},
        {kbd, 4, 0xfefefeff},
        {kbd - 1, 2, 0xfefe},
        {resetControl, 1, 0x02}, // selects the kind of reset
        {resetControl, 2, 0x0602},
        {resetControl, 4, 0x06060602},
        {resetControl - 1, 2, 0x0606},
    }};
    for (const Write& write : harmless)
    {
        payload.out(write.port, write.width, write.value);
    }
    expectRegister(payload, sysctl, 1, 0x20);
    expectRegister(payload, kbd, 1, 0x00);
}

void expectPmRegisters(Payload& payload)
{
    payload.out(pmEnable, 2, 0);
    expectRegister(payload, pmStatus, 4, 0);
    expectRegister(payload, pmControl, 2, sciEnabled);

    // Each byte by itself; the enable bits are 5, 8 and 10.
    payload.out(pmEnable, 1, 0xff);
    expectRegister(payload, pmStatus, 4, 0x20U << 16);
    payload.out(pmEnable + 1, 1, 0xff);
    expectRegister(payload, pmStatus, 4, 0x520U << 16);
    payload.out(pmEnable, 1, 0);
    expectRegister(payload, pmStatus, 4, 0x500U << 16);
    payload.out(pmStatus, 4, powerButton << 16);
    expectRegister(payload, pmStatus, 4, powerButton << 16);

    // What is written behind a block goes nowhere, neither into the block
    // again nor into the next one.
    payload.out(pmEnable, 4, powerOff << 16 | powerButton);
    expectRegister(payload, pmStatus, 4, powerButton << 16);
    payload.out(pmControl, 4, powerOff << 16 | 2);
    expectRegister(payload, pmControl, 2, sciEnabled | 2);
    payload.out(pmControl + 1, 4, powerOff);
    payload.out(pmControl, 2, 0x0400); // a sleep type, and not enabled
    expectRegister(payload, pmControl, 2, 0x0400 | sciEnabled);
    payload.out(pmControl, 2, 0x3c00); // enabled, a type that is not there
    payload.out(pmControl, 2, 0);
    expectRegister(payload, pmControl, 2, sciEnabled);
}

void expectPowerButton(Payload& payload, vm::Machine& machine)
{
    machine.qmp().execute("system_powerdown");
    expectRegister(payload, pmStatus, 4, powerButton << 16 | powerButton);
    payload.out(pmStatus, 1, 0xff); // the other byte
    EXPECT_EQ(payload.in(pmStatus, 2), powerButton);
    payload.out(pmStatus + 1, 1, 0x01);
    expectRegister(payload, pmStatus, 4, powerButton << 16);
}

/** A 24-bit counter that goes round in 4.7 s. */
void expectPmTimer(Payload& payload)
{
    constexpr std::uint32_t mask = 0xffffff;
    std::uint32_t first = payload.in(pmTimer, 4);
    payload.out(pmTimer, 4, 0);
    std::uint32_t second = payload.in(pmTimer, 4);
    EXPECT_EQ(first >> 24, 0U);
    EXPECT_NE(second, first);
    EXPECT_LT((second - first) & mask, mask / 2) << "it went back";
    EXPECT_EQ(payload.in(pmTimer + 3, 1), 0U);
    EXPECT_EQ(payload.in(pmTimer + 3, 2), 0xff00U);
    EXPECT_EQ(payload.in(pmTimer + 3, 4), 0xffffff00U);
    EXPECT_EQ(payload.in(pmTimer + 2, 4) >> 8, 0xffff00U);
}

/** The address register is one dword; narrower writes are not for it. */
void expectPciAddress(Payload& payload)
{
    constexpr std::uint32_t address = configAddress(3, 0x10);
    payload.out(pciAddress, 4, address);
    EXPECT_EQ(payload.in(pciAddress, 4), address);
    EXPECT_EQ(payload.in(pciAddress, 2), address & 0xffff);
    EXPECT_EQ(payload.in(pciAddress, 1), address & 0xff);
    payload.out(pciAddress, 1, 0xff);
    payload.out(pciAddress, 2, 0xffff);
    payload.out(pciAddress + 2, 1, 0xff);
    payload.out(pciAddress + 2, 2, 0xffff);
    payload.out(pciAddress + 3, 1, 0xff);
    EXPECT_EQ(payload.in(pciAddress, 4), address);
}

void expectPciData(Payload& payload)
{
    constexpr unsigned hostBridge = 0;
    constexpr unsigned emptySlot = 0x1e;
    constexpr unsigned formerSouthBridge = 0x1f;
    constexpr unsigned interruptLine = 0x3c;
    EXPECT_EQ(readConfig(payload, hostBridge, 0, 4), 0x29c08086U);
    EXPECT_EQ(readConfig(payload, hostBridge, 0, 2), 0x8086U);
    EXPECT_EQ(readConfig(payload, hostBridge, 2, 2), 0x29c0U);
    EXPECT_EQ(readConfig(payload, hostBridge, 1, 1), 0x80U);
    EXPECT_EQ(readConfig(payload, emptySlot, 0, 4), 0xffffffffU);
    EXPECT_EQ(readConfig(payload, formerSouthBridge, 0, 4), 0xffffffffU);
    EXPECT_EQ(readConfig(payload, vm::firstDiskSlot, 0, 4), 0x10421af4U);

    std::uint32_t line =
        readConfig(payload, vm::firstDiskSlot, interruptLine, 1);
    writeConfig(payload, vm::firstDiskSlot, interruptLine, 1, 0x5a);
    EXPECT_EQ(readConfig(payload, vm::firstDiskSlot, interruptLine, 1), 0x5aU);
    writeConfig(payload, vm::firstDiskSlot, interruptLine, 1, line);

    // Nothing is selected without the enable bit.
    payload.out(pciAddress, 4, 0);
    for (unsigned width : widths)
    {
        EXPECT_EQ(payload.in(pciData, width), allOnes(width));
    }
}

TEST_P(Ports, ClaimedOneByOne)
{
    auto made = makeGuest(GetParam());
    PayloadGuest& guest = *made;
    guest.start();
    Payload payload = guest.payload();
    expectDoorsWork(payload);
    expectPmRegisters(payload);
    expectPowerButton(payload, guest.machine());
    expectPmTimer(payload);
    expectPciAddress(payload);
    expectPciData(payload);
    EXPECT_FALSE(guest.production().trap());

    // And the machine can be switched off.
    payload.startOut(pmControl, 2, powerOff);
    Process& process = guest.machine().process();
    process.wait(powerOffTime);
    EXPECT_FALSE(process.running());
}

INSTANTIATE_TEST_SUITE_P(
    Payload, Ports, testing::Values(vm::Accelerator::tcg, vm::Accelerator::kvm),
    [](const auto& accelerator) { return acceleratorName(accelerator.param); });

constexpr unsigned commandRegister = 0x04;
constexpr unsigned bar0Register = 0x10;
constexpr std::uint32_t ioEnable = 1;
constexpr unsigned ioBarSize = 0x20;

void moveBar(Payload& payload, std::uint16_t base)
{
    constexpr unsigned slot = PayloadGuest::ioBarSlot;
    writeConfig(payload, slot, commandRegister, 2, 0);
    writeConfig(payload, slot, bar0Register, 4, base);
    writeConfig(payload, slot, commandRegister, 2, ioEnable);
    ASSERT_EQ(readConfig(payload, slot, bar0Register, 4), base | ioEnable);
    payload.out(pciAddress, 4, 0);
}

/** A BAR lies over a claimed port: the port is still there. */
void expectClaimedWin(Payload& payload)
{
    expectRegister(payload, sysctl, 1, 0x20);
    expectRegister(payload, kbd, 1, 0x00);
    expectRegister(payload, resetControl, 1, 0x00);
    payload.out(pmEnable, 2, powerButton);
    expectRegister(payload, pmControl, 2, sciEnabled);
    EXPECT_EQ(payload.in(pmEnable, 2), powerButton);
    EXPECT_EQ(payload.in(pmTimer + 3, 1), 0U);
    EXPECT_EQ(readConfig(payload, 0, 0, 4), 0x29c08086U);
    payload.out(pciAddress, 4, 0);
}

/** The legacy virtio header (virtio 1.2, 4.1.4.10) behind the BAR: its queue
 * size is the same wherever it is read. */
std::uint32_t queueSize(Payload& payload, std::uint16_t base)
{
    return payload.in(static_cast<std::uint16_t>(base + 0x0c), 2);
}

class PortsUnderBar : public testing::TestWithParam<std::uint16_t>
{};

TEST_P(PortsUnderBar, ClaimedWin)
{
    constexpr std::uint16_t elsewhere = 0xc000;
    std::uint16_t base = GetParam();
    PayloadGuest guest({.ioBar = true});
    guest.start();
    Payload payload = guest.payload();
    moveBar(payload, elsewhere);
    std::uint32_t size = queueSize(payload, elsewhere);
    ASSERT_NE(size, 0xffffU) << "the BAR is not decoded";
    moveBar(payload, base);
    EXPECT_EQ(queueSize(payload, elsewhere), 0xffffU);
    EXPECT_EQ(payload.in(static_cast<std::uint16_t>(base + 0x12), 1), 0U)
        << "the BAR is not decoded where no port is claimed";
    expectClaimedWin(payload);
    // All around it: neither doors nor registers see what is the BAR's.
    std::vector<std::uint16_t> kept = claimedPorts();
    for (unsigned offset = 0; offset < ioBarSize; offset++)
    {
        kept.push_back(static_cast<std::uint16_t>(base + offset));
    }
    EXPECT_EQ(payload.sweepOut(kept, patterns[0]).done, portCount);
    EXPECT_EQ(payload.sweepIn(kept).mismatches, 0U);
    expectClaimedWin(payload);

    // The doors still open, and the next load finds no trace of the BAR.
    std::uint64_t count = 1;
    for (auto [port, value] : {std::pair{kbd, 0xfeU}, {resetControl, 0x06U}})
    {
        payload.startOut(port, 1, value);
        vm::Trap trap = guest.production().waitTrap(powerOffTime);
        EXPECT_EQ(trap.cause, "port");
        EXPECT_EQ(trap.port, port);
        EXPECT_EQ(trap.value, value);
        EXPECT_EQ(trap.count, ++count);
        guest.start();
        EXPECT_EQ(queueSize(payload, base), 0xffffU);
        moveBar(payload, base);
    }
    expectClaimedWin(payload);
}

/** Over the doors of the keyboard controller, the PM block, and PCI
 * configuration with the reset control register. */
INSTANTIATE_TEST_SUITE_P(IoBar, PortsUnderBar,
                         testing::Values(0x60, 0x600, 0xce0),
                         [](const auto& base) {
                             return fmt::format("at_{:#x}", base.param);
                         });

constexpr std::uint64_t fourGib = 1ULL << 32;
constexpr std::uint32_t page = 0x1000;
constexpr std::uint32_t stubPage = 0xfffff000;

/** Gaps between what the machine decodes, from RAM to the reset stub. */
std::vector<MemoryRange> gaps(std::vector<vm::AddressRange> decoded,
                              std::uint64_t ram)
{
    /** Pages between two looks: prime, so that no device with a power of two
     * as its size hides. */
    constexpr std::uint32_t stride = 127 * page;
    decoded.push_back({stubPage, fourGib - 1, "stub"});
    std::sort(decoded.begin(), decoded.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<MemoryRange> out;
    std::uint64_t free = ram;
    for (const vm::AddressRange& range : decoded)
    {
        std::uint64_t start = range.first & ~std::uint64_t{page - 1};
        if (range.first >= fourGib || range.last < ram)
        {
            continue;
        }
        if (start > free)
        {
            auto first = static_cast<std::uint32_t>(free);
            auto last = static_cast<std::uint32_t>(start - page);
            out.push_back({first, last, stride});
            out.push_back({last, last, page});
        }
        free = std::max(free, (range.last + page) & ~std::uint64_t{page - 1});
    }
    return out;
}

bool touches(const std::vector<MemoryRange>& ranges, std::uint32_t address)
{
    return std::any_of(ranges.begin(), ranges.end(), [&](const auto& range) {
        return address >= range.first && address <= range.last;
    });
}

/** Where PCs have what this machine lacks: TPM, HPET, south bridge, flash. */
constexpr std::array<std::uint32_t, 6> missing = {
    0xfed00000, 0xfed1c000, 0xfed40000, 0xfed90000, 0xffc00000, 0xffff0000};

TEST(Memory, UnclaimedIsEmpty)
{
    PayloadGuest guest({});
    guest.start();
    Payload payload = guest.payload();
    std::vector<MemoryRange> ranges =
        gaps(vm::flatRanges(memoryTree(guest.machine()), "memory"),
             guest.production().spec().memory);
    for (std::uint32_t address : missing)
    {
        EXPECT_TRUE(touches(ranges, address)) << fmt::format("{:#x}", address);
        ranges.push_back({address, address, page});
    }
    ranges.push_back({0xa0000, 0xbf000, page}); // the graphics window

    Bytes before = guest.stopAndSave();
    guest.resume();
    for (std::uint32_t pattern : {0xfefefefeU, 0U})
    {
        Findings findings = payload.sweepMemory(ranges, pattern);
        EXPECT_GT(findings.done, 1000U);
        EXPECT_EQ(findings.mismatches, 0U);
        for (const Mismatch& mismatch : findings.list)
        {
            ADD_FAILURE() << mismatch;
        }
        fmt::print("memory: {} pages in {} ranges, {} reads, {:.2f} s\n",
                   findings.done, ranges.size(), findings.checked,
                   findings.seconds);
    }
    expectNothingChanged(before, guest.stopAndSave());
}

/** mov $0xfe, %al; out %al, $0x64: a guest cannot take it away. */
TEST(Memory, ResetStubIsRom)
{
    constexpr std::uint32_t stub = 0xfffffff0;
    PayloadGuest guest({});
    guest.start();
    Payload payload = guest.payload();
    EXPECT_EQ(payload.peek(stub, 4), 0x64e6feb0U);
    for (unsigned width : widths)
    {
        payload.poke(stub, width, 0);
    }
    EXPECT_EQ(payload.peek(stub, 4), 0x64e6feb0U);
    EXPECT_EQ(payload.peek(stub + 4, 2), 0xfcebU);
}

} // namespace
} // namespace airlock::test
