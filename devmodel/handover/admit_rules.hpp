#pragma once

#include "devmodel/handover/admit.hpp"
#include "devmodel/handover/schema.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/** Inside of the admission: one section under check, and the rules. */
namespace airlock::handover::rules
{

/** A section of the candidate beside the same section of the reference.
 *
 * `state` is what will be written; rules may correct it. Checks throw Refused
 * with the section, the field and the value.
 */
struct Subject
{
    const SectionId& id;
    Record& state;
    const Record& reference;
    const Environment& env;

    std::uint64_t operator[](std::string_view field) const
    {
        return std::as_const(state).number(field);
    }

    [[noreturn]] void refuse(std::string_view field,
                             std::string_view reason) const;
    [[noreturn]] void refuse(std::string_view field, std::uint64_t value,
                             std::string_view reason) const;
    void require(bool holds, std::string_view field,
                 std::string_view reason) const
    {
        if (!holds)
        {
            refuse(field, reason);
        }
    }
    void require(bool holds, std::string_view field, std::uint64_t value,
                 std::string_view reason) const
    {
        if (!holds)
        {
            refuse(field, value, reason);
        }
    }

    /** The number has to be the reference's. */
    void same(std::string_view field) const;
    /** The number may have no bits outside the mask. */
    void onlyBits(std::string_view field, std::uint64_t mask) const
    {
        onlyBits(field, (*this)[field], mask);
    }
    void onlyBits(std::string_view field, std::uint64_t value,
                  std::uint64_t mask) const
    {
        require((value & ~mask) == 0, field, value,
                "has bits that the guest cannot set here");
    }
    void atMost(std::string_view field, std::uint64_t limit) const
    {
        require((*this)[field] <= limit, field, (*this)[field],
                "is out of range");
    }
    /** The subsection is there exactly if it is in the reference. */
    void samePresence(std::string_view subsection) const;
};

/** "field[3]", for messages about one element. */
std::string element(std::string_view field, std::size_t index);

/** All sections of one machine while they are checked. */
using Subjects = std::vector<Subject>;

/** The guest's clock at the moment it was stopped, in ns: QEMU's timers and
 * the APICs count on it. */
std::int64_t virtualClock(const Subjects& subjects);

/** The range lies in one piece of RAM outside the hole for the graphics card
 * and the firmware, 0xa0000 to 0xfffff. */
bool inRam(const Environment& env, std::uint64_t address, std::uint64_t size);

// One rule set per device family; each checks one section.
void timer(Subject& subject);
void kvmclock(Subject& subject);
void airlockPm(Subject& subject);
void cpuCommon(Subject& subject);
void cpu(Subject& subject);
void ioapic(Subject& subject);
void pciHost(Subject& subject);
void pciBus(Subject& subject);
void mch(Subject& subject);
void virtioBlk(Subject& subject);
void virtioNet(Subject& subject);
void virtioConsole(Subject& subject);
void virtioRng(Subject& subject);

// Rules over several sections, after each was checked by itself.
void apics(Subjects& subjects);
void pciBars(const Subjects& subjects);
void interruptLines(Subjects& subjects);

/** The rules for the PCI part of a virtio device: config space, MSI-X table
 * and pending bits, INTx. */
void virtioPci(Subject& subject);

} // namespace airlock::handover::rules
