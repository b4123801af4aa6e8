/** The schema tables against the production QEMU that is built: it saves its
 * state with every option that a guest's specification has, and the tables have
 * to describe every byte of it. What is in those bytes is for
 * schema_values_test.cpp.
 *
 * That shows much, and not what QEMU would write in a state that no test comes
 * to: so the tables are also pinned to the source that they were held against,
 * definition by definition (TablesWereReviewed). */
#include "common/file.hpp"
#include "devmodel/handover/admit.hpp"
#include "devmodel/vm/host_network.hpp"
#include "schema_rig.hpp"
#include "state_source.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <set>

namespace airlock::test
{
namespace
{

using handover::Record;
using handover::Section;
using testing::IsEmpty;

constexpr std::uint64_t mib = 1ULL << 20;

// --- Options -----------------------------------------------------------------

/** One option of a guest's specification with the values to try. */
struct Axis
{
    struct Value
    {
        std::string name;
        std::function<void(vm::GuestSpec&)> set;
    };
    std::vector<Value> values;
};

std::vector<Axis> axes()
{
    auto vcpus = [](unsigned count) {
        return Axis::Value{fmt::format("{} vCPUs", count),
                           [count](auto& spec) { spec.vcpus = count; }};
    };
    // All of it below the hole; as much of that as there can be; split.
    auto memory = [](std::uint64_t size) {
        return Axis::Value{fmt::format("{} MiB", size / mib),
                           [size](auto& spec) { spec.memory = size; }};
    };
    auto diskCount = [](std::size_t count) {
        return Axis::Value{fmt::format("{} disks", count),
                           [count](auto& spec) { spec.disks = disks(count); }};
    };
    auto nicCount = [](std::size_t count) {
        return Axis::Value{fmt::format("{} NICs", count),
                           [count](auto& spec) { spec.nics = nics(count); }};
    };
    auto console = [](const char* name, bool port, bool agent) {
        return Axis::Value{name, [port, agent](auto& spec) {
                               spec.console = port;
                               spec.agent = agent;
                           }};
    };
    auto rng = [](const char* name, bool on) {
        return Axis::Value{name, [on](auto& spec) { spec.rng = on; }};
    };
    auto msix = [](const char* name, bool on) {
        return Axis::Value{name, [on](auto& spec) { spec.msix = on; }};
    };
    return {
        {{vcpus(1), vcpus(2), vcpus(4), vcpus(8), vcpus(64)}},
        {{diskCount(0), diskCount(1), diskCount(2), diskCount(vm::maxDisks)}},
        {{memory(256 * mib), memory(0xb0000000 - mib), memory(5120 * mib)}},
        {{nicCount(0), nicCount(1), nicCount(vm::maxNics)}},
        {{console("no console", false, false), console("console", true, false),
          console("console and agent", true, true)}},
        {{rng("rng", true), rng("no rng", false)}},
        {{msix("MSI-X", true), msix("INTx", false)}},
    };
}

/** One value of each axis. */
using Choice = std::vector<std::size_t>;

/** The next combination; false when there is none. */
bool advance(Choice& choice, const std::vector<Axis>& all)
{
    for (std::size_t i = 0; i < choice.size(); i++)
    {
        choice[i] = (choice[i] + 1) % all[i].values.size();
        if (choice[i] != 0)
        {
            return true;
        }
    }
    return false;
}

/** Values of two axes that are in a combination. */
using Pair = std::array<std::size_t, 4>;

std::set<Pair> pairsOf(const Choice& choice)
{
    std::set<Pair> out;
    for (std::size_t i = 0; i < choice.size(); i++)
    {
        for (std::size_t k = 0; k < i; k++)
        {
            out.insert({i, choice[i], k, choice[k]});
        }
    }
    return out;
}

/** Few combinations in which each value of each axis meets each value of each
 * other one: there are 2160 in all, and a section's form depends on one option
 * or, as with queues for each vCPU, on two. */
std::vector<Choice> pairwise(const std::vector<Axis>& all)
{
    std::vector<std::pair<Choice, std::set<Pair>>> every;
    std::set<Pair> open;
    Choice choice(all.size());
    do
    {
        every.emplace_back(choice, pairsOf(choice));
        open.insert(every.back().second.begin(), every.back().second.end());
    } while (advance(choice, all));

    auto worth = [&open](const auto& one) {
        return std::ranges::count_if(
            one.second, [&](const Pair& pair) { return open.contains(pair); });
    };
    std::vector<Choice> out;
    while (!open.empty())
    {
        const auto& best = *std::ranges::max_element(every, {}, worth);
        for (const Pair& pair : best.second)
        {
            open.erase(pair);
        }
        out.push_back(best.first);
    }
    return out;
}

std::vector<Case> optionSetups(vm::Accelerator accelerator)
{
    const std::vector<Axis> all = axes();
    std::vector<Case> out;
    for (const Choice& choice : pairwise(all))
    {
        Case setup = plain(accelerator);
        std::vector<std::string> names;
        for (std::size_t i = 0; i < all.size(); i++)
        {
            const Axis::Value& value = all[i].values[choice[i]];
            value.set(setup.spec);
            names.push_back(value.name);
        }
        setup.name = fmt::format("{}", fmt::join(names, ", "));
        out.push_back(setup);
    }
    return out;
}

/** Under KVM the stub at the reset vector runs in real mode, which works on
 * hosts whose KVM runs no kernel. Where even that does not, it is TCG, and the
 * output says so. */
class OnAccelerator : public testing::TestWithParam<vm::Accelerator>
{
  protected:
    OnAccelerator()
    {
        if (accelerator == vm::Accelerator::tcg)
        {
            return;
        }
        try
        {
            start(plain(accelerator));
        }
        catch (const Error& error)
        {
            fmt::print("KVM DOES NOT WORK ON THIS HOST, what follows is TCG: "
                       "{}\n",
                       error.what());
            accelerator = vm::Accelerator::tcg;
        }
    }

