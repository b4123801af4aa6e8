#include "tests/unit/admit_guest.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

// I/O APIC, local APICs, interrupt lines, clocks and the power management
// block. The recorded guest has 2 vCPUs and was stopped 41 s after its start;
// its timers run.

namespace
{

using namespace airlock;
using namespace airlock::handover;
using airlock::test::addSubsection;
using airlock::test::Guest;
using airlock::test::Spoil;
using testing::HasSubstr;

constexpr std::uint64_t negative = ~0ULL;
constexpr std::uint64_t maxUptime = 30ULL * 24 * 3600 * 1'000'000'000;

using Change = std::function<void(Record&)>;

Change set(const char* field, std::uint64_t value)
{
    return [=](Record& s) { s.number(field) = value; };
}
Change add(const char* field, std::uint64_t amount)
{
    return [=](Record& s) { s.number(field) += amount; };
}
Change setElement(const char* field, std::size_t index, std::uint64_t value)
{
    return [=](Record& s) { s.numbers(field).at(index) = value; };
}
Change all(std::initializer_list<Change> changes)
{
    return [list = std::vector(changes)](Record& s) {
        for (const Change& change : list)
        {
            change(s);
        }
    };
}
/** A CPU that waits for its start. */
Change waiting(std::uint64_t flag, std::uint64_t vector)
{
    return [=](Record& s) {
        Record& sipi = addSubsection(s, "apic_sipi");
        sipi.number("wait_for_sipi") = flag;
        sipi.number("sipi_vector") = vector;
    };
}

class Irq : public test::Spoiled
{};

TEST_P(Irq, Refuses)
{
    refuses();
}

INSTANTIATE_TEST_SUITE_P(
    IoApic, Irq,
    testing::Values(
        Spoil{"Id", "ioapic", "ioapic/0: id: 0x10 is out of range",
              set("id", 0x10)},
        Spoil{"DeliveryStatus", "ioapic", "ioredtbl[3]: 0x11000 has bits",
              setElement("ioredtbl", 3, 0x11000)},
        Spoil{"Reserved", "ioapic", "ioredtbl[3]: 0x100010000 has bits",
              setElement("ioredtbl", 3, 0x100010000)},
        Spoil{"SystemManagement", "ioapic",
              "ioredtbl[1]: 0x231 has a delivery mode that is refused",
              setElement("ioredtbl", 1, 0x231)},
        Spoil{"SystemManagementMasked", "ioapic",
              "ioredtbl[1]: 0x10231 has a delivery mode that is refused",
              setElement("ioredtbl", 1, 0x10231)},
        Spoil{"Init", "ioapic",
              "ioredtbl[1]: 0x531 has a delivery mode that is refused",
              setElement("ioredtbl", 1, 0x531)},
        Spoil{"External", "ioapic",
              "ioredtbl[0]: 0x700 has a delivery mode that is refused",
              setElement("ioredtbl", 0, 0x700)},
        Spoil{"AwaitsForAnEdge", "ioapic",
              "ioredtbl[23]: 0x4031 awaits an EOI for an edge",
              setElement("ioredtbl", 23, 0x4031)}),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    Apic, Irq,
    testing::Values(
        Spoil{"Moved", "apic", "apic/0: apicbase: 0xfed00900 moves or disable",
              set("apicbase", 0xfed00900)},
        Spoil{"Disabled", "apic", "apicbase: 0xfee00100 moves or disables",
              set("apicbase", 0xfee00100)},
        Spoil{"X2OfAnotherModel", "apic", "apicbase: 0xfee00d00 moves or",
              set("apicbase", 0xfee00d00)},
        Spoil{"TwoBootProcessors", "apic",
              "apic/1: apicbase: 0xfee00900 moves or",
              set("apicbase", 0xfee00900), 1},
        Spoil{"Id", "apic", "apic/1: id: 0x0 differs", set("id", 0), 1},
        Spoil{"ArbitrationId", "apic", "arb_id: 0x7 is not the CPU's",
              set("arb_id", 7)},
        Spoil{"Spurious", "apic", "spurious_vec: 0x5ff has bits",
              set("spurious_vec", 0x5ff)},
        Spoil{"Destination", "apic", "dest_mode: 0x10 is out of range",
              set("dest_mode", 0x10)},
        Spoil{"Errors", "apic", "esr: 0x100 has bits", set("esr", 0x100)},
        Spoil{"Divide", "apic", "divide_conf: 0x7 has bits",
              set("divide_conf", 7)},
        Spoil{"Command", "apic", "icr[0]: 0x100000 has bits",
              setElement("icr", 0, 0x100000)},
        Spoil{"CommandTarget", "apic", "icr[1]: 0x1 has bits",
              setElement("icr", 1, 1)},
        Spoil{"InService", "apic", "isr[0]: 0x8000 has bits",
              setElement("isr", 0, 0x8000)},
        Spoil{"Vector", "apic", "lvt[5]: 0x300fe has bits",
              setElement("lvt", 5, 0x300fe)},
        Spoil{"TimerDeadline", "apic", "lvt[0]: 0x400ec has bits",
              setElement("lvt", 0, 0x400ec)},
        Spoil{"TimerMode", "apic", "lvt[0]: 0x4ec has bits",
              setElement("lvt", 0, 0x4ec)},
        Spoil{"SystemManagement", "apic",
              "lvt[3]: 0x200 has a delivery mode that is refused",
              setElement("lvt", 3, 0x200)},
        Spoil{"Init", "apic",
              "lvt[4]: 0x500 has a delivery mode that is refused",
              setElement("lvt", 4, 0x500)}),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    ApicTimer, Irq,
    testing::Values(
        Spoil{"Shift", "apic", "count_shift: 0x1f does not follow from",
              set("count_shift", 31)},
        Spoil{"ShiftNegative", "apic",
              "count_shift: 0xffffffffffffffff does not follow from",
              set("count_shift", negative)},
        Spoil{"LoadedInTheFuture", "apic",
              "initial_count_load_time: 0x10094c949539 is not between",
              add("initial_count_load_time", 0x100000000000)},
        Spoil{"LoadedBeforeTheStart", "apic",
              "initial_count_load_time: 0xffffffffffffffff is not between",
              set("initial_count_load_time", negative)},
        Spoil{"FarAhead", "apic", "next_time: 0x10095b93a319 is further",
              add("next_time", 0x100000000000)},
        Spoil{"NextNegative", "apic",
              "next_time: 0x8000000000000000 is further",
              set("next_time", 1ULL << 63)},
        Spoil{"WithoutCount", "apic", "timer_expiry: 0x95b93a319 is set witho",
              set("initial_count", 0)},
        Spoil{"NotTheNext", "apic", "timer_expiry: 0x95b93a31a is not the",
              add("timer_expiry", 1)},
        Spoil{"FarBehind", "apic", "timer_expiry: 0x1 is further behind",
              all({set("next_time", 1), set("timer_expiry", 1)})}),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    Startup, Irq,
    testing::Values(
        Spoil{"BootProcessor", "apic",
              "apic/0: apic_sipi: the boot processor waits", waiting(1, 0)},
        Spoil{"Flag", "apic", "apic/1: apic_sipi/wait_for_sipi: 0x2 is not 1",
              waiting(2, 0), 1},
        Spoil{"Vector", "apic",
              "apic/1: apic_sipi/sipi_vector: 0x100 is no vector",
              waiting(1, 0x100), 1},
        Spoil{"VectorNegative", "apic", "apic_sipi/sipi_vector: 0xffffff",
              waiting(1, negative), 1}),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    Clocks, Irq,
    testing::Values(
        Spoil{"TicksNegative", "timer",
              "timer/0: cpu_ticks_offset: 0xffffffffffffffff is beyond",
              set("cpu_ticks_offset", negative)},
        Spoil{"TicksAbsurd", "timer", "cpu_ticks_offset: 0x7ffffff",
              set("cpu_ticks_offset", negative >> 1)},
        Spoil{"ClockNegative", "timer",
              "cpu_clock_offset: 0xffffffffffffffff is beyond",
              set("cpu_clock_offset", negative)},
        Spoil{"ClockAbsurd", "timer", "is beyond the longest boot",
              set("cpu_clock_offset", maxUptime + 1)},
        Spoil{"ClockBehindTheApics", "timer",
              "apic/0: initial_count_load_time: 0x94c949539 is not between",
              set("cpu_clock_offset", 1'000'000)},
        Spoil{"ClockFarFromTheTimers", "timer",
              "apic/0: timer_expiry: 0x95b93a319 is further behind",
              add("cpu_clock_offset", 60'000'000'000)}),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    PowerManagement, Irq,
    testing::Values(Spoil{"Status", "airlock-pm",
                          "airlock-pm/0: pm1_sts: 0x8000 has bits",
                          set("pm1_sts", 0x8000)},
                    Spoil{"Enabled", "airlock-pm", "pm1_en: 0x1 has bits",
                          set("pm1_en", 1)},
                    Spoil{"Control", "airlock-pm", "pm1_cnt: 0x2000 has bits",
                          set("pm1_cnt", 0x2000)}),
    test::spoilName);

// --- kvmclock: in no recording, for those are from TCG -----------------------

Section kvmclock(std::uint64_t clock, int reliable)
{
    ByteWriter out;
    out.be64(clock);
    if (reliable >= 0)
    {
        const std::string name = "kvmclock/clock_is_reliable";
        out.u8(0x05);
        out.u8(static_cast<std::uint8_t>(name.size()));
        out.text(name);
        out.be32(1);
        out.u8(static_cast<std::uint8_t>(reliable));
    }
    return {{"kvmclock", 0, 1}, out.release()};
}

std::string refusedWithClock(std::uint64_t clock, int reliable)
{
    Guest guest;
    guest.env.accelerator = Accelerator::Kvm;
    guest.reference.push_back(kvmclock(1, 1));
    guest.candidate.push_back(kvmclock(clock, reliable));
    return guest.refused();
}

TEST(KvmClock, IsBoundedAndReliable)
{
    EXPECT_EQ(refusedWithClock(40'000'000'000, 1), "");
    EXPECT_THAT(refusedWithClock(negative, 1),
                HasSubstr("kvmclock/0: clock: 0xffffffffffffffff is beyond"));
    EXPECT_THAT(refusedWithClock(maxUptime + 1, 1),
                HasSubstr("is beyond the longest boot"));
    EXPECT_EQ(refusedWithClock(1, 0),
              "kvmclock/0: clock_is_reliable: is not set");
    EXPECT_EQ(refusedWithClock(1, -1),
              "kvmclock/0: clock_is_reliable: is not set");
}

// --- What is worked out again ------------------------------------------------

/** Lets the disk, in slot 8, hold its interrupt line. */
void holdLine(Guest& guest, bool disabled = false)
{
    guest.change("virtio-blk", [&](Record& s) {
        Record& device = s.record("pci_dev");
        Bytes& config = device.bytes("config");
        config.at(config.at(0x34) + 3U) = 0; // MSI-X off
        config.at(5) = disabled ? 4 : 0;     // INTx disable
        device.numbers("irq_state")[0] = 1;
        s.number("isr") = 1;
    });
}

constexpr std::uint64_t level = 0x8000;
constexpr std::size_t pirqOfDisk = 4; // PIRQE: slot 8 modulo 4, plus 4
constexpr std::size_t pinOfDisk = 20;

TEST(IllegalVectors, RequestsForThemAreForgotten)
{
    Guest guest;
    guest.change("apic", [](Record& s) {
        s.numbers("tmr")[0] = 0x10001;
        s.numbers("irr")[0] = 0x80000000 | 0x4001;
    });
    EXPECT_EQ(guest.admitted("apic").numbers("tmr")[0], 0x10000U);
    EXPECT_EQ(guest.admitted("apic").numbers("irr")[0], 0x80000000U);
}

TEST(LinesRewritten, LevelsAreThoseOfTheDevicesThatAreLeft)
{
    Guest guest;
    guest.change("ioapic", [](Record& s) {
        s.number("irr") = 0xffffff;
        s.numbers("ioredtbl")[pinOfDisk] = level | 0x31;
    });
    guest.change("PCIBUS",
                 [](Record& s) { s.numbers("irq_count").assign(8, 3); });
    EXPECT_EQ(guest.admitted("ioapic").number("irr"), 0U);
    EXPECT_EQ(guest.admitted("PCIBUS").numbers("irq_count"), Numbers(8));

    holdLine(guest);
    EXPECT_EQ(guest.admitted("ioapic").number("irr"), 1U << pinOfDisk);
    Numbers counts(8);
    counts[pirqOfDisk] = 1;
    EXPECT_EQ(guest.admitted("PCIBUS").numbers("irq_count"), counts);
}

TEST(LinesRewritten, ADisabledLineDoesNotCount)
{
    Guest guest;
    holdLine(guest, true);
    EXPECT_EQ(guest.admitted("PCIBUS").numbers("irq_count"), Numbers(8));
}

TEST(LinesRewritten, EdgesAreNotKept)
{
    Guest guest;
    holdLine(guest);
    guest.change("ioapic",
                 [](Record& s) { s.numbers("ioredtbl")[pinOfDisk] = 0x31; });
    EXPECT_EQ(guest.admitted("ioapic").number("irr"), 0U);
}

TEST(LinesRewritten, PowerButtonHoldsTheSci)
{
    constexpr std::uint64_t powerButton = 0x100;
    Guest guest;
    guest.change("airlock-pm", set("pm1_sts", powerButton));
    EXPECT_EQ(guest.admitted("ioapic").number("irr"), 1U << 9);
    guest.change("airlock-pm", set("pm1_en", 0));
    EXPECT_EQ(guest.admitted("ioapic").number("irr"), 0U);
}

// --- What a guest may do -----------------------------------------------------

TEST(IrqAdmitted, GuestsChoices)
{
    Guest guest;
    guest.change("ioapic", all({set("id", 2), set("ioregsel", 0xff),
                                setElement("ioredtbl", 0, 0x10700),
                                setElement("ioredtbl", 1, 0xff00000000000431),
                                setElement("ioredtbl", 20, 0xc931)}));
    guest.change("apic",
                 all({set("tpr", 0xff), set("log_dest", 0xff),
                      setElement("isr", 7, 0x80000000),
                      setElement("irr", 1, 0x10), setElement("tmr", 1, 0x10),
                      setElement("lvt", 3, 0x8700), set("esr", 0x80)}));
    guest.change("airlock-pm",
                 all({set("pm1_sts", 0x100), set("pm1_cnt", 0x1c02)}));
    EXPECT_EQ(guest.refused(), "");
}

TEST(IrqAdmitted, TimersThatDoNotRun)
{
    Guest guest;
    guest.change("apic", all({set("timer_expiry", negative),
                              set("initial_count", 0), set("next_time", 0)}));
    EXPECT_EQ(guest.refused(), "");
}

TEST(IrqAdmitted, CpusThatWaitForTheirStart)
{
    Guest guest;
    guest.change("apic", waiting(1, 0x9a), 1);
    EXPECT_EQ(guest.refused(), "");
}

TEST(IrqAdmitted, X2ApicOfAWideModel)
{
    Guest guest;
    guest.env.cpu = CpuContract::wide();
    guest.change("apic", all({set("apicbase", 0xfee00d00),
                              setElement("icr", 1, 0x12345678),
                              setElement("lvt", 0, 0x400ec)}));
    EXPECT_EQ(guest.refused(), "");
}

} // namespace
