/** What the bytes mean that the production QEMU saves. What the tables admit,
 * and no state after a reset has, is loaded and saved again; the names of the
 * fields are QEMU's own; a guest that uses its devices finds its values under
 * them. */
#include "devmodel/handover/schema_tables/tables.hpp"
#include "devmodel/vm/boot_vm.hpp"
#include "schema_rig.hpp"
#include "tests/payload/payload_guest.hpp"
#include "tests/unit/recorded_guest.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <regex>
#include <set>

namespace airlock::test
{
namespace
{

using handover::Encoding;
using handover::Record;
using handover::Schema;
using handover::Section;
using testing::UnorderedElementsAre;

constexpr Milliseconds trapTime = schemaTrapTime;

// --- What no state after a reset has -----------------------------------------

/** The record whose table has the subsection, in the section's groups. */
Record* ownerOf(Record& record, std::string_view subsection)
{
    if (std::ranges::count(record.schema().subsections, subsection,
                           &handover::Subsection::name) != 0)
    {
        return &record;
    }
    for (std::size_t i = 0; i < record.values().size(); i++)
    {
        auto* inner = std::get_if<std::vector<Record>>(&record.values()[i]);
        if (inner != nullptr && record.schema().fields[i].name.empty())
        {
            if (Record* owner = ownerOf(inner->front(), subsection))
            {
                return owner;
            }
        }
    }
    return nullptr;
}

/** Admitted subsections of a table and of the groups in it. */
std::vector<std::string_view> admittedIn(const Schema& schema)
{
    std::vector<std::string_view> out;
    for (const handover::Subsection& sub : schema.subsections)
    {
        if (sub.schema != nullptr)
        {
            out.push_back(sub.name);
        }
    }
    for (const handover::Field& field : schema.fields)
    {
        if (field.encoding == Encoding::Struct && field.name.empty())
        {
            const auto inner = admittedIn(*field.structure);
            out.insert(out.end(), inner.begin(), inner.end());
        }
    }
    return out;
}

/** Puts another number into each field, so that a field that QEMU reads at
 * another place or in another width would come back changed. The low four bits
 * stay clear: those of int_ctl have to be in v_tpr as well. */
class Filler
{
  public:
    void fill(Record& record)
    {
        for (std::size_t i = 0; i < record.values().size(); i++)
        {
            std::visit(
                [&](auto& value) { put(value, record.schema().fields[i]); },
                record.values()[i]);
        }
    }

  private:
    std::uint64_t next(const handover::Field& field)
    {
        last_ += 0x1010'1010'1010'1010;
        switch (field.encoding)
        {
        case Encoding::Bool:
            return 1;
        case Encoding::U8:
            return last_ & 0x70;
        case Encoding::U16:
            return last_ & 0x7ff0;
        case Encoding::U32:
        case Encoding::I32:
            return last_ & 0x7fff'fff0;
        default:
            return last_;
        }
    }

    void put(std::monostate&, const handover::Field&) {}
    void put(Bytes&, const handover::Field&) {}
    void put(std::uint64_t& value, const handover::Field& field)
    {
        value = next(field);
    }
    void put(handover::Numbers& values, const handover::Field& field)
    {
        std::ranges::generate(values, [&] { return next(field); });
    }
    void put(handover::Rows& rows, const handover::Field&)
    {
        for (std::size_t row = 0; row < rows.size(); row++)
        {
            std::size_t column = 0;
            for (const handover::Field& field : rows.row().fields)
            {
                for (std::size_t i = 0; i < field.count; i++)
                {
                    rows.at(row, column++) = next(field);
                }
            }
        }
    }
    void put(std::vector<Record>& records, const handover::Field&)
    {
        for (Record& record : records)
        {
            fill(record);
        }
    }

