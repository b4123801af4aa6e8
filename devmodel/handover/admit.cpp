#include "devmodel/handover/admit.hpp"

#include "devmodel/handover/admit_rules.hpp"
#include "devmodel/handover/schema_tables/tables.hpp"
#include "devmodel/handover/stream.hpp"

#include <algorithm>
#include <array>

namespace airlock::handover
{

namespace rules
{

namespace
{

std::string hex(std::uint64_t value)
{
    std::array<char, 19> text{};
    std::snprintf(text.data(), text.size(), "0x%llx",
                  static_cast<unsigned long long>(value));
    return text.data();
}

} // namespace

void Subject::refuse(std::string_view field, std::string_view reason) const
{
    throw Refused(label(id) + ": " + std::string(field), reason);
}

void Subject::refuse(std::string_view field, std::uint64_t value,
                     std::string_view reason) const
{
    refuse(field, hex(value) + " " + std::string(reason));
}

void Subject::same(std::string_view field) const
{
    const std::uint64_t expected = reference.number(field);
    if ((*this)[field] != expected)
    {
        refuse(field, (*this)[field],
               "differs from the production machine's " + hex(expected));
    }
}

void Subject::samePresence(std::string_view subsection) const
{
    const bool here = std::as_const(state).subsection(subsection) != nullptr;
    const bool expected = reference.subsection(subsection) != nullptr;
    if (here != expected)
    {
        refuse(subsection, expected ? "is missing"
                                    : "is not there on the production machine");
    }
}

std::string element(std::string_view field, std::size_t index)
{
    return std::string(field) + "[" + std::to_string(index) + "]";
}

std::int64_t virtualClock(const Subjects& subjects)
{
    auto timer = std::ranges::find_if(subjects, [](const Subject& subject) {
        return &subject.state.schema() == &tables::timer;
    });
    if (timer == subjects.end())
    {
        throw Error("The reference state has no timer section: it was not "
                    "saved by a QEMU of this project");
    }
    return std::as_const(timer->state).signedNumber("cpu_clock_offset");
}

bool inRam(const Environment& env, std::uint64_t address, std::uint64_t size)
{
    constexpr AddressRange firmware{0xa0000, 0x100000};
    constexpr std::uint64_t highStart = 1ULL << 32;
    const AddressRange low{0, env.ramLow};
    const AddressRange high{highStart, highStart + env.ramHigh};
    return (low.contains(address, size) && !firmware.overlaps(address, size)) ||
           high.contains(address, size);
}

} // namespace rules

namespace
{

using Rule = void (*)(rules::Subject&);

/** The rules for one section by its table. The APICs have theirs in
 * rules::apics(), because they need the clock. */
Rule ruleFor(const Schema& schema)
{
    static const std::array<std::pair<const Schema*, Rule>, 13> byTable{{
        {&tables::timer, rules::timer},
        {&tables::kvmclock, rules::kvmclock},
        {&tables::airlockPm, rules::airlockPm},
        {&tables::cpuCommon, rules::cpuCommon},
        {&tables::cpu, rules::cpu},
        {&tables::ioapic, rules::ioapic},
        {&tables::pciHost, rules::pciHost},
        {&tables::pciBus, rules::pciBus},
        {&tables::mch, rules::mch},
        {&tables::virtioBlk, rules::virtioBlk},
        {&tables::virtioNet, rules::virtioNet},
        {&tables::virtioConsole, rules::virtioConsole},
        {&tables::virtioRng, rules::virtioRng},
    }};
    for (const auto& [table, rule] : byTable)
    {
        if (table == &schema)
        {
            return rule;
        }
    }
    return nullptr;
}

const Section& findIn(std::span<const Section> candidate, const SectionId& id)
{
    auto found = std::ranges::find_if(candidate, [&](const Section& section) {
        return section.id.sameDevice(id);
    });
    if (found == candidate.end())
    {
        throw Refused(label(id), "is missing");
    }
    if (found->id.version != id.version)
    {
        throw Refused(label(id), "has version " +
                                     std::to_string(found->id.version) +
                                     ", the production machine has " +
                                     std::to_string(id.version));
    }
    return *found;
}

void refuseExtra(std::span<const Section> candidate,
                 std::span<const SectionId> reference)
{
    for (const Section& section : candidate)
    {
        if (std::ranges::none_of(reference, [&](const SectionId& expected) {
                return expected.sameDevice(section.id);
            }))
        {
            throw Refused(label(section.id),
                          "the production machine has no such device");
        }
    }
}

Record parseReference(const Section& section)
{
    try
    {
        return parseSection(section);
    }
    catch (const Refused& refused)
    {
        throw Error(std::string("The state that the production machine saved "
                                "cannot be read. Is it of another version? ") +
                    refused.what());
    }
}

void checkVcpus(const Reference& reference, unsigned vcpus)
{
    if (reference.vcpus() != vcpus)
    {
        throw Error(
            "The production machine has " + std::to_string(reference.vcpus()) +
            " vCPUs, the guest's specification says " + std::to_string(vcpus));
    }
}

void applyRules(rules::Subjects& subjects)
{
    for (rules::Subject& subject : subjects)
    {
        if (Rule rule = ruleFor(subject.state.schema()))
        {
            rule(subject);
        }
    }
    rules::apics(subjects);
    rules::pciBars(subjects);
    rules::interruptLines(subjects);
}

} // namespace

Reference::Reference(std::span<const Section> saved)
{
    for (const Section& section : saved)
    {
        ids_.push_back(section.id);
        records_.push_back(parseReference(section));
    }
}

unsigned Reference::vcpus() const
{
    return static_cast<unsigned>(
        std::ranges::count(ids_, std::string("cpu"), &SectionId::idstr));
}

std::vector<Section> admit(std::span<const Section> candidate,
                           const Reference& reference,
                           const Environment& environment)
{
    refuseDuplicates(candidate);
    refuseExtra(candidate, reference.ids());
    checkVcpus(reference, environment.vcpus);

    std::vector<Record> states;
    for (const SectionId& id : reference.ids())
    {
        states.push_back(parseSection(findIn(candidate, id)));
    }
    rules::Subjects subjects;
    for (std::size_t i = 0; i < states.size(); ++i)
    {
        subjects.push_back({reference.ids()[i], states[i],
                            reference.records()[i], environment});
    }
    applyRules(subjects);

    std::vector<Section> admitted;
    for (const rules::Subject& subject : subjects)
    {
        admitted.push_back({subject.id, serialise(subject.state)});
    }
    return admitted;
}

std::vector<Section> admit(std::span<const Section> candidate,
                           std::span<const Section> reference,
                           const Environment& environment)
{
    return admit(candidate, Reference(reference), environment);
}

Environment Environment::forMemory(std::uint64_t ramBytes)
{
    constexpr std::uint64_t gib = 1ULL << 30;
    constexpr std::uint64_t lowMax = 0xb0000000;
    Environment env;
    env.ramLow = ramBytes < lowMax ? ramBytes : 2 * gib;
    env.ramHigh = ramBytes - env.ramLow;
    // Up to the I/O APIC; a 64-bit BAR goes anywhere above RAM that the
    // guest's CPU can address.
    env.mmio32 = {env.ramLow, 0xfec00000};
    env.mmio64 = {4 * gib + env.ramHigh, 1ULL << 46};
    return env;
}

} // namespace airlock::handover
