/** A production QEMU that holds a trapped guest is offered states that it must
 * not take: first bytes given to its load command, past the library; then
 * whole bundles, through the library. It stays up and trapped, and in the end
 * the right state of the guest, booted once at the start, loads in the same
 * process, and the guest answers.
 *
 * AIRLOCK_FULL=1 takes more mutations; AIRLOCK_SEED another seed than 1. */
#include "devmodel/handover/schema.hpp"
#include "devmodel/handover/stream.hpp"
#include "devmodel/vm/guest_shell.hpp"
#include "guest_files.hpp"
#include "stream_mutator.hpp"
#include "tests/unit/error_of.hpp"
#include "tests/unit/recorded_guest.hpp"
#include "tests/unit/test_streams.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string_view>

namespace airlock::test
{
namespace
{

using handover::Bundle;
using handover::JobTicket;
using handover::Record;
using handover::Rows;
using handover::Section;
using testing::ContainsRegex;
using testing::HasSubstr;

constexpr std::uint64_t gib = 1ULL << 30;
constexpr Milliseconds bootTime = std::chrono::minutes(10);
constexpr Milliseconds trapTime = std::chrono::seconds(30);
constexpr Milliseconds answerTime = std::chrono::minutes(3);

std::uint64_t fromEnvironment(const char* name, std::uint64_t otherwise)
{
    const char* value = std::getenv(name);
    return value == nullptr ? otherwise : std::stoull(value);
}

unsigned mutationsWanted()
{
    return fromEnvironment("AIRLOCK_FULL", 0) == 1 ? 100'000 : 5'000;
}

/** Bytes of memory that a process has, for leaks. */
std::uint64_t residentBytes(pid_t pid)
{
    std::ifstream statm(fmt::format("/proc/{}/statm", pid));
    std::uint64_t total = 0;
    std::uint64_t resident = 0;
    std::uint64_t shared = 0;
    statm >> total >> resident >> shared;
    return (resident - shared) * static_cast<std::uint64_t>(getpagesize());
}

/** One guest for all tests: booted, its state in hand, its VM trapped. */
class Rig
{
  public:
    Rig() : files({"cloud", 2, gib, true}), production(files.startProduction())
    {
        job = JobTicket::issue(files.spec().uuid, production->trap()->count);
        cold = production->saveState();
        production->releaseDisks();
        auto boot = files.startBoot();
        boot->waitBooted(vm::BootedShell{}, bootTime);
        boot->save();
        vm::BootedGuest guest = boot->end();
        boot.reset();
        sections = handover::parseBootStream(guest.state).sections;
        memory = UniqueFd(::dup(guest.memory.get()));
        bundle.emplace(vm::makeBundle(std::move(guest), files.spec(), job));

        // What it comes to on the production machine.
        vm::loadBundle(*production, *bundle, job);
        right = production->saveState();
        trapAgain();
    }

    /** After a load: back to the trap. */
    void trapAgain()
    {
        QmpClient& qmp = production->machine().qmp();
        qmp.clearEvents();
        qmp.execute("system_reset");
        qmp.waitEvent("RESET", trapTime);
        production->machine().resume();
        production->waitTrap(trapTime);
    }

    /** A bundle with these sections instead of the guest's, made by whoever
     * owns the job. */
    Bundle bundleOf(const std::vector<Section>& changed) const
    {
        return {bundle->manifest(), buildStream(changed),
                bundle->memoryDigest(), UniqueFd(::dup(memory.get()))};
    }

    GuestFiles files;
    std::unique_ptr<vm::ProductionVm> production;
    JobTicket job;
    std::vector<Section> sections; ///< of the boot machine
    UniqueFd memory;
    std::optional<Bundle> bundle;
    Bytes cold;  ///< what the new, trapped VM saved
    Bytes right; ///< the stream that was admitted and loaded
};

class HostileState : public testing::Test
{
  protected:
    static void SetUpTestSuite() { rig_ = std::make_unique<Rig>(); }
    static void TearDownTestSuite() { rig_.reset(); }

    void SetUp() override { ASSERT_TRUE(alive()) << "QEMU has ended before"; }

