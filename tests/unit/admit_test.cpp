#include "devmodel/handover/admit.hpp"
#include "tests/unit/admit_guest.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

// The admission as a whole: which sections there have to be, and what comes
// out. The rules for each section have tests of their own.

namespace
{

using namespace airlock;
using namespace airlock::handover;
using airlock::test::Guest;
using testing::HasSubstr;

std::vector<SectionId> ids(const std::vector<Section>& sections)
{
    std::vector<SectionId> out;
    for (const Section& section : sections)
    {
        out.push_back(section.id);
    }
    return out;
}

std::vector<Bytes> payloads(const std::vector<Section>& sections)
{
    std::vector<Bytes> out;
    for (const Section& section : sections)
    {
        out.push_back(section.payload);
    }
    return out;
}

struct Recording
{
    std::string name;
    unsigned vcpus;
};

class Recorded : public testing::TestWithParam<Recording>
{
  protected:
    Guest guest{GetParam().name, 512ULL << 20, GetParam().vcpus};
};

TEST_P(Recorded, IsAdmittedInTheOrderOfTheReference)
{
    const auto admitted = guest.admit();
    EXPECT_EQ(ids(admitted), ids(guest.reference));
    std::ranges::reverse(guest.candidate);
    EXPECT_EQ(payloads(guest.admit()), payloads(admitted));
}

TEST_P(Recorded, WhatWasAdmittedIsAdmittedAgainUnchanged)
{
    const auto admitted = guest.admit();
    guest.candidate = admitted;
    EXPECT_EQ(payloads(guest.admit()), payloads(admitted));
}

TEST_P(Recorded, EverySectionHasToBeThere)
{
    const auto whole = guest.candidate;
    for (std::size_t i = 0; i < whole.size(); ++i)
    {
        guest.candidate = whole;
        guest.candidate.erase(guest.candidate.begin() +
                              static_cast<std::ptrdiff_t>(i));
        EXPECT_EQ(guest.refused(), label(whole[i].id) + ": is missing");
    }
}

TEST_P(Recorded, NoSectionMayBeThereTwice)
{
    const auto whole = guest.candidate;
    for (const Section& section : whole)
    {
        guest.candidate = whole;
        guest.candidate.push_back(section);
        EXPECT_EQ(guest.refused(),
                  label(section.id) + ": section appears twice");
    }
}

TEST_P(Recorded, VersionsHaveToBeTheReferences)
{
    const auto whole = guest.candidate;
    for (std::size_t i = 0; i < whole.size(); ++i)
    {
        guest.candidate = whole;
        guest.candidate[i].id.version += 1;
        EXPECT_THAT(guest.refused(),
                    HasSubstr(label(whole[i].id) + ": has version"));
    }
}

INSTANTIATE_TEST_SUITE_P(Admit, Recorded,
                         testing::Values(Recording{"guest-1cpu", 1},
                                         Recording{"guest-2cpu", 2}),
                         [](const auto& guest) {
                             return test::testName(guest.param.name);
                         });

TEST(Admit, RefusesSectionsThatTheProductionMachineLacks)
{
    Guest guest;
    guest.candidate.push_back({{"i8254", 0, 3}, Bytes(40)});
    EXPECT_EQ(guest.refused(),
              "i8254/0: the production machine has no such device");
}

TEST(Admit, RefusesAnotherNumberOfCpus)
{
    Guest one("guest-1cpu", 512ULL << 20, 1);
    Guest two;
    std::swap(one.candidate, two.candidate);
    EXPECT_THAT(one.refused(),
                HasSubstr("/1: the production machine has no such device"));
    EXPECT_THAT(two.refused(), HasSubstr("/1: is missing"));
}

TEST(Admit, RefusesADeviceInAnotherSlot)
{
    Guest guest;
    SectionId& id = Guest::find(guest.candidate, "virtio-blk").id;
    id.idstr = "0000:00:09.0/virtio-blk";
    EXPECT_EQ(guest.refused(), "0000:00:09.0/virtio-blk/0: the production "
                               "machine has no such device");
}

/** What the Error says that is no Refused: the candidate has nothing to do
 * with it. */
std::string failureOf(const Guest& guest)
{
    try
    {
        guest.admit();
    }
    catch (const Refused& refused)
    {
        return std::string("refused: ") + refused.what();
    }
    catch (const Error& error)
    {
        return error.what();
    }
    return "";
}

TEST(Admit, AReferenceThatIsNoneIsAnError)
{
    Guest fewer;
    fewer.env.vcpus = 1;
    EXPECT_THAT(failureOf(fewer),
                testing::StartsWith("The production machine has 2 vCPUs"));

    Guest cut;
    cut.reference.front().payload.pop_back();
    EXPECT_THAT(failureOf(cut), testing::StartsWith("The state that the "
                                                    "production machine saved "
                                                    "cannot be read"));
}

TEST(CpuContract, FollowsTheModel)
{
    const auto of = [](const char* name) {
        return CpuContract::forModel(name, Accelerator::Tcg);
    };
    constexpr std::uint64_t osxsave = 1U << 18;
    for (const char* name :
         {"Nehalem", "Nehalem-v1", "Westmere-IBRS", "qemu64"})
    {
        EXPECT_EQ(of(name).xcr0, 1U) << name;
        EXPECT_EQ(of(name).cr4 & osxsave, 0U) << name;
        EXPECT_FALSE(of(name).x2apic) << name;
    }
    for (const char* name : {"Haswell-noTSX-IBRS", "EPYC-Rome-v4", "EPYC"})
    {
        EXPECT_EQ(of(name).xcr0, 7U) << name;
        EXPECT_EQ(of(name).cr4 & osxsave, osxsave) << name;
    }
    EXPECT_EQ(of("Skylake-Server-v5").xcr0, 0x2e7U);
    EXPECT_TRUE(CpuContract::forModel("Nehalem", Accelerator::Kvm).x2apic);
    for (const char* name : {"host", "max", "", "Nehalem2"})
    {
        EXPECT_THROW(of(name), Error) << name;
    }
}

TEST(Environment, FollowsTheMemoryMap)
{
    constexpr std::uint64_t gib = 1ULL << 30;
    Environment small = Environment::forMemory(gib);
    EXPECT_EQ(small.ramLow, gib);
    EXPECT_EQ(small.ramHigh, 0U);
    EXPECT_EQ(small.mmio32, (AddressRange{gib, 0xfec00000}));

    Environment edge = Environment::forMemory(0xaff00000);
    EXPECT_EQ(edge.ramLow, 0xaff00000U);

    Environment large = Environment::forMemory(5 * gib);
    EXPECT_EQ(large.ramLow, 2 * gib);
    EXPECT_EQ(large.ramHigh, 3 * gib);
    EXPECT_EQ(large.mmio32.start, 2 * gib);
    EXPECT_EQ(large.mmio64.start, 7 * gib);
}

} // namespace