    std::uint64_t last_ = 0;
};

/** After a load: back to the trap. */
void trapAgain(vm::ProductionVm& production)
{
    QmpClient& qmp = production.machine().qmp();
    qmp.clearEvents();
    qmp.execute("system_reset");
    qmp.waitEvent("RESET", trapTime);
    production.machine().resume();
    production.waitTrap(trapTime);
}

/** Loads the machine's own state with one more subsection. QEMU's load command
 * saves again and takes nothing that does not come out as it went in. */
std::string loadWith(vm::ProductionVm& production,
                     std::vector<Section> sections, std::size_t index,
                     std::string_view name)
{
    changeSection(sections[index], [&](Record& record) {
        Record& added = addSubsection(*ownerOf(record, name), name);
        Filler().fill(added);
    });
    try
    {
        production.loadState(
            handover::writeProductionStream(vm::productionMachine, sections));
    }
    catch (const QmpError& error)
    {
        return error.description();
    }
    const std::vector<Section> saved = parseSaved(production.saveState());
    trapAgain(production);
    return saved[index].payload == sections[index].payload
               ? ""
               : "saved other bytes than it has loaded";
}

/** Those that this machine does not take with just any value. */
const std::map<std::string_view, std::string_view> elsewhere = {
    {"cpu/amd_tsc_scale_msr", "needs a CPU model with TSC scaling"},
    {"cpu/msr_tsx_ctrl", "needs a CPU model that has the register"},
    {"virtio/ringsize", "has to be the device's own; a guest's is below"},
};

TEST(SchemaValues, EveryAdmittedSubsectionIsWhatQemuReads)
{
    const auto production = start(plain());
    const std::vector<Section> sections = parseSaved(production->saveState());
    std::set<std::string_view> tried;
    for (std::size_t i = 0; i < sections.size(); i++)
    {
        const Record record = handover::parseSection(sections[i]);
        for (const std::string_view name : admittedIn(record.schema()))
        {
            if (record.subsection(name) != nullptr || tried.contains(name))
            {
                continue;
            }
            tried.insert(name);
            const std::string refused =
                loadWith(*production, sections, i, name);
            EXPECT_EQ(refused.empty(), !elsewhere.contains(name))
                << name << ": " << refused;
        }
    }
    fmt::print("{} subsections\n", tried.size());
    EXPECT_GE(tried.size(), 20U);
}

// --- QEMU's own names --------------------------------------------------------

/** Without the numbers of array elements, and each name once in a row. */
class Names
{
  public:
    void add(const std::string& path)
    {
        static const std::regex index("\\[[0-9]+\\]");
        std::string name = std::regex_replace(path, index, "");
        if (names_.empty() || names_.back() != name)
        {
            names_.push_back(std::move(name));
        }
    }
    const std::vector<std::string>& list() const { return names_; }