    /** The error of the load command; "" if it took the stream. */
    static std::string refusedByQemu(ByteView stream)
    {
        return errorOf<Error>([&] { rig_->production->loadState(stream); });
    }

    /** Whether the message is QEMU's answer, and not the silence behind it. */
    static bool answered(const std::string& refused)
    {
        return refused.empty() || refused.starts_with("QEMU refused ");
    }

    static bool alive()
    {
        return rig_->production->machine().process().running();
    }

    /** What QEMU said in the end, and where the stream is kept that was the
     * last one, for a debugger. */
    static std::string postMortem(ByteView stream)
    {
        rig_->production->machine().process().wait(trapTime);
        const auto path =
            vm::defaultBuildDirectory() / "logs" / "hostile-state.stream";
        writeFileAtomic(path, stream);
        return rig_->production->machine()
            .withLog("QEMU has ended; stream: " + path.string())
            .what();
    }

    /** Offers a stream that must be refused with this in the message. */
    static void expectRefused(ByteView stream, const std::string& expected)
    {
        const std::string refused = refusedByQemu(stream);
        ASSERT_TRUE(answered(refused)) << postMortem(stream);
        EXPECT_THAT(refused, ContainsRegex(expected));
        ASSERT_TRUE(rig_->production->trap()) << "no longer trapped";
    }

    /** Offers a stream that may be refused, by name, or taken, exactly. */
    static void expectHarmless(ByteView stream, unsigned& refusals)
    {
        const std::string refused = refusedByQemu(stream);
        ASSERT_TRUE(answered(refused)) << postMortem(stream);
        if (!refused.empty())
        {
            ++refusals;
            EXPECT_THAT(refused, ContainsRegex(
                                     "section '[^']+' instance [0-9]+|"
                                     "configuration: |device state stream|"
                                     "the stream (has|does)|section [0-9]+ has "
                                     "no name"));
            ASSERT_TRUE(rig_->production->trap()) << "no longer trapped";
            return;
        }
        EXPECT_TRUE(std::ranges::equal(rig_->production->saveState(), stream));
        rig_->trapAgain();
    }

    /** The guest's own state still loads. */
    static void expectRightLoads()
    {
        ASSERT_EQ(refusedByQemu(rig_->right), "");
        EXPECT_EQ(rig_->production->saveState(), rig_->right);
        rig_->trapAgain();
    }

    static std::vector<Section> parse(ByteView stream)
    {
        return handover::parseProductionStream(stream, handover::sectionSize)
            .sections;
    }

    static std::vector<Section> rightSections() { return parse(rig_->right); }

    /** The trapped VM has new vCPUs and PCI devices, whatever was in it. */
    static void expectNothingIsLeft()
    {
        const auto before = parse(rig_->cold);
        const auto now = parse(rig_->production->saveState());
        ASSERT_EQ(before.size(), now.size());
        for (std::size_t i = 0; i < now.size(); ++i)
        {
            SCOPED_TRACE(handover::label(now[i].id));
            Record was = handover::parseSection(before[i]);
            Record is = handover::parseSection(now[i]);
            if (now[i].id.idstr == "cpu")
            {
                for (Record* state : {&was, &is})
                {
                    // Before or behind the stub's one instruction.
                    state->number("env.eip") = 0;
                    state->numbers("env.regs")[0] = 0;
                }
                EXPECT_EQ(handover::leaves(is), handover::leaves(was));
            }
            else if (is.has("pci_dev"))
            {
                EXPECT_EQ(is.record("pci_dev").bytes("config"),
                          was.record("pci_dev").bytes("config"));
            }
        }
    }

    static Bytes write(const std::vector<Section>& sections,
                       const char* machine = "airlock-1.0")
    {
        return handover::writeProductionStream(machine, sections);
    }

    static std::string nameOf(const Section& section)
    {
        return fmt::format("section '{}' instance {}", section.id.idstr,
                           section.id.instance);
    }

