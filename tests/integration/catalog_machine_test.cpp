/** The catalog and both machines say the same: each device, port and memory
 * range that a machine shows is in a row, and each row's switch takes away or
 * adds just what the row lists. */
#include "common/error.hpp"
#include "common/file.hpp"
#include "common/process.hpp"
#include "devmodel/catalog/catalog.hpp"
#include "devmodel/vm/production_vm.hpp"
#include "tools/rigs/boot_survey.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

namespace airlock::test
{
namespace
{

using catalog::Device;
using catalog::Range;
using testing::HasSubstr;
using testing::IsEmpty;

/** Firmware needs them, or there is nothing of theirs in a survey. */
const std::set<std::string_view> withoutSwitch = {"lpc",   "rtc",      "dma",
                                                  "fwcfg", "firmware", "acpi"};

vm::GuestSpec plainSpec()
{
    vm::GuestSpec spec;
    spec.name = "survey";
    spec.uuid = "9d1f6a52-7c0e-4a39-8f10-5b7d2c34e602";
    spec.vcpus = 2;
    spec.memory = 256ULL << 20;
    spec.nics = {{"52:54:00:a1:0c:02"}};
    return spec;
}

vm::Survey bootMachine(const std::map<std::string, bool>& devices = {})
{
    TempDirectory directory("airlock-survey");
    vm::BootOptions options;
    options.devices = devices;
    return rig::surveyBootMachine(
        vm::findQemuBuilds(vm::defaultBuildDirectory()).boot, plainSpec(),
        options, directory.path());
}

std::vector<Range> rangesOf(std::string_view list)
{
    return catalog::parseRanges(list).value();
}

/** Ranges that no row has, as text. */
std::vector<std::string> notListed(const std::vector<vm::AddressRange>& seen,
                                   std::string_view Device::*list)
{
    std::vector<Range> known;
    for (const Device& row : catalog::devices())
    {
        std::vector<Range> ranges = rangesOf(row.*list);
        known.insert(known.end(), ranges.begin(), ranges.end());
    }
    auto listed = [&](std::uint64_t address) {
        return std::ranges::any_of(known, [&](const Range& range) {
            return range.first <= address && address <= range.last;
        });
    };
    std::vector<std::string> out;
    for (const vm::AddressRange& range : seen)
    {
        // The long ones are of one row each.
        constexpr std::uint64_t longest = 0x1000;
        bool all = listed(range.first) && listed(range.last);
        for (std::uint64_t at = range.first;
             all && range.last - range.first < longest && at <= range.last;
             at++)
        {
            all = listed(at);
        }
        if (!all)
        {
            out.push_back(describe(range) + " " + range.name);
        }
    }
    return out;
}

std::vector<std::string> devicesNotListed(const vm::Survey& survey)
{
    std::vector<std::string> out;
    for (const auto& [type, count] : survey.devices)
    {
        if (catalog::findByType(type) == nullptr)
        {
            out.push_back(type);
        }
    }
    return out;
}

void expectAllListed(const vm::Survey& survey)
{
    EXPECT_THAT(devicesNotListed(survey), IsEmpty());
    EXPECT_THAT(notListed(survey.ports, &Device::ports), IsEmpty());
    EXPECT_THAT(notListed(survey.mmio, &Device::mmio), IsEmpty());
}

/** What of a row's types and ports a machine shows. */
std::set<std::string> shown(const vm::Survey& survey, const Device& row)
{
    std::set<std::string> out;
    for (const auto& [type, count] : survey.devices)
    {
        if (catalog::findByType(type) == &row)
        {
            out.insert(type);
        }
    }
    for (const Range& range : rangesOf(row.ports))
    {
        for (const vm::AddressRange& seen : survey.ports)
        {
            if (seen.first <= range.last && range.first <= seen.last)
            {
                out.insert(fmt::format("port {:#x}", range.first));
            }
        }
    }
    return out;
}

TEST(CatalogMachine, BootMachineShowsNothingElse)
{
    expectAllListed(bootMachine());
}

TEST(CatalogMachine, BootMachineWithAllExtrasShowsNothingElse)
{
    std::map<std::string, bool> all;
    for (const Device& row : catalog::devices())
    {
        if (row.deviceClass == catalog::DeviceClass::Extraneous)
        {
            all[std::string(row.id)] = true;
        }
    }
    expectAllListed(bootMachine(all));
}

TEST(CatalogMachine, ProductionMachineHasRequiredDevicesOnly)
{
    TempDirectory directory("airlock-survey");
    vm::ProductionVm::Options options;
    options.log = directory.path() / "production.log";
    vm::ProductionVm production(
        vm::findQemuBuilds(vm::defaultBuildDirectory()).production, plainSpec(),
        options);
    production.waitTrap(std::chrono::seconds(30));
    vm::Survey survey = vm::survey(production.machine().qmp());
    expectAllListed(survey);
    for (const auto& [type, count] : survey.devices)
    {
        const Device* row = catalog::findByType(type);
        ASSERT_NE(row, nullptr) << type;
        EXPECT_EQ(row->deviceClass, catalog::DeviceClass::Required) << type;
    }
}

TEST(CatalogMachine, EachSwitchTakesAwayOrAddsItsRow)
{
    vm::Survey plain = bootMachine();
    unsigned tried = 0;
    for (const Device& row : catalog::devices())
    {
        if (!row.optional() || withoutSwitch.contains(row.id))
        {
            continue;
        }
        SCOPED_TRACE(row.id);
        vm::Survey other =
            bootMachine({{std::string(row.id), !row.onByDefault}});
        const vm::Survey& with = row.onByDefault ? plain : other;
        const vm::Survey& without = row.onByDefault ? other : plain;
        EXPECT_THAT(shown(with, row), testing::Not(IsEmpty()));
        EXPECT_THAT(shown(without, row), IsEmpty());
        tried++;
    }
    EXPECT_GE(tried, 15U);
}

/** What a boot QEMU says that does not start. */
std::string refusal(std::vector<std::string> arguments)
{
    SpawnOptions options;
    options.argv = {
        vm::findQemuBuilds(vm::defaultBuildDirectory()).boot.binary.string(),
        "-display",
        "none",
        "-nodefaults",
        "-accel",
        "tcg"};
    options.argv.insert(options.argv.end(), arguments.begin(), arguments.end());
    ProcessOutput output = runProgram(options, std::chrono::seconds(20));
    return output.status.ok() ? "it started" : output.err;
}

TEST(CatalogMachine, WhatFirmwareNeedsCannotBeSwitchedOff)
{
    for (const char* id : {"lpc", "rtc", "dma", "fwcfg"})
    {
        EXPECT_THAT(
            refusal({"-machine", fmt::format("airlock-boot-1.0,{}=off", id)}),
            HasSubstr(fmt::format("'{}=off': no firmware starts", id)));
    }
    EXPECT_THAT(refusal({"-machine", "airlock-boot-1.0,vmport=on,i8042=off"}),
                HasSubstr("'vmport=on' needs 'i8042=on'"));
}

TEST(CatalogMachine, DevicesThatTheCatalogLacksAreErrors)
{
    for (const char* device : {"secondary-vga", "isa-debug-exit"})
    {
        EXPECT_THAT(
            refusal({"-machine", "airlock-boot-1.0", "-device", device}),
            HasSubstr(device));
    }
}

} // namespace
} // namespace airlock::test