    vm::Accelerator accelerator = GetParam();
};

INSTANTIATE_TEST_SUITE_P(Schema, OnAccelerator,
                         testing::Values(vm::Accelerator::tcg,
                                         vm::Accelerator::kvm),
                         [](const auto& accelerator) {
                             return accelerator.param == vm::Accelerator::kvm
                                        ? "kvm"
                                        : "tcg";
                         });

TEST_P(OnAccelerator, EveryOptionIsDescribed)
{
    const std::vector<Case> setups = optionSetups(accelerator);
    for (const Case& setup : setups)
    {
        expectDescribed(setup);
    }
    fmt::print("{} combinations of options\n", setups.size());
    EXPECT_GE(setups.size(), 20U);
}

bool isKnown(const std::string& model)
{
    try
    {
        handover::CpuContract::forModel(model, handover::Accelerator::Tcg);
        return true;
    }
    catch (const Error&)
    {
        return false;
    }
}

/** Models that QEMU has and admission knows, each version once. */
std::vector<std::string> knownModels(vm::ProductionVm& production)
{
    std::vector<std::string> out;
    const Json all =
        production.machine().qmp().execute("query-cpu-definitions");
    for (const Json& model : all)
    {
        const std::string name = model.at("name");
        if (isKnown(name) && !model.contains("alias-of"))
        {
            out.push_back(name);
        }
    }
    return out;
}

/** The machine, or none: some hosts' KVM announces registers that it cannot
 * set, and QEMU ends. */
std::unique_ptr<vm::ProductionVm> startIfHostCan(const Case& setup)
{
    try
    {
        return start(setup);
    }
    catch (const Error&)
    {
        if (setup.spec.accelerator != vm::Accelerator::kvm)
        {
            throw;
        }
        return nullptr;
    }
}

void expectModelsExist(const std::vector<std::string>& models)
{
    for (const std::string_view base : handover::CpuContract::models())
    {
        const std::string first = std::string(base) + "-v1";
        EXPECT_TRUE(std::ranges::count(models, base) != 0 ||
                    std::ranges::count(models, first) != 0)
            << base << " is not a model of this QEMU";
    }
}

/** The models decide which registers there are, and so which subsections. An
 * accelerator has not all features of all models; what is lacking is left out
 * here, where a guest would be refused. */
TEST_P(OnAccelerator, EveryCpuModelIsDescribed)
{
    Case setup = plain(accelerator);
    const std::vector<std::string> models = knownModels(*start(setup));
    expectModelsExist(models);
    setup.spec.vcpus = 1;
    std::vector<std::string> lacking;
    for (const std::string& model : models)
    {
        SCOPED_TRACE(model);
        setup.arguments = {"-cpu", model};
        if (const auto production = startIfHostCan(setup))
        {
            expectDescribed(setup.spec, production->saveState());
        }
        else
        {
            lacking.push_back(model);
        }
    }
    fmt::print("{} CPU models; this host does not start: {}\n", models.size(),
               fmt::join(lacking, " "));
    EXPECT_LT(lacking.size(), models.size());
}

/** A tap as libvirt makes one: frames have a virtio header, so the card has
 * offloads. */
UniqueFd tapWithHeader()
{
    UniqueFd fd = openFile("/dev/net/tun", O_RDWR | O_NONBLOCK);
    ifreq request{};
    std::strncpy(request.ifr_name, "schema0", IFNAMSIZ - 1);
    request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (::ioctl(fd.get(), TUNSETIFF, &request) != 0)
    {
        throwErrno("cannot make a tap");
    }
    return fd;
}

TEST(Schema, ACardWithAHostSideIsDescribed)
{
    vm::enterPrivateNetwork();
    const UniqueFd withHeader = tapWithHeader();
    const vm::Tap without("schema1", "192.0.2.1");
    Case setup = plain();
    setup.spec.nics = nics(2);
    setup.taps = {withHeader.get(), without.fd()};
    const Bytes state = start(setup)->saveState();
    expectDescribed(setup.spec, state);
    std::vector<std::uint64_t> headers;
    for (const Section& section : parseSaved(state))
    {
        const Record record = handover::parseSection(section);
        if (record.has("has_vnet_hdr"))
        {
            headers.push_back(record.number("has_vnet_hdr"));
        }
    }
    EXPECT_THAT(headers, testing::ElementsAre(1U, 0U));
}

// --- Pinned to the source ----------------------------------------------------

std::filesystem::path reviewedFile()
{
    return AIRLOCK_REVIEWED;
}

std::string qemuVersion(const std::filesystem::path& source)
{
    const std::string text = readTextFile(source / "VERSION", 100);
    return text.substr(0, text.find('\n'));
}

void writeReviewed(const StateSources& built,
                   const std::filesystem::path& source)
{
    writeFileAtomic(
        reviewedFile(),
        std::string_view(
            "# What the tables in this folder were held against: of QEMU " +
            qemuVersion(source) +
            " with our\n"
            "# patches and files, every definition that decides which bytes a "
            "device saves.\n"
            "# Written and compared by tools/check --suite schema; see "
            "docs/HACKING-qemu.md.\n" +
            formatStateSources(built)));
}

/** Which bytes a build saves is decided by its source, and a test of options
 * and values can always miss one. So whoever changes a definition that has to
 * do with state, by a new QEMU or by a patch, has to hold the tables against
 * it. Definitions and not the binary's digest: that one changes with every
 * compiler. Not -dump-vmstate either, which lacks the CPU, the APIC, the timer
 * and the PCI bus, and all that virtio devices write by hand. */
TEST(Schema, TablesWereReviewed)
{
    const std::filesystem::path qemu = vm::defaultBuildDirectory() / "qemu";
    const StateSources built =
        stateSourcesOf(qemu / "production", qemu / "src");
    ASSERT_GE(built.size(), 100U);
    if (std::getenv("AIRLOCK_SCHEMA_REVIEWED") != nullptr)
    {
        writeReviewed(built, qemu / "src");
        return;
    }
    const auto changes = difference(
        parseStateSources(readTextFile(reviewedFile(), 1U << 20)), built);
    EXPECT_THAT(changes, IsEmpty())
        << "These definitions in " << (qemu / "src").string()
        << " are not the ones that the schema tables were held against:\n  "
        << fmt::format("{}", fmt::join(changes, "\n  "))
        << "\nCompare them with devmodel/handover/schema_tables (and with the "
           "rules of devmodel/handover/admit*.cpp), change the tables, and "
           "when they are right:\n"
           "  AIRLOCK_SCHEMA_REVIEWED=1 tools/check --suite schema\n"
           "which writes "
        << reviewedFile().string() << ".";
}

} // namespace
} // namespace airlock::test
