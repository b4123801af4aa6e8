#include "devmodel/handover/admit_rules.hpp"
#include "devmodel/handover/schema_tables/tables.hpp"
#include "devmodel/handover/stream.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <initializer_list>
#include <map>

// virtio devices: transport, queues, features, and each device's own fields.
//
// virtio_load() (hw/virtio/virtio.c) believes sizes and addresses: a queue of
// size 0 ends QEMU later, one of 1 << 20 or a ring in the interrupt
// controllers is loaded, an index that does not fit only marks the device
// broken. Here a queue has to be one that a driver set up in RAM and that has
// no request under way.

namespace airlock::handover::rules
{

namespace
{

constexpr std::uint64_t feature(unsigned n)
{
    return 1ULL << n;
}
constexpr std::uint64_t features(std::initializer_list<unsigned> list)
{
    std::uint64_t bits = 0;
    for (unsigned n : list)
    {
        bits |= feature(n);
    }
    return bits;
}

// Feature bits that a driver may take (virtio 1.2, chapters 5 and 6). QEMU
// itself refuses what the device does not offer; these tables keep out what
// no device here may ever offer: packed and in-order rings, IOMMU platform,
// SR-IOV, notification data, SCSI commands, zones, several queue pairs, RSS,
// hash reports, receive coalescing, standby.
constexpr std::uint64_t eventIdx = feature(29);
constexpr std::uint64_t version1 = feature(32);
constexpr std::uint64_t transportFeatures =
    features({24, 27, 28}) | eventIdx | version1 |
    feature(40); // notify on empty, any layout, indirect, ..., ring reset

constexpr std::uint64_t blkFeatures =
    features({1, 2, 4, 5, 6, 9, 10, 11, 12, 13, 14});

constexpr std::uint64_t netMergeableRx = feature(15);
constexpr std::uint64_t netGuestAnnounce = feature(21);
constexpr std::uint64_t netCtrlMacAddress = feature(23);
constexpr std::uint64_t netGuestOffloads = features({1, 7, 8, 9, 10, 54, 55});
constexpr std::uint64_t netFeatures =
    netGuestOffloads | netMergeableRx | netGuestAnnounce | netCtrlMacAddress |
    features({0, 2, 3, 5, 6, 11, 12, 13, 14, 16, 17, 18, 19, 20, 56, 63});

constexpr std::uint64_t consoleFeatures = features({0, 1, 2});

constexpr std::uint64_t driverOk = 4;
constexpr std::uint64_t statusBits = 0x8f; // without DEVICE_NEEDS_RESET

constexpr std::uint64_t noVector = 0xffff;

/** The parts of a virtio device's state that the rules share. */
struct Device
{
    explicit Device(const Subject& checked)
        : subject(checked), state(checked.state), queues(state.rows("vq")),
          rings(part(state, "virtio/virtqueues").rows("vq")),
          modern(modernState(state)), latches(modern.rows("vqs")),
          features(
              part(state, "virtio/64bit_features").number("guest_features")),
          msixEntries(tables::msixCapability(config()).entries)
    {}

    static const Record& part(const Record& state, std::string_view name)
    {
        return *state.subsection(name);
    }
    static const Record& modernState(const Record& state)
    {
        return *part(state, "virtio/extra_state")
                    .record("extra_state")
                    .subsection("virtio_pci/modern_state");
    }
    ByteView config() const { return state.record("pci_dev").bytes("config"); }
    bool isBusMaster() const
    {
        constexpr std::size_t command = 0x04;
        return (config()[command] & 4) != 0;
    }

    const Subject& subject;
    const Record& state;
    const Rows& queues;
    const Rows& rings;
    const Record& modern;
    const Rows& latches;
    std::uint64_t features;
    std::uint32_t msixEntries;
};

/** One queue. The fields come from four places in the section. */
struct Queue
{
    Queue(const Device& owner, std::size_t number)
        : device(owner), index(number),
          num(owner.queues.at(number, "vring.num")),
          desc(owner.queues.at(number, "vring.desc")),
          avail(owner.rings.at(number, "vring.avail")),
          used(owner.rings.at(number, "vring.used")),
          lastAvail(owner.queues.at(number, "last_avail_idx")),
          enabled(owner.latches.at(number, "enabled") != 0)
    {}

    std::uint64_t latched(std::string_view address) const
    {
        const Rows& rows = device.latches;
        return rows.at(index, rows.column(address, 0)) |
               rows.at(index, rows.column(address, 1)) << 32;
    }
    std::string field(std::string_view name) const
    {
        return element("vq", index) + "." + std::string(name);
    }
    void require(bool holds, std::string_view name, std::uint64_t value,
                 std::string_view reason) const
    {
        if (!holds)
        {
            device.subject.refuse(field(name), value, reason);
        }
    }

