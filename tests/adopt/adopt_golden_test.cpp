#include "common/file.hpp"
#include "hostagent/adopt/adopt.hpp"
#include "hostagent/adopt/diff.hpp"
#include "hostagent/domain/domain_spec.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <ostream>

/** Domains as people have them: `NAME.xml` adopted gives `CASE.out.xml` (only
 * when it can be) and `CASE.notes`. With AIRLOCK_UPDATE_GOLDEN in the
 * environment the files are written instead of compared. */
namespace airlock::host
{
namespace
{

struct Case
{
    std::string name;  ///< of the expected files
    std::string input; ///< without .xml
    AdoptOptions options;
};

AdoptOptions with(std::optional<std::string> cpu, bool forceVirtio)
{
    AdoptOptions options;
    options.cpuModel = std::move(cpu);
    options.forceVirtio = forceVirtio;
    return options;
}

const std::vector<Case> cases = {
    {"debian-virt-install", "debian-virt-install", with("Nehalem", false)},
    {"debian-as-it-is", "debian-virt-install", {}},
    {"windows-virt-install", "windows-virt-install", {}},
    {"windows-forced", "windows-virt-install", with("Westmere", true)},
    {"openstack-nova", "openstack-nova", {}},
    {"proxmox-like", "proxmox-like", with({}, true)},
    {"spice-usb", "spice-usb", {}},
    {"pci-passthrough", "pci-passthrough", {}},
};

std::ostream& operator<<(std::ostream& out, const Case& c)
{
    return out << c.name;
}

std::filesystem::path dataFile(const std::string& name)
{
    return std::filesystem::path(AIRLOCK_TEST_DATA) / "adopt" / name;
}

std::string readText(const std::filesystem::path& path)
{
    return readTextFile(path, 1U << 20);
}

std::string notesText(const AdoptResult& result)
{
    std::string out;
    for (const AdoptRefusal& refusal : result.refusals)
    {
        out += fmt::format("REFUSED {}: {}\n    {}\n", refusal.where,
                           refusal.reason, refusal.advice);
    }
    for (const AdoptNote& note : result.notes)
    {
        out += fmt::format("{}: {}\n", note.where, note.text);
    }
    return out;
}

void expectFile(const std::string& name, const std::string& text)
{
    std::filesystem::path path = dataFile(name);
    if (std::getenv("AIRLOCK_UPDATE_GOLDEN") != nullptr)
    {
        writeFileAtomic(path, text);
    }
    ASSERT_TRUE(std::filesystem::exists(path)) << path;
    EXPECT_EQ(unifiedDiff(readText(path), text, name, "now"), "");
}

class Adopted : public ::testing::TestWithParam<Case>
{
  protected:
    std::string input = readText(dataFile(GetParam().input + ".xml"));
    AdoptResult result = adopt(input, GetParam().options);
};

TEST_P(Adopted, IsAsExpected)
{
    expectFile(GetParam().name + ".notes", notesText(result));
    std::string output = GetParam().name + ".out.xml";
    EXPECT_EQ(result.ok(), !result.xml.empty());
    if (result.ok())
    {
        expectFile(output, result.xml);
    }
    else
    {
        EXPECT_FALSE(std::filesystem::exists(dataFile(output)));
    }
}

TEST_P(Adopted, AgainChangesNothing)
{
    if (result.ok())
    {
        AdoptResult again = adopt(result.xml);
        EXPECT_EQ(notesText(again), "");
        EXPECT_FALSE(again.changed);
        EXPECT_EQ(unifiedDiff(result.xml, again.xml, "once", "twice"), "");
    }
    else
    {
        EXPECT_FALSE(result.refusals.empty());
    }
}

TEST_P(Adopted, CanBeReverted)
{
    if (result.ok())
    {
        EXPECT_EQ(revert(result.xml), input);
    }
    else
    {
        EXPECT_THROW(revert(input), Refused);
    }
}

TEST_P(Adopted, IsADomainForTheHostAgent)
{
    EXPECT_FALSE(isAirlockDomain(input));
    EXPECT_THROW(parseDomain(input), Refused);
    if (result.ok())
    {
        EXPECT_TRUE(isAirlockDomain(result.xml));
        DomainSpec spec = parseDomain(result.xml);
        EXPECT_TRUE(spec.console);
        EXPECT_EQ(spec.emulator, defaultEmulator);
        EXPECT_FALSE(spec.disks.empty());
    }
}

INSTANTIATE_TEST_SUITE_P(Golden, Adopted, ::testing::ValuesIn(cases),
                         [](const auto& param) {
                             std::string name = param.param.name;
                             std::replace(name.begin(), name.end(), '-', '_');
                             return name;
                         });

} // namespace
} // namespace airlock::host
