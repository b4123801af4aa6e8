#include "devmodel/handover/admit_rules.hpp"
#include "devmodel/handover/schema_tables/tables.hpp"

#include <array>
#include <cstdlib>

// Interrupt controllers and the lines between devices and them.

namespace airlock::handover::rules
{

namespace
{

// Delivery modes of APIC and I/O APIC.
constexpr std::uint64_t modeFixed = 0;
constexpr std::uint64_t modeLowest = 1;
constexpr std::uint64_t modeNmi = 4;
constexpr std::uint64_t modeExtInt = 7;

constexpr std::uint64_t entryMasked = 1U << 16;
constexpr std::uint64_t entryLevel = 1U << 15;
constexpr std::uint64_t entryRemoteIrr = 1U << 14;

constexpr std::uint64_t deliveryMode(std::uint64_t entry)
{
    return entry >> 8 & 7;
}

// --- Local APIC, hw/intc/apic_common.c and apic.c ---------------------------

constexpr std::uint64_t apicX2 = 1U << 10;
constexpr std::size_t lvtTimer = 0;

/** Base address, identity, and whether it is the boot processor: fixed. */
void apicIdentity(const Subject& subject)
{
    const std::uint64_t x2 = subject.env.cpu.x2apic ? apicX2 : 0;
    subject.require(
        ((subject["apicbase"] ^ subject.reference.number("apicbase")) & ~x2) ==
            0,
        "apicbase", subject["apicbase"],
        "moves or disables the APIC, or makes another CPU the "
        "boot processor");
    subject.same("id");
    // INIT copies id to arb_id (apic.c: apic_deliver()).
    subject.require(subject["arb_id"] == 0 ||
                        subject["arb_id"] == subject["id"],
                    "arb_id", subject["arb_id"], "is not the CPU's");
}

void apicRegisters(const Subject& subject)
{
    subject.onlyBits("spurious_vec", 0x3ff);
    subject.atMost("dest_mode", 0xf);
    subject.onlyBits("esr", 0xff);
    subject.onlyBits("divide_conf", 0xb);
    subject.onlyBits("icr[0]", subject.state.numbers("icr")[0], 0xcdfff);
    if ((subject["apicbase"] & apicX2) == 0)
    {
        subject.onlyBits("icr[1]", subject.state.numbers("icr")[1], 0xff000000);
    }
}

/** Vectors 0 to 15 are exceptions; no CPU takes an interrupt with them. A
 * message with such a vector stays requested for ever in an emulated APIC,
 * which real ones do not record at all (SDM vol. 3, 11.5.2): forgotten. */
void apicIllegalVectors(Subject& subject)
{
    constexpr std::uint64_t legal = 0xffff0000;
    subject.onlyBits(element("isr", 0), subject.state.numbers("isr")[0], legal);
    for (std::string_view field : {"tmr", "irr"})
    {
        subject.state.numbers(field)[0] &= legal;
    }
}

/** Timer, thermal, performance, LINT0, LINT1, error. An SMI or INIT to itself
 * is not for a guest here. */
void apicLocalVectors(const Subject& subject)
{
    const std::uint64_t deadline = subject.env.cpu.x2apic ? 1U << 18 : 0;
    constexpr std::array<std::uint64_t, 6> bits{0x310ff, 0x117ff, 0x117ff,
                                                0x1f7ff, 0x1f7ff, 0x110ff};
    const Numbers& lvt = subject.state.numbers("lvt");
    for (std::size_t i = 0; i < lvt.size(); ++i)
    {
        const std::string field = element("lvt", i);
        subject.onlyBits(field, lvt[i],
                         bits[i] | (i == lvtTimer ? deadline : 0));
        const std::uint64_t mode = deliveryMode(lvt[i]);
        subject.require(mode == modeFixed || mode == modeNmi ||
                            mode == modeExtInt,
                        field, lvt[i], "has a delivery mode that is refused");
    }
}

/** The count shift is a function of the divide register, but for the state
 * after reset, where both are 0 (apic_mem_write(), apic_init_reset()). QEMU
 * shifts by it without a check. */
void apicTimerShift(const Subject& subject)
{
    const std::uint64_t divide = subject["divide_conf"];
    const std::uint64_t encoded = (divide & 3) | (divide >> 1 & 4);
    const std::uint64_t shift = (encoded + 1) & 7;
    subject.require(subject["count_shift"] == shift ||
                        (subject["count_shift"] == 0 && divide == 0),
                    "count_shift", subject["count_shift"],
                    "does not follow from the divide register");
}

/** Times are on the guest's clock. apic.c re-arms a periodic timer from its
 * last expiry, so one far in the past would fire millions of times in a row on
 * the host's main loop; one in the far future is not what a 32-bit count and a
 * shift of at most 7 can give. */
void apicTimer(const Subject& subject, std::int64_t now)
{
    constexpr std::int64_t longest = (1LL << 32) << 7;
    const std::int64_t lag = subject.env.maxTimerLagNs;
    const auto time = [&](std::string_view field) {
        return static_cast<std::int64_t>(subject[field]);
    };
    apicTimerShift(subject);
    const std::int64_t loaded = time("initial_count_load_time");
    subject.require(loaded >= 0 && loaded <= now, "initial_count_load_time",
                    subject["initial_count_load_time"],
                    "is not between the start and the guest's present");
    subject.require(time("next_time") >= 0 &&
                        time("next_time") <= now + longest,
                    "next_time", subject["next_time"],
                    "is further ahead than a timer can be");
    const std::int64_t expiry = time("timer_expiry");
    if (expiry == -1)
    {
        return; // not running
    }
    subject.require(subject["initial_count"] != 0, "timer_expiry",
                    subject["timer_expiry"], "is set without a count");
    subject.require(expiry == time("next_time"), "timer_expiry",
                    subject["timer_expiry"], "is not the next time");
    subject.require(expiry >= now - lag, "timer_expiry",
                    subject["timer_expiry"],
                    "is further behind than a stopped timer can be");
}

/** A CPU that waits to be started. The boot processor never does. */
void apicStartup(const Subject& subject)
{
    constexpr std::uint64_t bootProcessor = 1U << 8;
    const Record* sipi = std::as_const(subject.state).subsection("apic_sipi");
    if (!sipi)
    {
        return;
    }
    subject.require((subject["apicbase"] & bootProcessor) == 0, "apic_sipi",
                    "the boot processor waits to be started");
    subject.require(sipi->number("wait_for_sipi") == 1,
                    "apic_sipi/wait_for_sipi", sipi->number("wait_for_sipi"),
                    "is not 1");
    subject.require(sipi->number("sipi_vector") <= 0xff,
                    "apic_sipi/sipi_vector", sipi->number("sipi_vector"),
                    "is no vector");
}

// --- Lines -------------------------------------------------------------------

constexpr std::size_t pirqCount = 8;
constexpr std::size_t pirqFirstPin = 16; ///< of the I/O APIC
constexpr std::size_t sciPin = 9;
using PirqCounts = std::array<std::uint64_t, pirqCount>;

/** The slot in "0000:00:02.0/virtio-blk". */
unsigned slotOf(const SectionId& id)
{
    constexpr std::size_t slotAt = 8;
    return static_cast<unsigned>(
        std::strtoul(id.idstr.substr(slotAt, 2).c_str(), nullptr, 16));
}

/** How many devices hold each PIRQ: INTA of slot s is on PIRQ s % 4 + 4
 * (ICH9 for slots below 25; airlock_pci_host_map_irq()). A device with
 * interrupts disabled in its command register does not count (pci.c:
 * pci_update_irq_disabled()). */
PirqCounts pirqCounts(const Subjects& subjects)
{
    constexpr std::size_t command = 0x04;
    constexpr unsigned intxDisableHigh = 0x04; // bit 10
    constexpr unsigned slotLimit = 25;
    PirqCounts counts{};
    for (const Subject& subject : subjects)
    {
        const Record& state = subject.state;
        if (!state.has("pci_dev"))
        {
            continue;
        }
        const Record& device = state.record("pci_dev");
        const unsigned slot = slotOf(subject.id);
        if (device.numbers("irq_state")[0] == 0 ||
            (device.bytes("config")[command + 1] & intxDisableHigh) != 0)
        {
            continue;
        }
        subject.require(slot < slotLimit, "pci_dev.irq_state[0]",
                        "no interrupt line leads from this slot");
        ++counts[slot % 4 + 4];
    }
    return counts;
}

bool sciLevel(const Subjects& subjects)
{
    for (const Subject& subject : subjects)
    {
        if (&subject.state.schema() == &tables::airlockPm)
        {
            return (subject["pm1_sts"] & subject["pm1_en"]) != 0;
        }
    }
    return false;
}

/** The I/O APIC's view of its input lines. For level-triggered pins it is the
 * level (ioapic.c: ioapic_set_irq()). An edge on an unmasked pin is delivered
 * at once and one on a masked pin is ignored, so no other bit can stay. */
std::uint64_t inputLines(const Record& ioapic, const PirqCounts& counts,
                         bool sci)
{
    std::uint64_t level = sci ? 1U << sciPin : 0;
    for (std::size_t i = 0; i < pirqCount; ++i)
    {
        level |= counts[i] != 0 ? 1ULL << (pirqFirstPin + i) : 0;
    }
    std::uint64_t lines = 0;
    const Numbers& table = ioapic.numbers("ioredtbl");
    for (std::size_t pin = 0; pin < table.size(); ++pin)
    {
        lines |= (table[pin] & entryLevel) != 0 ? level & 1ULL << pin : 0;
    }
    return lines;
}

} // namespace

// hw/intc/ioapic.c: ioapic_mem_write() lets the guest write every bit but
// delivery status and remote IRR; this allows those with a meaning.
void ioapic(Subject& subject)
{
    constexpr std::uint64_t bits = 0xfffe'0000'0001'efff;
    subject.atMost("id", 0xf);
    const Numbers& table = subject.state.numbers("ioredtbl");
    for (std::size_t pin = 0; pin < table.size(); ++pin)
    {
        const std::uint64_t entry = table[pin];
        const std::string field = element("ioredtbl", pin);
        subject.onlyBits(field, entry, bits);
        const std::uint64_t mode = deliveryMode(entry);
        const bool masked = (entry & entryMasked) != 0;
        // ExtINT would ask an i8259 that is not there for the vector.
        subject.require(mode == modeFixed || mode == modeLowest ||
                            mode == modeNmi || (masked && mode == modeExtInt),
                        field, entry, "has a delivery mode that is refused");
        subject.require((entry & entryRemoteIrr) == 0 ||
                            (entry & entryLevel) != 0,
                        field, entry, "awaits an EOI for an edge");
    }
}

void apics(Subjects& subjects)
{
    const std::int64_t now = virtualClock(subjects);
    for (Subject& subject : subjects)
    {
        if (&subject.state.schema() == &tables::apic)
        {
            apicIdentity(subject);
            apicRegisters(subject);
            apicIllegalVectors(subject);
            apicLocalVectors(subject);
            apicTimer(subject, now);
            apicStartup(subject);
        }
    }
}

// Devices of the boot machine that were dropped may have held lines, too, so
// the levels are worked out again from those that are left.
void interruptLines(Subjects& subjects)
{
    const PirqCounts counts = pirqCounts(subjects);
    const bool sci = sciLevel(subjects);
    for (Subject& subject : subjects)
    {
        if (&subject.state.schema() == &tables::pciBus)
        {
            Numbers& written = subject.state.numbers("irq_count");
            subject.require(written.size() == counts.size(), "nirq",
                            "is not the number of PIRQs");
            written.assign(counts.begin(), counts.end());
        }
        else if (&subject.state.schema() == &tables::ioapic)
        {
            subject.state.number("irr") =
                inputLines(subject.state, counts, sci);
        }
    }
}

} // namespace airlock::handover::rules