    const Device& device;
    std::size_t index;
    std::uint64_t num;
    std::uint64_t desc;
    std::uint64_t avail;
    std::uint64_t used;
    std::uint64_t lastAvail;
    bool enabled;
};

/** Sizes and parts have to be those of the device on the production machine;
 * everything after this may rely on them. */
void shape(const Subject& subject)
{
    subject.same("config_len");
    subject.same("num_queues");
    for (std::string_view name :
         {"virtio/64bit_features", "virtio/virtqueues", "virtio/extra_state"})
    {
        subject.samePresence(name);
        if (!subject.reference.subsection(name))
        {
            throw Error(label(subject.id) + " lacks " + std::string(name) +
                        ": the production machine's virtio devices have to "
                        "be modern ones");
        }
    }
    const Record* modern = std::as_const(subject.state)
                               .subsection("virtio/extra_state")
                               ->record("extra_state")
                               .subsection("virtio_pci/modern_state");
    subject.require(modern, "virtio_pci/modern_state", "is missing");
}

/** The size that the device was made with. It is in the stream only when a
 * queue has another one. */
std::uint64_t defaultNum(const Record& reference, std::size_t index)
{
    const Record* sizes = reference.subsection("virtio/ringsize");
    return sizes ? sizes->rows("vq").at(index, "vring.num_default")
                 : reference.rows("vq").at(index, "vring.num");
}

/** vring.num is what a driver may choose; num_default is the host's and the
 * length of QEMU's used_elems array. */
void ringSizes(const Device& device)
{
    const Subject& subject = device.subject;
    const Record* sizes = device.state.subsection("virtio/ringsize");
    bool differs = false;
    for (std::size_t i = 0; i < device.queues.size(); ++i)
    {
        const Queue queue(device, i);
        const std::uint64_t limit = defaultNum(subject.reference, i);
        queue.require(std::has_single_bit(queue.num) && queue.num <= limit,
                      "vring.num", queue.num,
                      "is not a power of two up to the device's queue size");
        differs = differs || queue.num != limit;
    }
    subject.require(differs == (sizes != nullptr), "virtio/ringsize",
                    "is there without need, or missing");
    if (!sizes)
    {
        return;
    }
    const Rows& rows = sizes->rows("vq");
    for (std::size_t i = 0; i < rows.size(); ++i)
    {
        const std::uint64_t expected =
            i < device.queues.size() ? defaultNum(subject.reference, i) : 0;
        if (rows.at(i, 0) != expected)
        {
            subject.refuse("virtio/ringsize/" + element("vq", i), rows.at(i, 0),
                           "is not the device's queue size");
        }
    }
}

/** The rows behind the last queue are as at reset: nothing is there. */
void absentQueues(const Device& device)
{
    const Record& reference = device.subject.reference;
    const auto behind = [&](const Rows& rows) {
        return rows.cells().subspan(device.queues.size() * rows.width());
    };
    const Rows& rings = Device::part(reference, "virtio/virtqueues").rows("vq");
    const Rows& latches = Device::modernState(reference).rows("vqs");
    device.subject.require(
        std::ranges::equal(behind(device.rings), behind(rings)) &&
            std::ranges::equal(behind(device.latches), behind(latches)),
        "vq", "has state of queues that the device does not have");
}

std::uint64_t memory16(const Queue& queue, std::string_view name,
                       std::uint64_t address)
{
    std::array<std::uint8_t, 2> bytes{};
    queue.require(queue.device.subject.env.read(address, bytes), name, address,
                  "cannot be read from the guest's memory");
    return bytes[0] | static_cast<std::uint64_t>(bytes[1]) << 8;
}

void ringInRam(const Queue& queue, std::string_view name, std::uint64_t address,
               std::uint64_t size, std::uint64_t alignment)
{
    queue.require(address % alignment == 0, name, address, "is not aligned");
    queue.require(inRam(queue.device.subject.env, address, size), name, address,
                  "is a ring that is not wholly in RAM");
}

/** The indices against the rings in the memory that will be loaded with them.
 * used->idx behind last_avail_idx would be requests that QEMU took and has not
 * answered; what they were is not in the stream. */
void indices(const Queue& queue)
{
    constexpr std::uint64_t idx = 2; // offset in both rings
    const std::uint64_t available =
        memory16(queue, "vring.avail", queue.avail + idx);
    const std::uint64_t answered =
        memory16(queue, "vring.used", queue.used + idx);
    queue.require(((available - queue.lastAvail) & 0xffff) <= queue.num,
                  "last_avail_idx", queue.lastAvail,
                  "does not fit the available ring in memory");
    queue.require(answered == queue.lastAvail, "last_avail_idx",
                  queue.lastAvail,
                  "differs from the used ring in memory: there are requests "
                  "under way");
}

/** A queue that the driver has enabled. Its latches are where the addresses
 * came from (virtio-pci.c: virtio_pci_common_write()). */
void activeQueue(const Queue& queue)
{
    const std::uint64_t event = (queue.device.features & eventIdx) != 0 ? 2 : 0;
    queue.require((queue.device.features & version1) != 0, "enabled", 1,
                  "without VERSION_1: legacy drivers are not served");
    ringInRam(queue, "vring.desc", queue.desc, 16 * queue.num, 16);
    ringInRam(queue, "vring.avail", queue.avail, 4 + 2 * queue.num + event, 2);
    ringInRam(queue, "vring.used", queue.used, 4 + 8 * queue.num + event, 4);
    queue.require(queue.desc != 0, "vring.desc", queue.desc,
                  "is what a queue has that is not set up");
    queue.require(queue.latched("desc") == queue.desc, "vring.desc", queue.desc,
                  "differs from the transport's register");
    queue.require(queue.latched("avail") == queue.avail, "vring.avail",
                  queue.avail, "differs from the transport's register");
    queue.require(queue.latched("used") == queue.used, "vring.used", queue.used,
                  "differs from the transport's register");
    const std::uint64_t num = queue.device.latches.at(queue.index, "num");
    queue.require(num == 0 || num == queue.num, "vring.num", queue.num,
                  "differs from the transport's register");
    indices(queue);
}

/** A queue that is not enabled has no rings. Its latches may hold anything:
 * they have an effect when the driver enables it, which is still to come. */
void idleQueue(const Queue& queue)
{
    queue.require(queue.desc == 0, "vring.desc", queue.desc,
                  "is set and the queue is not enabled");
    queue.require(queue.avail == 0, "vring.avail", queue.avail,
                  "is set and the queue is not enabled");
    queue.require(queue.used == 0, "vring.used", queue.used,
                  "is set and the queue is not enabled");
    queue.require(queue.lastAvail == 0, "last_avail_idx", queue.lastAvail,
                  "is set and the queue is not enabled");
}

void vectorInTable(const Device& device, std::string_view field,
                   std::uint64_t vector)
{
    device.subject.require(vector == noVector || vector < device.msixEntries,
                           field, vector, "is beyond the MSI-X table");
}

void queues(const Device& device)
{
    ringSizes(device);
    absentQueues(device);
    for (std::size_t i = 0; i < device.queues.size(); ++i)
    {
        const Queue queue(device, i);
        queue.enabled ? activeQueue(queue) : idleQueue(queue);
        if (device.msixEntries != 0)
        {
            vectorInTable(device, queue.field("vector"),
                          device.queues.at(i, "vector"));
        }
    }
    if (device.msixEntries != 0)
    {
        vectorInTable(device, "config_vector", device.subject["config_vector"]);
    }
}

void negotiation(const Device& device, std::uint64_t deviceFeatures)
{
    const Subject& subject = device.subject;
    const std::uint64_t allowed = transportFeatures | deviceFeatures;
    subject.onlyBits("virtio/64bit_features/guest_features", device.features,
                     allowed);
    subject.require(subject["guest_features"] == (device.features & 0xffffffff),
                    "guest_features", subject["guest_features"],
                    "differs from the 64-bit features");
    const Numbers& latch = device.modern.numbers("guest_features");
    const std::uint64_t latched = latch[0] | latch[1] << 32;
    subject.onlyBits("virtio_pci/modern_state/guest_features", latched,
                     allowed);
    subject.require((device.features & ~latched) == 0,
                    "virtio/64bit_features/guest_features", device.features,
                    "has bits that the driver did not write");
}

void statusRegisters(const Device& device)
{
    const Subject& subject = device.subject;
    subject.onlyBits("status", statusBits);
    subject.onlyBits("isr", 3);
    subject.atMost("queue_sel", tables::virtioQueueMax - 1);

    const bool running = (subject["status"] & driverOk) != 0;
    const Record* started = device.state.subsection("virtio/started");
    subject.require(running == (started != nullptr) &&
                        (!started || started->number("started") == 1),
                    "virtio/started", "does not go with DRIVER_OK in status");
    // virtio_write_config() takes DRIVER_OK away with the bus master bit.
    subject.require(!running || device.isBusMaster(), "status",
                    subject["status"], "has DRIVER_OK without bus master");
    if (const Record* disabled = device.state.subsection("virtio/disabled"))
    {
        subject.require(
            disabled->number("disabled") == 1 && !device.isBusMaster(),
            "virtio/disabled", "does not go with the command register");
    }
}

/** The rules for every virtio device. The bytes of `config` are not checked:
 * they are a copy that QEMU refreshes before each of the guest's reads, and
 * the guest can write each of them (virtio_config_writeb()). */
void virtio(Subject& subject, std::uint64_t deviceFeatures)
{
    shape(subject);
    virtioPci(subject);
    const Device device(subject);
    queues(device);
    negotiation(device, deviceFeatures);
    statusRegisters(device);
}

std::uint64_t negotiated(const Subject& subject)
{
    return Device::part(subject.state, "virtio/64bit_features")
        .number("guest_features");
}

void atMostOne(const Subject& subject,
               std::initializer_list<std::string_view> fields)
{
    for (std::string_view field : fields)
    {
        subject.atMost(field, 1);
    }
}

/** Link and backend belong to the host. The link is down on the boot machine
 * and is put up again when the guest runs; whether the backend has vnet
 * headers is only compared on loading, never taken over
 * (virtio_net_vnet_post_load()). */
void netHostSide(Subject& subject, std::uint64_t taken)
{
    constexpr std::uint64_t announce = 2;
    subject.onlyBits("net.status", 3);
    subject.state.number("net.status") &=
        (taken & netGuestAnnounce) != 0 ? announce : 0;
    for (std::string_view field : {"has_vnet_hdr", "has_ufo"})
    {
        subject.state.number(field) = subject.reference.number(field);
    }
}

} // namespace

void virtioBlk(Subject& subject)
{
    virtio(subject, blkFeatures);
}

void virtioNet(Subject& subject)
{
    virtio(subject, netFeatures);
    const std::uint64_t taken = negotiated(subject);
    // Only the control queue can change the address of a modern device.
    subject.require((taken & netCtrlMacAddress) != 0 ||
                        subject.state.bytes("mac") ==
                            subject.reference.bytes("mac"),
                    "mac", "differs, and the driver cannot have set it");
    subject.require(subject["mergeable_rx_bufs"] ==
                        ((taken & netMergeableRx) != 0 ? 1 : 0),
                    "mergeable_rx_bufs", subject["mergeable_rx_bufs"],
                    "differs from the features");
    if (std::as_const(subject.state).has("curr_guest_offloads"))
    {
        subject.onlyBits("curr_guest_offloads", taken & netGuestOffloads);
    }
    atMostOne(subject, {"tx_waiting", "promisc", "allmulti",
                        "mac_table.multi_overflow", "mac_table.uni_overflow",
                        "alluni", "nomulti", "nouni", "nobcast"});
    netHostSide(subject, taken);
}

/** Which ports there are, and in which order they were plugged, is the
 * host's. So is whether something is connected to them there: QEMU compares
 * host_connected on loading and tells the guest of changes itself
 * (virtio_serial_post_load_timer_cb()). Only whether the guest has opened them
 * is the guest's. */
void serialPorts(Subject& subject)
{
    Rows& ports = subject.state.rows("ports");
    const Rows& expected = subject.reference.rows("ports");
    const std::size_t id = ports.column("id");
    const std::size_t opened = ports.column("guest_connected");
    std::map<std::uint64_t, std::uint64_t> byGuest;
    for (std::size_t i = 0; i < ports.size(); ++i)
    {
        byGuest[std::as_const(ports).at(i, id)] =
            std::as_const(ports).at(i, opened);
    }
    Rows admitted = expected;
    for (std::size_t i = 0; i < expected.size(); ++i)
    {
        const auto found = byGuest.find(expected.at(i, id));
        subject.require(found != byGuest.end(), element("ports", i) + ".id",
                        std::as_const(ports).at(i, id),
                        "is another port than the production machine's");
        admitted.at(i, opened) = found->second;
    }
    ports = admitted;
}

void virtioConsole(Subject& subject)
{
    virtio(subject, consoleFeatures);
    subject.same("config.cols");
    subject.same("config.rows");
    subject.same("config.max_nr_ports");
    subject.same("nr_active_ports");
    const Record& reference = subject.reference;
    subject.require(std::as_const(subject.state).numbers("ports_map") ==
                        reference.numbers("ports_map"),
                    "ports_map", "differs from the production machine's");
    serialPorts(subject);
}

void virtioRng(Subject& subject)
{
    virtio(subject, 0);
}

} // namespace airlock::handover::rules
