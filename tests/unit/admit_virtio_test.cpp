#include "devmodel/handover/admit.hpp"
#include "tests/unit/admit_guest.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace
{

using namespace airlock;
using namespace airlock::handover;
using airlock::test::Guest;
using airlock::test::Spoil;
using testing::HasSubstr;

constexpr const char* blk = "virtio-blk";
constexpr const char* net = "virtio-net";
constexpr const char* console = "virtio-console";
constexpr std::uint64_t rngFeatures = 0x130000000;

Record& modern(Record& state)
{
    return *state.subsection("virtio/extra_state")
                ->record("extra_state")
                .subsection("virtio_pci/modern_state");
}

void setQueue(Record& state, std::size_t queue, const char* column,
              std::uint64_t value)
{
    Rows& rows = state.rows("vq");
    rows.at(queue, rows.column(column)) = value;
}

/** Moves a ring in both places where its address is. */
void moveRing(Record& state, const std::string& ring, std::uint64_t address,
              std::size_t queue = 0)
{
    if (ring == "desc")
    {
        setQueue(state, queue, "vring.desc", address);
    }
    else
    {
        Rows& rings = state.subsection("virtio/virtqueues")->rows("vq");
        rings.at(queue, rings.column("vring." + ring)) = address;
    }
    Rows& latches = modern(state).rows("vqs");
    latches.at(queue, latches.column(ring, 0)) = address & 0xffffffff;
    latches.at(queue, latches.column(ring, 1)) = address >> 32;
}

void setLatch(Record& state, std::size_t queue, const char* column,
              std::uint64_t value)
{
    Rows& latches = modern(state).rows("vqs");
    latches.at(queue, latches.column(column)) = value;
}

void setFeatures(Record& state, std::uint64_t features)
{
    state.number("guest_features") = features & 0xffffffff;
    state.subsection("virtio/64bit_features")->number("guest_features") =
        features;
    Numbers& latch = modern(state).numbers("guest_features");
    latch[0] = features & 0xffffffff;
    latch[1] = features >> 32;
}

std::uint64_t features(const Record& state)
{
    return state.subsection("virtio/64bit_features")->number("guest_features");
}

void eraseSubsection(Record& record, const std::string& name)
{
    for (auto& value : record.values())
    {
        if (auto* groups = std::get_if<std::vector<Record>>(&value))
        {
            for (Record& group : *groups)
            {
                eraseSubsection(group, name);
            }
        }
    }
    std::erase_if(record.subsections(),
                  [&](const Record& sub) { return sub.schema().name == name; });
}

/** The record inside that has vmstate_virtio's subsections. */
Record& virtioGroup(Record& state)
{
    for (auto& value : state.values())
    {
        if (auto* groups = std::get_if<std::vector<Record>>(&value))
        {
            if (groups->front().schema().name == "virtio")
            {
                return groups->front();
            }
        }
    }
    throw std::logic_error("no virtio part");
}

class Virtio : public test::Spoiled
{};

TEST_P(Virtio, Refuses)
{
    refuses();
}

// Queue 0 of the disk is in use.
INSTANTIATE_TEST_SUITE_P(
    Queue, Virtio,
    testing::Values(
        Spoil{"SizeZero", blk, "vq[0].vring.num: 0x0 is not a power of two",
              [](Record& s) { setQueue(s, 0, "vring.num", 0); }},
        Spoil{"SizeNotPowerOfTwo", blk, "vq[0].vring.num: 0x81 is not",
              [](Record& s) { setQueue(s, 0, "vring.num", 0x81); }},
        Spoil{"SizeOverTheDevices", blk, "vq[0].vring.num: 0x100000 is not",
              [](Record& s) { setQueue(s, 0, "vring.num", 1U << 20); }},
        Spoil{"SizeOtherThanTheRegister", blk,
              "vq[0].vring.num: 0x80 differs from the transport's",
              [](Record& s) {
                  setLatch(s, 0, "num", 64);
                  setQueue(s, 0, "vring.num", 128);
                  Rows& sizes =
                      test::addSubsection(virtioGroup(s), "virtio/ringsize")
                          .rows("vq");
                  for (std::size_t i = 0; i < s.rows("vq").size(); ++i)
                  {
                      sizes.at(i, 0) = 1024;
                  }
              }},
        Spoil{"DescInTheInterruptControllers", blk,
              "vq[0].vring.desc: 0xfee00000 is a ring that is not wholly",
              [](Record& s) { moveRing(s, "desc", 0xfee00000); }},
        Spoil{"UsedAtTheResetStub", blk, "vq[0].vring.used: 0xfffffff0",
              [](Record& s) { moveRing(s, "used", 0xfffffff0); }},
        Spoil{"AvailAcrossTheEndOfRam", blk, "vq[0].vring.avail: 0x1ffffffe",
              [](Record& s) { moveRing(s, "avail", 0x1ffffffe); }},
        Spoil{"DescAtTheEndOfAddresses", blk,
              "vq[0].vring.desc: 0xfffffffffffffff0",
              [](Record& s) { moveRing(s, "desc", ~0xfULL); }},
        Spoil{"AvailInTheGraphicsHole", blk, "vq[0].vring.avail: 0xa0000",
              [](Record& s) { moveRing(s, "avail", 0xa0000); }},
        Spoil{"DescNotAligned", blk, "vq[0].vring.desc: 0x100008 is not align",
              [](Record& s) { moveRing(s, "desc", 0x100008); }},
        Spoil{"UsedNotAligned", blk, "vq[0].vring.used: 0x100002 is not align",
              [](Record& s) { moveRing(s, "used", 0x100002); }},
        Spoil{"AvailNotAligned", blk,
              "vq[0].vring.avail: 0x100001 is not aligned",
              [](Record& s) { moveRing(s, "avail", 0x100001); }},
        Spoil{"DescOtherThanTheRegister", blk,
              "vq[0].vring.desc: 0x100000 differs from the transport's",
              [](Record& s) { setQueue(s, 0, "vring.desc", 0x100000); }},
        Spoil{"AvailOtherThanTheRegister", blk, "vq[0].vring.avail: ",
              [](Record& s) { setLatch(s, 0, "avail", 0x1000); }},
        Spoil{"UsedOtherThanTheRegister", blk, "vq[0].vring.used: ",
              [](Record& s) { setLatch(s, 0, "used", 0x1000); }},
        Spoil{"EnabledWithoutAddress", blk,
              "vq[0].vring.desc: 0x0 is what a queue has that is not set up",
              [](Record& s) { moveRing(s, "desc", 0); }},
        Spoil{"AddressWithoutEnabled", blk,
              "is set and the queue is not enabled",
              [](Record& s) { setLatch(s, 0, "enabled", 0); }},
        Spoil{"IndexWithoutQueue", console,
              "vq[0].last_avail_idx: 0x1 is set and the queue",
              [](Record& s) {
                  moveRing(s, "desc", 0);
                  moveRing(s, "avail", 0);
                  moveRing(s, "used", 0);
                  setLatch(s, 0, "enabled", 0);
                  setQueue(s, 0, "last_avail_idx", 1);
              }},
        Spoil{"QueueThatIsNotThere", blk,
              "vq: has state of queues that the device does not have",
              [](Record& s) { setLatch(s, 1023, "enabled", 1); }},
        Spoil{"RingThatIsNotThere", blk,
              "vq: has state of queues that the device does not have",
              [](Record& s) {
                  s.subsection("virtio/virtqueues")->rows("vq").at(500, 1) = 1;
              }},
        Spoil{"FewerQueues", blk, "num_queues: 0x1 differs",
              [](Record& s) {
                  s.number("num_queues") = 1;
                  Rows one(s.rows("vq").row(), 1);
                  std::ranges::copy(
                      std::as_const(s).rows("vq").cells().first(one.width()),
                      one.cells().begin());
                  s.rows("vq") = one;
              }},
        Spoil{"VectorBeyondTheTable", blk,
              "vq[0].vector: 0x3 is beyond the MSI-X table",
              [](Record& s) { setQueue(s, 0, "vector", 3); }},
        Spoil{"ConfigVectorBeyondTheTable", net,
              "config_vector: 0xfffe is beyond the MSI-X table",
              [](Record& s) { s.number("config_vector") = 0xfffe; }}),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    Transport, Virtio,
    testing::Values(
        Spoil{"ConfigLength", blk, "config_len: 0x3a differs",
              [](Record& s) {
                  s.number("config_len") += 1;
                  s.bytes("config").push_back(0);
              }},
        Spoil{"PackedRing", blk, "guest_features: 0x5",
              [](Record& s) { setFeatures(s, 0x510000000); }},
        Spoil{"InOrder", blk, "has bits that the guest cannot set",
              [](Record& s) { setFeatures(s, 0x910000000); }},
        Spoil{"ScsiCommands", blk, "has bits that the guest cannot set",
              [](Record& s) { setFeatures(s, 0x110000080); }},
        Spoil{"Rss", net, "has bits that the guest cannot set",
              [](Record& s) { setFeatures(s, features(s) | 1ULL << 60); }},
        Spoil{"OneDevicesFeatureOnAnother", "virtio-rng",
              "has bits that the guest cannot set",
              [](Record& s) { setFeatures(s, rngFeatures | 1); }},
        Spoil{"LowFeaturesDiffer", "virtio-rng",
              "guest_features: 0x20000000 differs from the 64-bit",
              [](Record& s) {
                  setFeatures(s, rngFeatures);
                  s.number("guest_features") = 0x20000000;
              }},
        Spoil{"FeaturesNotWritten", "virtio-rng",
              "has bits that the driver did not write",
              [](Record& s) {
                  setFeatures(s, rngFeatures);
                  modern(s).numbers("guest_features")[1] = 0;
              }},
        Spoil{"LatchedFeatures", "virtio-rng",
              "modern_state/guest_features: 0x530000000",
              [](Record& s) {
                  setFeatures(s, rngFeatures);
                  modern(s).numbers("guest_features")[1] = 5;
              }},
        Spoil{"Legacy", "virtio-rng", "vq[0].enabled: 0x1 without VERSION_1",
              [](Record& s) { setFeatures(s, 0x30000000); }},
        Spoil{"NeedsReset", blk, "status: 0x4f has bits",
              [](Record& s) { s.number("status") |= 0x40; }},
        Spoil{"Isr", blk, "isr: 0x4 has bits",
              [](Record& s) { s.number("isr") = 4; }},
        Spoil{"QueueSelect", blk, "queue_sel: 0x400 is out of range",
              [](Record& s) { s.number("queue_sel") = 1024; }},
        Spoil{"NotStarted", blk, "virtio/started: does not go with DRIVER_OK",
              [](Record& s) { eraseSubsection(s, "virtio/started"); }},
        Spoil{"StartedWithoutDriver", blk, "virtio/started: does not go with",
              [](Record& s) { s.number("status") &= ~4ULL; }},
        Spoil{"StartedIsFalse", blk, "virtio/started: does not go with",
              [](Record& s) {
                  s.subsection("virtio/started")->number("started") = 0;
              }},
        Spoil{
            "DriverWithoutBusMaster", blk, "has DRIVER_OK without bus master",
            [](Record& s) { s.record("pci_dev").bytes("config")[4] &= 0xfb; }},
        Spoil{"DisabledWithBusMaster", blk,
              "virtio/disabled: does not go with the command register",
              [](Record& s) {
                  test::addSubsection(virtioGroup(s), "virtio/disabled")
                      .number("disabled") = 1;
              }},
        Spoil{"No64BitFeatures", blk, "virtio/64bit_features: is missing",
              [](Record& s) { eraseSubsection(s, "virtio/64bit_features"); }},
        Spoil{"NoRings", blk, "virtio/virtqueues: is missing",
              [](Record& s) { eraseSubsection(s, "virtio/virtqueues"); }},
        Spoil{"NoTransportState", blk, "virtio/extra_state: is missing",
              [](Record& s) { eraseSubsection(s, "virtio/extra_state"); }},
        Spoil{"NoModernState", blk, "virtio_pci/modern_state: is missing",
              [](Record& s) {
                  eraseSubsection(*s.subsection("virtio/extra_state"),
                                  "virtio_pci/modern_state");
              }}),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    Net, Virtio,
    testing::Values(
        Spoil{"MacWithoutControlQueue", net, "mac: differs, and the driver",
              [](Record& s) {
                  setFeatures(s, features(s) & ~(1ULL << 23));
                  s.bytes("mac")[5] ^= 1;
              }},
        Spoil{"MergeableBuffers", net, "mergeable_rx_bufs: 0x2 differs",
              [](Record& s) { s.number("mergeable_rx_bufs") = 2; }},
        Spoil{"Offloads", net, "curr_guest_offloads: 0x4 has bits",
              [](Record& s) {
                  // The field is there only with its feature, bit 2.
                  setFeatures(s, 0x130000004);
                  s.number("mergeable_rx_bufs") = 0;
                  for (auto& value : s.values())
                  {
                      auto* groups = std::get_if<std::vector<Record>>(&value);
                      if (groups &&
                          groups->front().schema().name == "virtio-net-device")
                      {
                          groups->front().values().back() = std::uint64_t{4};
                      }
                  }
              }},
        Spoil{"Waiting", net, "tx_waiting: 0x2 is out of range",
              [](Record& s) { s.number("tx_waiting") = 2; }},
        Spoil{"Promiscuous", net, "promisc: 0x7f is out of range",
              [](Record& s) { s.number("promisc") = 0x7f; }},
        Spoil{"NoBroadcast", net, "nobcast: 0x2 is out of range",
              [](Record& s) { s.number("nobcast") = 2; }},
        Spoil{"Status", net, "net.status: 0x8 has bits",
              [](Record& s) { s.number("net.status") = 8; }}),
    test::spoilName);

INSTANTIATE_TEST_SUITE_P(
    Console, Virtio,
    testing::Values(Spoil{"PortsMap", console, "ports_map: differs",
                          [](Record& s) { s.numbers("ports_map")[0] ^= 2; }},
                    Spoil{"PortCount", console, "nr_active_ports: 0x0 differs",
                          [](Record& s) {
                              s.number("nr_active_ports") = 0;
                              s.rows("ports") = Rows(s.rows("ports").row(), 0);
                          }},
                    Spoil{"PortId", console, "ports[0].id: 0x5 is another port",
                          [](Record& s) {
                              s.rows("ports").at(0, std::size_t{0}) = 5;
                          }},
                    Spoil{"Columns", console, "config.cols: 0x50 differs",
                          [](Record& s) { s.number("config.cols") = 80; }}),
    test::spoilName);

// --- Against memory ----------------------------------------------------------

/** The addresses of the disk's first queue. */
struct DiskQueue
{
    explicit DiskQueue(Guest& guest)
    {
        const Record state = guest.state(blk);
        const Rows& rings = state.subsection("virtio/virtqueues")->rows("vq");
        avail = rings.at(0, "vring.avail");
        used = rings.at(0, "vring.used");
        last = state.rows("vq").at(0, "last_avail_idx");
        num = state.rows("vq").at(0, "vring.num");
    }
    std::uint64_t avail;
    std::uint64_t used;
    std::uint64_t last;
    std::uint64_t num;
};

TEST(VirtioMemory, AdmitsAFullRing)
{
    Guest guest;
    const DiskQueue queue(guest);
    guest.memory.write16(queue.avail + 2, queue.last + queue.num);
    EXPECT_EQ(guest.refused(), "");
    guest.memory.write16(queue.avail + 2, queue.last + queue.num + 1);
    EXPECT_THAT(guest.refused(),
                HasSubstr("does not fit the available ring in memory"));
}

TEST(VirtioMemory, RefusesAnAvailableIndexThatWentBack)
{
    Guest guest;
    const DiskQueue queue(guest);
    guest.memory.write16(queue.avail + 2, queue.last - 1);
    EXPECT_THAT(guest.refused(),
                HasSubstr("does not fit the available ring in memory"));
}

TEST(VirtioMemory, RefusesRequestsUnderWay)
{
    Guest guest;
    const DiskQueue queue(guest);
    guest.memory.write16(queue.used + 2, queue.last - 1);
    EXPECT_THAT(guest.refused(), HasSubstr("there are requests under way"));
    guest.memory.write16(queue.used + 2, queue.last + 1);
    EXPECT_THAT(guest.refused(), HasSubstr("there are requests under way"));
}

TEST(VirtioMemory, RefusesMemoryThatCannotBeRead)
{
    Guest guest;
    guest.env.read = [](std::uint64_t, std::span<std::uint8_t>) {
        return false;
    };
    EXPECT_THAT(guest.refused(),
                HasSubstr("cannot be read from the guest's memory"));
}

TEST(VirtioMemory, AdmitsRingsAboveFourGigabytes)
{
    Guest guest;
    const DiskQueue queue(guest);
    constexpr std::uint64_t high = 1ULL << 32;
    guest.change(blk, [](Record& s) { moveRing(s, "avail", high); });
    guest.memory.write16(high + 2, queue.last);
    EXPECT_THAT(guest.refused(), HasSubstr("not wholly in RAM"));
    guest.env.ramHigh = 1ULL << 20;
    EXPECT_EQ(guest.refused(), "");
}

// --- What is worked out again ------------------------------------------------

TEST(VirtioRewritten, LinkAndBackendAreTheHosts)
{
    Guest guest;
    guest.change(net, [](Record& s) {
        s.number("net.status") = 3;
        s.number("has_vnet_hdr") = 1;
        s.number("has_ufo") = 0xff;
    });
    const Record admitted = guest.admitted(net);
    const Record reference = parseSection(Guest::find(guest.reference, net));
    EXPECT_EQ(admitted.number("net.status") & 1, 0U);
    EXPECT_EQ(admitted.number("has_vnet_hdr"),
              reference.number("has_vnet_hdr"));
    EXPECT_EQ(admitted.number("has_ufo"), reference.number("has_ufo"));
}

TEST(VirtioRewritten, ConnectionOfAPortIsTheHosts)
{
    Guest guest;
    const Record reference =
        parseSection(Guest::find(guest.reference, console));
    const std::uint64_t connected =
        reference.rows("ports").at(0, "host_connected");
    guest.change(console, [&](Record& s) {
        Rows& ports = s.rows("ports");
        ports.at(0, ports.column("host_connected")) = 1 - connected;
    });
    EXPECT_EQ(guest.admitted(console).rows("ports").at(0, "host_connected"),
              connected);
}

// --- What a driver may do ----------------------------------------------------

TEST(VirtioAdmitted, DriversChoices)
{
    Guest guest;
    guest.change(blk, [](Record& s) {
        s.number("isr") = 1;
        s.number("queue_sel") = 7;
        s.bytes("config")[0] ^= 0xff;
    });
    guest.change(net, [](Record& s) {
        s.number("promisc") = 1;
        s.bytes("vlans")[3] = 0x55;
    });
    guest.change("virtio-rng", [](Record& s) {
        // Reset by its driver, and half set up again.
        s.number("status") = 3;
        s.number("isr") = 0;
        eraseSubsection(s, "virtio/started");
        setFeatures(s, 0);
        for (const char* ring : {"desc", "avail", "used"})
        {
            moveRing(s, ring, 0);
        }
        setQueue(s, 0, "last_avail_idx", 0);
        setLatch(s, 0, "enabled", 0);
        setLatch(s, 0, "avail", 0x1234);
    });
    EXPECT_EQ(guest.refused(), "");
}

} // namespace