  private:
    std::vector<std::string> names_;
};

/** The fields of a section as QEMU describes them in a stream of `migrate`. */
std::vector<std::string> namesOfQemu(const handover::DeviceDesc& device,
                                     ByteView payload)
{
    static const std::regex subsection(": ");
    Names out;
    for (const handover::FieldSpan& span : handover::layOut(device, payload))
    {
        if (!span.path.ends_with("unused") && !span.path.ends_with(": header"))
        {
            out.add(std::regex_replace(span.path, subsection, "/"));
        }
    }
    return out.list();
}

/** The same by the tables, which call four things by other names than QEMU:
 * the parts of vector registers, and those of x87 registers. */
std::vector<std::string> namesOfTables(const Section& section)
{
    static const std::regex vectors("env\\.(xmm|ymmh|zmmh|hi16_zmm)_regs"
                                    "(\\[[0-9]+\\])\\.q");
    static const std::regex x87("\\.tmp_(mant|exp)");
    Names out;
    for (const handover::Leaf& leaf :
         handover::leaves(handover::parseSection(section)))
    {
        std::string path =
            std::regex_replace(leaf.path, vectors, "env.xmm_regs$2._q_ZMMReg");
        out.add(std::regex_replace(path, x87, ".tmp"));
    }
    return out.list();
}

/** The boot machine writes the same sections by stock `migrate`, which adds a
 * description of each field: were two of one size to swap their places, the
 * bytes would not show it, but the names do. What virtio devices write by hand
 * is one field in it; a guest has to find that, below. */
TEST(SchemaValues, FieldsHaveTheNamesThatQemuGivesThem)
{
    const vm::GuestSpec spec = plain().spec;
    vm::BootVm boot(vm::findQemuBuilds(vm::defaultBuildDirectory()).boot, spec,
                    {}, schemaLog());
    boot.save();
    const handover::BootStream stream =
        handover::parseBootStream(boot.end().state);
    std::set<std::string> compared;
    for (std::size_t i = 0; i < stream.sections.size(); i++)
    {
        const Section& section = stream.sections[i];
        const std::string name = handover::vmstateName(section.id.idstr);
        if (handover::findSchema(section.id) != nullptr &&
            !name.starts_with("virtio-"))
        {
            EXPECT_EQ(
                namesOfTables(section),
                namesOfQemu(stream.description.devices[i], section.payload))
                << handover::label(section.id);
            compared.insert(name);
        }
    }
    EXPECT_THAT(compared, UnorderedElementsAre("timer", "airlock-pm", "cpu",
                                               "cpu_common", "apic", "ioapic",
                                               "PCIHost", "PCIBUS", "mch"));
}

// --- What a guest has set ----------------------------------------------------

constexpr std::uint32_t apicBase = 0xfee00000;
constexpr std::uint32_t ioapicBase = 0xfec00000;
constexpr std::uint32_t ringBase = 16U << 20; ///< memory that nobody uses
constexpr std::uint32_t ringStep = 0x10000;
constexpr std::uint32_t messageAddress = 0xfee01000;

std::uint32_t bar(Payload& payload, unsigned slot, unsigned number)
{
    return readConfig(payload, slot, 0x10 + 4 * number, 4) & ~0xfU;
}

/** A driver of a virtio device that has one queue, and nothing to do: registers
 * as in virtio 1.2, 4.1.4.3. */
class QuietDriver
{
  public:
    QuietDriver(Payload& payload, unsigned slot)
        : payload_(payload), slot_(slot), registers_(bar(payload, slot, 4)),
          rings_(ringBase + slot * ringStep)
    {}

    void start()
    {
        write(status, 1, 0);
        write(status, 1, 3); // acknowledged, there is a driver
        for (std::uint32_t half : {0U, 1U})
        {
            write(deviceFeatureSelect, 4, half);
            features_.at(half) = payload_.peek(registers_ + deviceFeature, 4);
            write(driverFeatureSelect, 4, half);
            write(driverFeature, 4, features_.at(half));
        }
        write(status, 1, 0x0b); // features are final
        setMessage();
        setQueue();
        write(status, 1, 0x0f); // goes
    }

    /** The device's section has what was written, where the table says. */
    void expectIn(const Record& state) const
    {
        SCOPED_TRACE(fmt::format("slot {:#x}", slot_));
        EXPECT_EQ(state.number("status"), 0x0fU);
        EXPECT_EQ(state.number("guest_features"), features_[0]);
        EXPECT_EQ(
            state.subsection("virtio/64bit_features")->number("guest_features"),
            std::uint64_t{features_[1]} << 32 | features_[0]);
        EXPECT_EQ(state.number("config_vector"), 0U);
        expectMessage(state.bytes("msix_table"));
        expectQueue(state);
        expectModern(state.subsection("virtio/extra_state")
                         ->record("extra_state")
                         .subsection("virtio_pci/modern_state"));
    }

  private:
    enum Register : std::uint32_t
    {
        deviceFeatureSelect = 0x00,
        deviceFeature = 0x04,
        driverFeatureSelect = 0x08,
        driverFeature = 0x0c,
        configVector = 0x10,
        status = 0x14,
        queueSelect = 0x16,
        queueSize = 0x18,
        queueVector = 0x1a,
        queueEnable = 0x1c,
        queueDescriptors = 0x20,
        queueDriver = 0x28,
        queueDevice = 0x30,
    };
    static constexpr std::uint32_t size_ = 64;
    static constexpr std::uint32_t vector_ = 1;

