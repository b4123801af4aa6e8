#include "devmodel/handover/schema_tables/fields.hpp"
#include "devmodel/handover/schema_tables/tables.hpp"

// apic: hw/intc/apic_common.c vmstate_apic_common.
// ioapic: hw/intc/ioapic_common.c vmstate_ioapic_common.

namespace airlock::handover::tables
{

namespace
{

constexpr Field sipiFields[] = {
    i32("sipi_vector"),
    i32("wait_for_sipi"),
};
constexpr Schema sipi{"apic_sipi", 1, sipiFields};

constexpr Field apicFields[] = {
    u32("apicbase"),
    u8("id"),
    u8("arb_id"),
    u8("tpr"),
    u32("spurious_vec"),
    u8("log_dest"),
    u8("dest_mode"),
    numbers("isr", Encoding::U32, 8),
    numbers("tmr", Encoding::U32, 8),
    numbers("irr", Encoding::U32, 8),
    numbers("lvt", Encoding::U32, 6),
    u32("esr"),
    numbers("icr", Encoding::U32, 2),
    u32("divide_conf"),
    i32("count_shift"),
    u32("initial_count"),
    i64("initial_count_load_time"),
    i64("next_time"),
    i64("timer_expiry"),
};
constexpr Subsection apicSubsections[] = {
    admitted(sipi),
};

constexpr Field ioapicFields[] = {
    u8("id"),
    u8("ioregsel"),
    unused(8),
    u32("irr"),
    numbers("ioredtbl", Encoding::U64, 24),
};

} // namespace

const Schema apic{"apic", 3, apicFields, apicSubsections};
const Schema ioapic{"ioapic", 3, ioapicFields};

} // namespace airlock::handover::tables
