#include "schema_rig.hpp"

#include "common/file.hpp"
#include "devmodel/handover/schema.hpp"
#include "devmodel/handover/stream.hpp"
#include "tests/unit/described.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace airlock::test
{

namespace
{

using handover::Section;
using testing::UnorderedElementsAreArray;

constexpr std::uint64_t mib = 1ULL << 20;

/** Real-mode code is all that some hosts' KVM can run; it needs no feature of
 * later models. */
constexpr const char* modestCpu = "pentium3-v1";

/** Files that all machines of this program need, one machine at a time. */
class Files
{
  public:
    Files() : directory_("airlock-schema")
    {
        for (std::size_t i = 0; i < vm::maxDisks; i++)
        {
            const UniqueFd file = openFile(disk(i), O_WRONLY | O_CREAT);
            if (::ftruncate(file.get(), static_cast<off_t>(mib)) != 0)
            {
                throwErrno("cannot make a disk");
            }
        }
    }

    std::filesystem::path disk(std::size_t index) const
    {
        return directory_.path() / fmt::format("{}.raw", index);
    }
    std::filesystem::path log() const
    {
        return directory_.path() / "production.log";
    }
    static const vm::Qemu& qemu()
    {
        static const vm::Qemu found =
            vm::findQemuBuilds(vm::defaultBuildDirectory()).production;
        return found;
    }

  private:
    TempDirectory directory_;
};

const Files& files()
{
    static const Files made;
    return made;
}

/** Names and numbers of the sections that a machine has to save. */
std::vector<std::string> sectionsOf(const vm::GuestSpec& spec)
{
    std::vector<std::string> out = {"timer/0",   "airlock-pm/0",
                                    "PCIHost/0", "PCIBUS/0",
                                    "ioapic/0",  "0000:00:00.0/mch/0"};
    for (unsigned i = 0; i < spec.vcpus; i++)
    {
        for (const char* name : {"cpu", "cpu_common", "apic"})
        {
            out.push_back(fmt::format("{}/{}", name, i));
        }
    }
    if (spec.accelerator == vm::Accelerator::kvm)
    {
        out.emplace_back("kvmclock/0");
    }
    auto add = [&out](std::size_t slot, const char* type) {
        out.push_back(fmt::format("0000:00:{:02x}.0/{}/0", slot, type));
    };
    if (spec.console)
    {
        add(vm::consoleSlot, "virtio-console");
    }
    if (spec.rng)
    {
        add(vm::rngSlot, "virtio-rng");
    }
    for (std::size_t i = 0; i < spec.nics.size(); i++)
    {
        add(vm::firstNicSlot + i, "virtio-net");
    }
    for (std::size_t i = 0; i < spec.disks.size(); i++)
    {
        add(vm::firstDiskSlot + i, "virtio-blk");
    }
    return out;
}

} // namespace

std::vector<vm::Disk> disks(std::size_t count)
{
    std::vector<vm::Disk> out;
    for (std::size_t i = 0; i < count; i++)
    {
        out.push_back({files().disk(i), i % 2 == 1});
    }
    return out;
}

std::vector<vm::Nic> nics(std::size_t count)
{
    std::vector<vm::Nic> out;
    for (std::size_t i = 0; i < count; i++)
    {
        out.push_back({fmt::format("52:54:00:a1:0c:{:02x}", i)});
    }
    return out;
}

Case plain(vm::Accelerator accelerator)
{
    vm::GuestSpec spec;
    spec.name = "schema";
    spec.uuid = "9d1f6a52-7c0e-4a39-8f10-5b7d2c34e603";
    spec.memory = 256 * mib;
    spec.accelerator = accelerator;
    if (accelerator == vm::Accelerator::kvm)
    {
        spec.cpuModel = modestCpu;
    }
    spec.disks = disks(1);
    spec.nics = nics(1);
    return {"plain", spec};
}

std::unique_ptr<vm::ProductionVm> start(const Case& setup)
{
    vm::ProductionVm::Options options;
    options.log = files().log();
    options.arguments = setup.arguments;
    options.taps = setup.taps;
    auto out =
        std::make_unique<vm::ProductionVm>(Files::qemu(), setup.spec, options);
    out->waitTrap(schemaTrapTime);
    return out;
}

std::filesystem::path schemaLog()
{
    return files().log();
}

std::vector<Section> parseSaved(ByteView state)
{
    return handover::parseProductionStream(state, handover::sectionSize)
        .sections;
}

void expectDescribed(const vm::GuestSpec& spec, ByteView state)
{
    ASSERT_EQ(notDescribed(state), "");
    std::vector<std::string> names;
    for (const Section& section : parseSaved(state))
    {
        names.push_back(handover::label(section.id));
    }
    EXPECT_THAT(names, UnorderedElementsAreArray(sectionsOf(spec)));
}

void expectDescribed(const Case& setup)
{
    SCOPED_TRACE(setup.name);
    expectDescribed(setup.spec, start(setup)->saveState());
}

} // namespace airlock::test