    void write(std::uint32_t at, unsigned width, std::uint32_t value)
    {
        payload_.poke(registers_ + at, width, value);
    }

    void setMessage()
    {
        Bytes config;
        for (unsigned at = 0; at < handover::tables::pciConfigSize; at++)
        {
            config.push_back(
                static_cast<std::uint8_t>(readConfig(payload_, slot_, at, 1)));
        }
        const auto msix = handover::tables::msixCapability(config);
        ASSERT_GT(msix.entries, vector_);
        writeConfig(payload_, slot_, msix.offset + 2, 2, 0x8000);
        const std::uint32_t entry =
            bar(payload_, slot_, 1) + vector_ * handover::tables::msixEntrySize;
        payload_.poke(entry, 4, messageAddress);
        payload_.poke(entry + 4, 4, 0);
        payload_.poke(entry + 8, 4, message());
        payload_.poke(entry + 12, 4, 0);
        write(configVector, 2, 0);
    }

    void setQueue()
    {
        write(queueSelect, 2, 0);
        write(queueSize, 2, size_);
        write(queueVector, 2, vector_);
        write(queueDescriptors, 4, rings_);
        write(queueDriver, 4, rings_ + 0x1000);
        write(queueDevice, 4, rings_ + 0x2000);
        for (std::uint32_t at : {queueDescriptors, queueDriver, queueDevice})
        {
            write(at + 4, 4, 0);
        }
        write(queueEnable, 2, 1);
    }

    std::uint32_t message() const { return 0x4000 + slot_; }

    void expectMessage(ByteView table) const
    {
        Bytes expected;
        for (std::uint32_t word : {messageAddress, 0U, message(), 0U})
        {
            for (unsigned i = 0; i < 4; i++)
            {
                expected.push_back(static_cast<std::uint8_t>(word >> 8 * i));
            }
        }
        const ByteView entry = table.subspan(
            vector_ * handover::tables::msixEntrySize, expected.size());
        EXPECT_TRUE(std::ranges::equal(entry, expected));
    }

    void expectQueue(const Record& state) const
    {
        const handover::Rows& queue = state.rows("vq");
        EXPECT_EQ(queue.at(0, "vring.num"), size_);
        EXPECT_EQ(queue.at(0, "vring.desc"), rings_);
        EXPECT_EQ(queue.at(0, "last_avail_idx"), 0U);
        EXPECT_EQ(queue.at(0, "vector"), vector_);
        const handover::Rows& rings =
            state.subsection("virtio/virtqueues")->rows("vq");
        EXPECT_EQ(rings.at(0, "vring.avail"), rings_ + 0x1000);
        EXPECT_EQ(rings.at(0, "vring.used"), rings_ + 0x2000);
        // Smaller than the device's own: so there is a subsection that says
        // what that is.
        const Record* sizes = state.subsection("virtio/ringsize");
        ASSERT_NE(sizes, nullptr);
        EXPECT_GT(sizes->rows("vq").at(0, "vring.num_default"), size_);
    }

    void expectModern(const Record* state) const
    {
        ASSERT_NE(state, nullptr);
        EXPECT_EQ(state->number("dfselect"), 1U);
        EXPECT_EQ(state->number("gfselect"), 1U);
        EXPECT_THAT(state->numbers("guest_features"),
                    testing::ElementsAreArray(features_));
        const handover::Rows& queue = state->rows("vqs");
        EXPECT_EQ(queue.at(0, "num"), size_);
        EXPECT_EQ(queue.at(0, "enabled"), 1U);
        EXPECT_EQ(queue.at(0, queue.column("desc", 0)), rings_);
        EXPECT_EQ(queue.at(0, queue.column("avail", 0)), rings_ + 0x1000);
        EXPECT_EQ(queue.at(0, queue.column("used", 0)), rings_ + 0x2000);
        EXPECT_EQ(queue.at(0, queue.column("used", 1)), 0U);
    }