    /** Offsets in the stream of these sections: where each one starts, where
     * the payload does and where it ends, and where the last one ends. */
    struct Place
    {
        std::size_t start;
        std::size_t payload;
        std::size_t payloadEnd;
    };
    static constexpr std::size_t magicSize = 8;
    static constexpr std::size_t footerSize = 1 + 4;

    static std::vector<Place> places(const std::vector<Section>& sections)
    {
        constexpr std::size_t headerSize = 1 + 4 + 1 + 4 + 4;
        std::size_t at =
            magicSize + 1 + 4 + std::string_view(vm::productionMachine).size();
        std::vector<Place> out;
        for (const Section& section : sections)
        {
            const std::size_t payload =
                at + headerSize + section.id.idstr.size();
            const std::size_t end = payload + section.payload.size();
            out.push_back({at, payload, end});
            at = end + footerSize;
        }
        return out;
    }

    /** Some lengths to cut a stream to: around every boundary in it, and
     * evenly over the rest. */
    static std::set<std::size_t> cuts(const std::vector<Section>& sections,
                                      std::size_t size)
    {
        constexpr std::size_t steps = 200;
        std::set<std::size_t> out = {magicSize, magicSize + 1, magicSize + 6};
        for (std::size_t i = 0; i < steps; ++i)
        {
            out.insert(size * i / steps);
        }
        for (const Place& place : places(sections))
        {
            out.insert({place.start, place.start + 3, place.start + 7,
                        place.payload - 1, place.payload, place.payload + 1,
                        place.payloadEnd - 1, place.payloadEnd,
                        place.payloadEnd + 2});
        }
        const std::size_t end = places(sections).back().payloadEnd + footerSize;
        for (std::size_t at = end; at < size; ++at)
        {
            out.insert(at);
        }
        return out;
    }

    /** What QEMU has to say of the first `size` bytes of these sections'
     * stream: where they end. */
    static std::string whereCut(const std::vector<Section>& sections,
                                std::size_t size)
    {
        const std::vector<Place> all = places(sections);
        if (size < magicSize)
        {
            return "Not a device state stream: it ends before its "
                   "configuration$";
        }
        if (size < all.front().start)
        {
            return "configuration: the stream ends in it$";
        }
        for (std::size_t i = 0; i < all.size(); ++i)
        {
            if (size < all[i].payloadEnd + footerSize)
            {
                return nameOf(sections[i]) + " is cut short: the stream ends "
                                             "in it or before it$";
            }
        }
        return "the stream does not end with an empty description behind " +
               nameOf(sections.back()) + ": it is cut short$";
    }

    /** The refusal of a bundle by the library. */
    static std::string refusedByLibrary(const Bundle& bundle,
                                        const JobTicket& job)
    {
        std::string refused =
            errorOf([&] { vm::loadBundle(*rig_->production, bundle, job); });
        EXPECT_TRUE(alive());
        EXPECT_TRUE(rig_->production->trap()) << "no longer trapped";
        return refused;
    }

