#include "devmodel/handover/schema_tables/tables.hpp"

namespace airlock::handover::tables
{

std::span<const Schema* const> all()
{
    static constexpr const Schema* schemas[] = {
        &timer,     &kvmclock,  &airlockPm,     &cpuCommon, &cpu,
        &apic,      &ioapic,    &pciHost,       &pciBus,    &mch,
        &virtioBlk, &virtioNet, &virtioConsole, &virtioRng,
    };
    return schemas;
}

} // namespace airlock::handover::tables