    Payload& payload_;
    unsigned slot_;
    std::uint32_t registers_;
    std::uint32_t rings_;
    std::array<std::uint32_t, 2> features_{};
};

Record stateOf(std::vector<Section>& sections, const std::string& name)
{
    return handover::parseSection(findSection(sections, name));
}

/** Interrupt controllers, PM block and the host bridge's address register. */
void setPlatform(Payload& payload)
{
    payload.poke(apicBase + 0x80, 4, 0x20);        // task priority
    payload.poke(apicBase + 0xd0, 4, 0x2000000);   // logical destination
    payload.poke(apicBase + 0xf0, 4, 0x1ef);       // spurious vector, enabled
    payload.poke(apicBase + 0x320, 4, 0x10031);    // timer, masked
    payload.poke(apicBase + 0x360, 4, 0x10400);    // LINT1: NMI, masked
    payload.poke(apicBase + 0x3e0, 4, 3);          // timer: divide by 16
    payload.poke(ioapicBase, 4, 0x10 + 2 * 5);     // pin 5
    payload.poke(ioapicBase + 0x10, 4, 0x10055);   // masked
    payload.out(0x602, 2, 0x100);                  // PM: power button
    payload.out(0xcf8, 4, configAddress(5, 0x14)); // nothing is there
}

void expectPlatform(std::vector<Section>& sections)
{
    const Record apic = stateOf(sections, "apic");
    EXPECT_EQ(apic.number("tpr"), 0x20U);
    EXPECT_EQ(apic.number("log_dest"), 2U);
    EXPECT_EQ(apic.number("spurious_vec"), 0x1efU);
    EXPECT_EQ(apic.numbers("lvt").at(0), 0x10031U);
    EXPECT_EQ(apic.numbers("lvt").at(4), 0x10400U);
    EXPECT_EQ(apic.number("divide_conf"), 3U);
    const Record ioapic = stateOf(sections, "ioapic");
    EXPECT_EQ(ioapic.number("ioregsel"), 0x1aU);
    EXPECT_EQ(ioapic.numbers("ioredtbl").at(5), 0x10055U);
    EXPECT_EQ(stateOf(sections, "airlock-pm").number("pm1_en"), 0x100U);
    EXPECT_EQ(stateOf(sections, "PCIHost").number("config_reg"),
              configAddress(5, 0x14));
}

TEST(SchemaValues, AGuestFindsItsValuesUnderTheirNames)
{
    PayloadGuest guest({.vcpus = 2});
    guest.start();
    Payload payload = guest.payload();
    const std::map<std::string, unsigned> slots = {
        {"virtio-console", vm::consoleSlot},
        {"virtio-rng", vm::rngSlot},
        {"virtio-net", vm::firstNicSlot},
        {"virtio-blk", vm::firstDiskSlot}};
    std::map<std::string, QuietDriver> drivers;
    for (const auto& [name, slot] : slots)
    {
        drivers.emplace(name, QuietDriver(payload, slot)).first->second.start();
    }
    setPlatform(payload);

    const Bytes state = guest.stopAndSave();
    expectDescribed(guest.production().spec(), state);
    std::vector<Section> sections = parseSaved(state);
    for (const auto& [name, driver] : drivers)
    {
        driver.expectIn(stateOf(sections, name));
    }
    expectPlatform(sections);
    const Record net = stateOf(sections, "virtio-net");
    EXPECT_EQ(net.bytes("mac"), (Bytes{0x52, 0x54, 0, 0xa1, 0x0c, 0x07}));
    EXPECT_TRUE(net.has("curr_guest_offloads"));
}

} // namespace
} // namespace airlock::test