    static std::unique_ptr<Rig> rig_;
};

std::unique_ptr<Rig> HostileState::rig_;

// --- Bytes, past the library -------------------------------------------------

TEST_F(HostileState, TruncatedStreams)
{
    const Bytes& right = rig_->right;
    const auto sections = rightSections();
    for (const std::size_t size : cuts(sections, right.size()))
    {
        SCOPED_TRACE(fmt::format("cut to {} bytes", size));
        ASSERT_NO_FATAL_FAILURE(expectRefused(ByteView(right).first(size),
                                              whereCut(sections, size)));
    }
    expectRightLoads();
}

TEST_F(HostileState, TrailingBytes)
{
    Bytes longer = rig_->right;
    longer.push_back(0);
    ASSERT_NO_FATAL_FAILURE(
        expectRefused(longer, "the stream goes on after its end"));
    longer.insert(longer.end(), rig_->right.begin(), rig_->right.end());
    ASSERT_NO_FATAL_FAILURE(
        expectRefused(longer, "the stream goes on after its end"));
}

TEST_F(HostileState, TooLong)
{
    constexpr std::size_t most = 16U << 20;
    Bytes longer = rig_->right;
    longer.resize(most + 1);
    ASSERT_NO_FATAL_FAILURE(
        expectRefused(longer, "longer than 16777216 bytes"));
}

TEST_F(HostileState, WrongMachines)
{
    const auto sections = rightSections();
    for (const char* machine : {"airlock-boot-1.0", "airlock-1.1", "airlock-1.",
                                "airlock-1.00", "airlock", "pc-q35-10.0", "x"})
    {
        ASSERT_NO_FATAL_FAILURE(
            expectRefused(write(sections, machine),
                          "configuration: the stream is not of machine type "
                          "'airlock-1.0'"));
    }
    Bytes foreign = rig_->right;
    foreign[0] ^= 1;
    ASSERT_NO_FATAL_FAILURE(
        expectRefused(foreign, "Not a device state stream"));
    foreign = rig_->right;
    foreign[7] = 2;
    ASSERT_NO_FATAL_FAILURE(
        expectRefused(foreign, "Not a device state stream"));
    ASSERT_NO_FATAL_FAILURE(expectRefused({}, "Not a device state stream"));
}

TEST_F(HostileState, MissingSections)
{
    const auto sections = rightSections();
    for (std::size_t i = 0; i < sections.size(); ++i)
    {
        auto fewer = sections;
        fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(i));
        ASSERT_NO_FATAL_FAILURE(expectRefused(
            write(fewer), "'" + sections[i].id.idstr +
                              "' instance [0-9]+ is (expected|missing)"));
    }
}

TEST_F(HostileState, DuplicateSections)
{
    const auto sections = rightSections();
    for (std::size_t i = 0; i < sections.size(); ++i)
    {
        auto more = sections;
        more.insert(more.begin() + static_cast<std::ptrdiff_t>(i), more[i]);
        ASSERT_NO_FATAL_FAILURE(expectRefused(
            write(more), i + 1 < sections.size()
                             ? nameOf(sections[i]) + " where"
                             : "more sections than this machine"));
    }
}

TEST_F(HostileState, SwappedSections)
{
    const auto sections = rightSections();
    for (std::size_t i = 0; i + 1 < sections.size(); ++i)
    {
        auto swapped = sections;
        std::swap(swapped[i], swapped[i + 1]);
        ASSERT_NO_FATAL_FAILURE(expectRefused(
            write(swapped), nameOf(sections[i + 1]) + " where '" +
                                sections[i].id.idstr + "' instance " +
                                std::to_string(sections[i].id.instance)));
    }
}

TEST_F(HostileState, SectionsOfOtherVersions)
{
    auto sections = rightSections();
    for (Section& section : sections)
    {
        for (const std::uint32_t version :
             {section.id.version - 1, section.id.version + 1, ~0U})
        {
            const std::uint32_t own =
                std::exchange(section.id.version, version);
            ASSERT_NO_FATAL_FAILURE(expectRefused(
                write(sections), nameOf(section) + " has version"));
            section.id.version = own;
        }
    }
}

TEST_F(HostileState, SectionsOfOtherLength)
{
    const auto sections = rightSections();
    for (std::size_t i = 0; i < sections.size(); ++i)
    {
        auto changed = sections;
        changed[i].payload.push_back(0);
        ASSERT_NO_FATAL_FAILURE(
            expectRefused(write(changed), nameOf(sections[i])));
        changed[i].payload.resize(sections[i].payload.size() - 1);
        ASSERT_NO_FATAL_FAILURE(expectRefused(write(changed), "section '"));
    }
}

TEST_F(HostileState, OtherNumbersOfCpus)
{
    auto sections = rightSections();
    auto more = sections;
    std::erase_if(sections, [](const Section& section) {
        return section.id.instance != 0;
    });
    ASSERT_NO_FATAL_FAILURE(
        expectRefused(write(sections), "section '.*' instance 1"));
    for (const char* name : {"cpu_common", "cpu", "apic"})
    {
        Section third = findSection(more, name, 1);
        third.id.instance = 2;
        const auto second = std::ranges::find_if(more, [&](const Section& s) {
            return s.id.idstr == name && s.id.instance == 1;
        });
        more.insert(second + 1, third);
    }
    ASSERT_NO_FATAL_FAILURE(expectRefused(write(more), "instance 2"));
    // A guest with one vCPU, from another VM.
    ASSERT_NO_FATAL_FAILURE(
        expectRefused(loadStream("guest-1cpu-production"), "section '"));
}

TEST_F(HostileState, Mutations)
{
    const std::uint64_t seed = fromEnvironment("AIRLOCK_SEED", 1);
    constexpr unsigned between = 1000;
    constexpr std::uint64_t mostGrowth = 64U << 20;
    const pid_t pid = rig_->production->machine().process().pid();
    StreamMutator mutator(rig_->right, seed);
    unsigned refusals = 0;
    std::uint64_t before = 0;
    const auto start = std::chrono::steady_clock::now();
    for (unsigned i = 0; i < mutationsWanted(); ++i)
    {
        const Mutation mutation = mutator.next();
        SCOPED_TRACE(
            fmt::format("seed {}, mutation {}: {}", seed, i, mutation.what));
        expectHarmless(mutation.stream, refusals);
        if (HasFailure())
        {
            return;
        }
        if (i % between == between - 1)
        {
            expectNothingIsLeft();
            expectRightLoads();
            before = before == 0 ? residentBytes(pid) : before;
        }
    }
    const std::chrono::duration<double> time =
        std::chrono::steady_clock::now() - start;
    fmt::print("{} mutations with seed {}: {} refused, {} loaded as they are, "
               "{:.0f} per second\n",
               mutationsWanted(), seed, refusals, mutationsWanted() - refusals,
               mutationsWanted() / time.count());
    EXPECT_LT(residentBytes(pid), before + mostGrowth) << "QEMU keeps memory";
    EXPECT_GT(refusals, mutationsWanted() / 4);
    EXPECT_LT(refusals, mutationsWanted());
}

// --- Bundles, through the library --------------------------------------------

struct Impossible
{
    std::string section;
    std::string expected; ///< section, field and reason
    std::function<void(Record&)> change;
    std::uint32_t instance = 0;
};

std::function<void(Record&)> set(const char* field, std::uint64_t value)
{
    return [=](Record& state) { state.number(field) = value; };
}
std::function<void(Record&)> setQueue(const char* column, std::uint64_t value)
{
    return [=](Record& state) {
        Rows& rows = state.rows("vq");
        rows.at(0, rows.column(column)) = value;
    };
}
std::function<void(Record&)> setConfig(std::size_t at, std::uint8_t value)
{
    return [=](Record& state) {
        state.record("pci_dev").bytes("config").at(at) = value;
    };
}
std::function<void(Record&)> setFeature(unsigned bit)
{
    return [=](Record& state) {
        state.subsection("virtio/64bit_features")->number("guest_features") |=
            1ULL << bit;
    };
}

/** Design, section 12: what no guest can set itself, one of each kind. */
std::vector<Impossible> impossibleStates()
{
    return {
        {"virtio-blk", "vq\\[0\\].vring.num: 0x0 is not a power of two",
         setQueue("vring.num", 0)},
        {"virtio-blk", "vq\\[0\\].vring.num: 0x100000 is not a power of two",
         setQueue("vring.num", 1U << 20)},
        {"virtio-blk", "vq\\[0\\].vring.desc: 0xfee00000 is a ring that is not",
         setQueue("vring.desc", 0xfee00000)},
        {"virtio-blk", "vq\\[0\\].vring.desc: 0xfffffff0 is a ring that is not",
         setQueue("vring.desc", 0xfffffff0)},
        {"virtio-blk", "vq\\[0\\].last_avail_idx: .* does not fit",
         [](Record& state) {
             Rows& rows = state.rows("vq");
             rows.at(0, rows.column("last_avail_idx")) ^= 0x8000;
         }},
        {"virtio-blk", "rq: there are requests in flight", set("rq", 1)},
        {"virtio-net", "64bit_features/guest_features: .* has bits that",
         setFeature(34)}, // packed rings
        {"virtio-net", "64bit_features/guest_features: .* has bits that",
         setFeature(35)}, // in order
        {"virtio-rng", "config_len: 0x1 differs",
         [](Record& state) {
             state.number("config_len") = 1;
             state.bytes("config").push_back(0);
         }},
        {"virtio-blk", "pci_dev.config\\[0\\]: 0x0 differs", setConfig(0, 0)},
        {"virtio-blk", "pci_dev.config\\[61\\]: 0x2 differs", setConfig(61, 2)},
        {"virtio-blk", "pci_dev.config\\[20\\]: .* is a BAR outside",
         [](Record& state) {
             for (const std::size_t at : {0x15U, 0x16U, 0x17U})
             {
                 setConfig(at, 0)(state);
             }
         }},
        {"virtio-net", "pci_dev.config\\[32\\]: 0xfec00000 is a BAR outside",
         [](Record& state) {
             setConfig(0x21, 0)(state);
             setConfig(0x22, 0xc0)(state);
             setConfig(0x23, 0xfe)(state);
             for (std::size_t at = 0x24; at < 0x28; ++at)
             {
                 setConfig(at, 0)(state);
             }
         }},
        {"virtio-net", "msix_table\\[0\\]: 0x1000 is a message address outside",
         [](Record& state) {
             Bytes& table = state.bytes("msix_table");
             std::fill_n(table.begin(), 8, std::uint8_t{0});
             table[1] = 0x10;
         }},
        {"mch", "parent_obj.config\\[96\\]: .* does not place",
         [](Record& state) {
             state.record("parent_obj").bytes("config").at(0x63) = 0xf0;
         }},
        {"cpu", "cpu/1: env.hflags: .* does not follow",
         [](Record& state) { state.number("env.hflags") |= 1U << 19; }, 1},
        {"cpu", "cpu/0: env.smbase: 0xa0000 differs",
         set("env.smbase", 0xa0000)},
        {"cpu", "cpu/0: env.vm_vmcb: 0x1000 is state of nested",
         set("env.vm_vmcb", 0x1000)},
        {"cpu", "cpu/0: env.efer: .* has bits",
         [](Record& state) { state.number("env.efer") |= 1U << 12; }},
        {"cpu", "cpu/0: env.cr\\[0\\]: .* has paging without protection",
         [](Record& state) { state.number("env.cr[0]") &= ~1ULL; }},
        {"cpu", "cpu/0: env.tsc: 0x8000000000000000 is out of range",
         set("env.tsc", 1ULL << 63)},
        {"cpu", "cpu/0: env.system_time_msr: .* is set, and there is no KVM",
         set("env.system_time_msr", 0x1001)},
        {"cpu", "cpu/msr_ia32_misc_enable.*: 0x400000000 has bits",
         [](Record& state) {
             std::erase_if(state.subsections(), [](const Record& sub) {
                 return sub.schema().name == "cpu/msr_ia32_misc_enable";
             });
             addSubsection(state, "cpu/msr_ia32_misc_enable")
                 .number("env.msr_ia32_misc_enable") = 1ULL << 34;
         }},
        {"cpu_common", "cpu_common/0: interrupt_request: 0x40 has bits",
         set("interrupt_request", 0x40)},
        {"apic", "apic/1: id: 0x0 differs", set("id", 0), 1},
        {"apic", "apic/0: apicbase: 0xfed00900 moves",
         set("apicbase", 0xfed00900)},
        {"apic", "apic/0: count_shift: .* does not follow",
         set("count_shift", 31)},
        {"ioapic", "ioredtbl\\[1\\]: 0x231 has a delivery mode",
         [](Record& state) { state.numbers("ioredtbl")[1] = 0x231; }},
        {"timer", "cpu_clock_offset: .* is beyond the longest boot",
         set("cpu_clock_offset", ~0ULL >> 1)},
        {"airlock-pm", "pm1_sts: 0x8000 has bits", set("pm1_sts", 0x8000)},
        {"PCIBUS", "nirq: 0x0 differs",
         [](Record& state) {
             state.number("nirq") = 0;
             state.numbers("irq_count").clear();
         }},
    };
}

TEST_F(HostileState, StatesThatNoGuestCanSet)
{
    for (const Impossible& impossible : impossibleStates())
    {
        SCOPED_TRACE(impossible.expected);
        auto sections = rig_->sections;
        Section& section =
            findSection(sections, impossible.section, impossible.instance);
        changeSection(section, impossible.change);
        const std::string refused =
            refusedByLibrary(rig_->bundleOf(sections), rig_->job);
        EXPECT_THAT(refused, HasSubstr(handover::label(section.id)));
        EXPECT_THAT(refused, ContainsRegex(impossible.expected));
        if (HasFailure())
        {
            return;
        }
    }
}

TEST_F(HostileState, BundlesWithOtherSections)
{
    for (const Section& section : rightSections())
    {
        auto twice = rig_->sections;
        twice.push_back(section);
        EXPECT_EQ(refusedByLibrary(rig_->bundleOf(twice), rig_->job),
                  handover::label(section.id) + ": section appears twice");
        auto fewer = rig_->sections;
        std::erase_if(fewer, [&](const Section& other) {
            return other.id.sameDevice(section.id);
        });
        EXPECT_EQ(refusedByLibrary(rig_->bundleOf(fewer), rig_->job),
                  handover::label(section.id) + ": is missing");
    }
    auto unknown = rig_->sections;
    unknown.push_back({{"0000:00:1f.7/backdoor", 0, 1}, Bytes(8)});
    EXPECT_EQ(refusedByLibrary(rig_->bundleOf(unknown), rig_->job),
              "0000:00:1f.7/backdoor/0: section is of no device in the "
              "catalog");
}

TEST_F(HostileState, BundlesOfAnotherJob)
{
    const Bundle& bundle = *rig_->bundle;
    JobTicket job = rig_->job;
    job.generation += 1;
    EXPECT_THAT(refusedByLibrary(bundle, job),
                HasSubstr("manifest: job.generation"));
    job = JobTicket::issue("00000000-7c0e-4a39-8f10-5b7d2c34e601",
                           rig_->job.generation);
    EXPECT_THAT(refusedByLibrary(bundle, job), HasSubstr("manifest: job.vm"));
    job = JobTicket::issue(rig_->job.vm, rig_->job.generation);
    EXPECT_THAT(refusedByLibrary(bundle, job),
                HasSubstr("manifest: job.nonce"));
}

TEST_F(HostileState, BundlesOfAnotherMachine)
{
    handover::Manifest manifest = rig_->bundle->manifest();
    manifest.guest.vcpus = 1;
    const Bundle other(manifest, Bytes(rig_->bundle->deviceState()),
                       rig_->bundle->memoryDigest(),
                       UniqueFd(::dup(rig_->memory.get())));
    EXPECT_THAT(refusedByLibrary(other, rig_->job),
                HasSubstr("manifest: guest"));
}

TEST_F(HostileState, MemoryThatWasChanged)
{
    // The same memory with one byte more, under the digests of the right one.
    UniqueFd changed = createMemfd("changed", gib);
    handover::copyMemory(rig_->memory.get(), changed.get(), gib);
    ASSERT_EQ(::pwrite(changed.get(), "x", 1, 0x1234567), 1);
    const Bundle other(rig_->bundle->manifest(),
                       Bytes(rig_->bundle->deviceState()),
                       rig_->bundle->memoryDigest(), std::move(changed));
    EXPECT_THAT(refusedByLibrary(other, rig_->job), HasSubstr("memory"));
}

// --- And then the right one --------------------------------------------------

TEST_F(HostileState, ThenTheRightStateLoadsAndTheGuestAnswers)
{
    expectRightLoads();
    vm::handOver(*rig_->production, *rig_->bundle, rig_->job);
    vm::GuestShell shell(rig_->production->machine());
    EXPECT_THAT(shell.run("echo $((6 * 7))", answerTime), HasSubstr("42"));
    shell.checkDisk(answerTime);
    const Json report = shell.settled(answerTime);
    EXPECT_EQ(report.at("system"), "running") << report.at("failed_units");
    EXPECT_EQ(report.at("trouble"), Json::array());
}

} // namespace
} // namespace airlock::test
