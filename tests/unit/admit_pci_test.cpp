#include "tests/unit/admit_guest.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

// Config space, BARs, MSI-X and INTx of the recorded guest: a console, an
// entropy source, a network card and a disk, each with MSI-X on, each with a
// BAR of 4 KiB at 0x14 and one of 16 KiB at 0x20.

namespace
{

using namespace airlock;
using namespace airlock::handover;
using airlock::test::Guest;
using airlock::test::Spoil;
using testing::HasSubstr;

constexpr const char* blk = "virtio-blk";
constexpr const char* net = "virtio-net";
constexpr const char* rng = "virtio-rng";
constexpr const char* bridge = "mch";

using Change = std::function<void(Record&)>;

Bytes& config(Record& s)
{
    const bool isBridge = s.schema().name == bridge;
    return s.record(isBridge ? "parent_obj" : "pci_dev").bytes("config");
}

void put(Bytes& bytes, std::size_t at, std::uint64_t value, std::size_t size)
{
    for (std::size_t i = 0; i < size; ++i)
    {
        bytes.at(at + i) = static_cast<std::uint8_t>(value >> (8 * i));
    }
}

/** Both registers of the BAR at 0x20, type bits as they are. */
Change moveBar(std::uint64_t address)
{
    return [=](Record& s) { put(config(s), 0x20, address | 0xc, 8); };
}
/** The BAR at 0x14. */
Change moveMsixBar(std::uint64_t address)
{
    return [=](Record& s) { put(config(s), 0x14, address, 4); };
}
/** One entry of the MSI-X table. */
Change setVector(std::size_t vector, std::uint64_t address, std::uint32_t data,
                 std::uint32_t control = 0)
{
    return [=](Record& s) {
        Bytes& table = s.bytes("msix_table");
        put(table, 16 * vector, address, 8);
        put(table, 16 * vector + 8, data, 4);
        put(table, 16 * vector + 12, control, 4);
    };
}
Change setPending(std::size_t byte, std::uint8_t bits)
{
    return [=](Record& s) { s.bytes("msix_pba").at(byte) = bits; };
}
Change setLevel(std::size_t pin, std::uint64_t level)
{
    return [=](Record& s) {
        s.record("pci_dev").numbers("irq_state").at(pin) = level;
    };
}
/** MSI-X enable and mask-all. */
Change msixControl(std::uint8_t high)
{
    return [=](Record& s) {
        const std::size_t capability = config(s)[0x34];
        config(s).at(capability + 3) = high;
    };
}

class Pci : public test::Spoiled
{};

TEST_P(Pci, Refuses)
{
    refuses();
}

// RAM ends at 512 MiB; ECAM is at 0xb0000000.
INSTANTIATE_TEST_SUITE_P(
    Bar, Pci,
    testing::Values(
        Spoil{"OverRam", blk, "pci_dev.config[32]: 0x10000000 is a BAR outside",
              moveBar(0x10000000)},
        Spoil{"AcrossTheEndOfRam", blk, "[32]: 0x1fffc000 is a BAR outside",
              moveBar(0x1fffc000)},
        Spoil{"Zero", blk, "pci_dev.config[32]: 0x0 is a BAR outside",
              moveBar(0)},
        Spoil{"MsixZero", blk, "pci_dev.config[20]: 0x0 is a BAR outside",
              moveMsixBar(0)},
        Spoil{"OverTheIoApic", blk, "[32]: 0xfec00000 is a BAR outside",
              moveBar(0xfec00000)},
        Spoil{"OverTheApics", blk, "[32]: 0xfee00000 is a BAR outside",
              moveBar(0xfee00000)},
        Spoil{"OverTheResetStub", blk, "[32]: 0xffffc000 is a BAR outside",
              moveBar(0xffffc000)},
        Spoil{"AtTheEndOfAddresses", blk,
              "[32]: 0xffffffffffffc000 is a BAR outside",
              moveBar(0xffffffffffffc000)},
        Spoil{"BeyondTheWindow", blk, "[32]: 0x400000000000 is a BAR outside",
              moveBar(1ULL << 46)},
        Spoil{"OverTheConfigurationWindow", blk,
              "[32]: 0xbfffc000 is a BAR over the configuration window",
              moveBar(0xbfffc000)},
        Spoil{"OverAnotherDevice", net, "is a BAR over another one",
              moveMsixBar(0xfebf0000)},
        Spoil{"OverItself", net, "is a BAR over another one",
              [](Record& s) {
                  moveBar(0xc0000000)(s);
                  moveMsixBar(0xc0003000)(s);
              }}),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    Msix, Pci,
    testing::Values(
        Spoil{"AddressInRam", blk,
              "msix_table[0]: 0x1000 is a message address outside",
              setVector(0, 0x1000, 0x25)},
        Spoil{"AddressZeroWithData", blk,
              "msix_table[0]: 0x0 is a message address outside",
              setVector(0, 0, 0x25)},
        Spoil{"AddressHigh", blk,
              "msix_table[1]: 0x1fee01004 is a message address outside",
              setVector(1, 0x1fee01004, 0x25)},
        Spoil{"AddressAtTheIoApic", blk,
              "msix_table[0]: 0xfec00000 is a message address outside",
              setVector(0, 0xfec00000, 0x25)},
        Spoil{"AddressNotAligned", blk,
              "msix_table[0]: 0xfee01002 is a message address outside",
              setVector(0, 0xfee01002, 0x25)},
        Spoil{"DataReserved", blk,
              "msix_table[0]: 0x10025 is message data with reserved bits",
              setVector(0, 0xfee01004, 0x10025)},
        Spoil{"SystemManagement", blk,
              "msix_table[0]: 0x225 is message data with a delivery mode",
              setVector(0, 0xfee01004, 0x225)},
        Spoil{"Init", blk,
              "msix_table[0]: 0x525 is message data with a delivery mode",
              setVector(0, 0xfee01004, 0x525)},
        Spoil{"External", blk,
              "msix_table[0]: 0x725 is message data with a delivery mode",
              setVector(0, 0xfee01004, 0x725)},
        Spoil{"MaskedIsChecked", blk,
              "msix_table[0]: 0x1000 is a message address outside",
              setVector(0, 0x1000, 0x25, 1)},
        Spoil{"Control", blk,
              "msix_table[0]: 0x2 is vector control with reserved bits",
              setVector(0, 0xfee01004, 0x25, 2)},
        Spoil{"PendingThatIsNotThere", blk,
              "msix_pba[0]: has a pending bit for a vector that is not there",
              setPending(0, 0x80)},
        Spoil{"PendingNotMasked", blk,
              "msix_pba[0]: has a pending bit for a vector that is not masked",
              setPending(0, 1)}),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    Lines, Pci,
    testing::Values(
        Spoil{"RaisedWithMsix", blk,
              "pci_dev.irq_state[0]: is raised although the device has no",
              setLevel(0, 1)},
        Spoil{"RaisedWithoutReason", blk,
              "pci_dev.irq_state[0]: is raised although the device has no",
              [](Record& s) {
                  msixControl(0)(s);
                  setLevel(0, 1)(s);
                  s.number("isr") = 2;
              }},
        Spoil{"Level", blk, "pci_dev.irq_state[0]: 0x2 is not a level",
              setLevel(0, 2)},
        Spoil{"AnotherPin", blk, "pci_dev.irq_state[1]: 0x1 is not a level",
              setLevel(1, 1)},
        Spoil{"Bridge", bridge, "parent_obj.irq_state[0]: 0x1 is not a level",
              [](Record& s) {
                  s.record("parent_obj").numbers("irq_state")[0] = 1;
              }},
        Spoil{"FewerPirqs", "PCIBUS", "PCIBUS/0: nirq: 0x4 differs",
              [](Record& s) {
                  s.number("nirq") = 4;
                  s.numbers("irq_count").resize(4);
              }},
        Spoil{"Version", blk, "pci_dev.version_id: 0x3 is not the version",
              [](Record& s) { s.record("pci_dev").number("version_id") = 3; }},
        Spoil{"BridgeVersion", bridge,
              "parent_obj.version_id: 0x3 is not the version",
              [](Record& s) {
                  s.record("parent_obj").number("version_id") = 3;
              }}),
    test::spoilName);

Change moveEcam(std::uint64_t value)
{
    return [=](Record& s) { put(config(s), 0x60, value, 8); };
}

INSTANTIATE_TEST_SUITE_P(
    Bridge, Pci,
    testing::Values(
        Spoil{"WindowOverRam", bridge,
              "parent_obj.config[96]: 0x10000001 does not place",
              moveEcam(0x10000001)},
        Spoil{"WindowOverTheIoApic", bridge,
              "parent_obj.config[96]: 0xf0000001 does not place",
              moveEcam(0xf0000001)},
        Spoil{"WindowAboveFourGigabytes", bridge,
              "parent_obj.config[96]: 0x1b0000001 does not place",
              moveEcam(0x1b0000001)},
        Spoil{"WindowOfAnotherSize", bridge,
              "parent_obj.config[96]: 0xb0000003 does not place",
              moveEcam(0xb0000003)},
        Spoil{"WindowUnderABar", "mch", "is a BAR over the configuration",
              moveEcam(0xe0000001), 0,
              [](Guest& guest) { guest.change(blk, moveBar(0xe0000000)); }}),
    test::spoilName);

// --- Every bit of config space -----------------------------------------------

using Mask = std::map<std::size_t, std::uint8_t>; ///< offset -> writable bits

constexpr std::size_t msixAt = 0x98;
constexpr std::size_t windowAt = 0x84;

/** virtio 1.2, 4.1.4; PCI 3.0, 6.1 and 6.8.2. */
const Mask deviceBits = {
    {0x04, 0x07},         {0x05, 0x05},         {0x0c, 0xff},
    {0x3c, 0xff},         {0x15, 0xf0},         {0x16, 0xff},
    {0x17, 0xff},         {0x21, 0xc0},         {0x22, 0xff},
    {0x23, 0xff},         {0x24, 0xff},         {0x25, 0xff},
    {0x26, 0xff},         {0x27, 0xff},         {msixAt + 3, 0xc0},
    {windowAt + 4, 0xff}, {windowAt + 8, 0xff}, {windowAt + 9, 0xff},
    {0x8e, 0xff},         {0x8f, 0xff},         {0x90, 0xff},
    {0x91, 0xff},         {0x92, 0xff},         {0x93, 0xff},
    {0x94, 0xff},         {0x95, 0xff},         {0x96, 0xff},
    {0x97, 0xff},
};

/** Command and what the firmware of a q35 sets up: TSEG, PCIEXBAR, PAM, SMRAM
 * (hw/pci-host/q35.c). */
const Mask bridgeBits = {
    {0x04, 0x07}, {0x05, 0x05}, {0x0c, 0xff}, {0x3c, 0xff}, {0x50, 0xff},
    {0x51, 0xff}, {0x60, 0xff}, {0x61, 0xff}, {0x62, 0xff}, {0x63, 0xff},
    {0x64, 0xff}, {0x65, 0xff}, {0x66, 0xff}, {0x67, 0xff}, {0x90, 0x30},
    {0x91, 0x33}, {0x92, 0x33}, {0x93, 0x33}, {0x94, 0x33}, {0x95, 0x33},
    {0x96, 0x33}, {0x9c, 0xff}, {0x9d, 0xff}, {0x9e, 0xff},
};

class ConfigSpace : public testing::TestWithParam<const char*>
{};

TEST_P(ConfigSpace, OnlyBitsThatTheGuestWritesMayDiffer)
{
    const std::string name = GetParam();
    const Mask& writable = name == bridge ? bridgeBits : deviceBits;
    unsigned admitted = 0;
    Guest guest;
    guest.keepOnly(name);
    for (std::size_t i = 0; i < 256 * 8; ++i)
    {
        const std::size_t at = i / 8;
        const auto bit = static_cast<std::uint8_t>(1U << (i % 8));
        // On the bytes: with another list of capabilities they would be read
        // and written differently.
        std::uint8_t& byte = Guest::find(guest.candidate, name).payload[4 + at];
        byte ^= bit;
        const std::string refused = guest.refused();
        byte ^= bit;
        const auto row = writable.find(at);
        const bool mayDiffer =
            row != writable.end() && (row->second & bit) != 0;
        if (mayDiffer)
        {
            // Another rule may refuse it, for what it would do.
            EXPECT_THAT(refused, testing::Not(HasSubstr("cannot write")))
                << at << " bit " << i % 8;
            admitted += refused.empty();
            continue;
        }
        // The list of capabilities says where the MSI-X state ends.
        EXPECT_THAT(refused, HasSubstr(name)) << at << " bit " << i % 8;
        if (at < 0x34)
        {
            EXPECT_THAT(refused, HasSubstr("that the guest cannot write"))
                << at << " bit " << i % 8;
        }
    }
    EXPECT_GE(admitted, 40U);
}

INSTANTIATE_TEST_SUITE_P(
    Pci, ConfigSpace, testing::Values(blk, net, rng, "virtio-console", bridge),
    [](const auto& name) { return test::testName(name.param); });

// --- What a guest may do -----------------------------------------------------

TEST(PciAdmitted, BarsThatAreNotDecoded)
{
    Guest guest;
    guest.change(rng, [](Record& s) {
        config(s)[4] &= 0xfd;
        moveBar(0xfee00000)(s);
        moveMsixBar(0)(s);
    });
    EXPECT_EQ(guest.refused(), "");
}

TEST(PciAdmitted, BarsAnywhereInTheWindows)
{
    Guest guest;
    guest.change(blk, moveBar(1ULL << 32));
    guest.change(net, moveBar(0x20000000));
    guest.change(rng, moveMsixBar(0xfebff000 - 0x100000));
    EXPECT_EQ(guest.refused(), "");
    guest.env.mmio64.start += 1ULL << 30; // as with that much RAM
    EXPECT_THAT(guest.refused(),
                HasSubstr("0x100000000 is a BAR outside the PCI windows"));
}

TEST(PciAdmitted, PendingVectorsThatAreMasked)
{
    Guest guest;
    guest.change(blk, [](Record& s) {
        setVector(0, 0xfee01004, 0x25, 1)(s);
        setPending(0, 1)(s);
    });
    EXPECT_EQ(guest.refused(), "");
    guest.change(blk, [](Record& s) {
        setVector(0, 0xfee01004, 0x25, 0)(s);
        msixControl(0xc0)(s);
        setPending(0, 3)(s);
    });
    EXPECT_EQ(guest.refused(), "");
}

TEST(PciAdmitted, VectorsNotSetUp)
{
    Guest guest;
    guest.change(blk, setVector(1, 0, 0, 1));
    EXPECT_EQ(guest.refused(), "");
}

TEST(PciAdmitted, InterruptLineWithoutMsix)
{
    Guest guest;
    guest.change(blk, [](Record& s) {
        msixControl(0)(s);
        config(s)[5] &= 0xfb; // INTx not disabled
        s.number("isr") = 1;
        setLevel(0, 1)(s);
    });
    EXPECT_EQ(guest.refused(), "");
}

} // namespace
