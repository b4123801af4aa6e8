#include "devmodel/handover/schema_tables/fields.hpp"
#include "devmodel/handover/schema_tables/tables.hpp"

// The sections of virtio devices are written by hand, not from one
// VMStateDescription: hw/virtio/virtio.c virtio_save() calls
// hw/virtio/virtio-pci.c virtio_pci_save_config() and save_queue(), then the
// device, then vmstate_virtio with its subsections.
// Devices: hw/block/virtio-blk.c, hw/net/virtio-net.c,
// hw/char/virtio-serial-bus.c, hw/virtio/virtio-rng.c (which adds nothing).

namespace airlock::handover::tables
{

namespace
{

bool hasMsix(const Record& self, const Record&)
{
    return msixCapability(self.record("pci_dev").bytes("config")).entries != 0;
}
bool hasNoMsix(const Record& self, const Record& outer)
{
    return !hasMsix(self, outer);
}
std::uint64_t msixEntries(const Record& self)
{
    return msixCapability(self.record("pci_dev").bytes("config")).entries;
}
std::uint64_t queueCount(const Record& self, const Record&)
{
    return self.number("num_queues");
}

constexpr Field queueFields[] = {
    u32("vring.num"),
    u64("vring.desc"),
    u16("last_avail_idx"),
};
constexpr Schema queue{"", 0, queueFields};
constexpr Field queueWithVectorFields[] = {
    u32("vring.num"),
    u64("vring.desc"),
    u16("last_avail_idx"),
    u16("vector"),
};
constexpr Schema queueWithVector{"", 0, queueWithVectorFields};

// virtio_pci_save_config() and the fixed part of virtio_save().
constexpr Field commonFields[] = {
    structure("pci_dev", pciDevice),
    presentIf(counted(bytes("msix_table", msixEntryMax* msixEntrySize),
                      [](const Record& self, const Record&) {
                          return msixEntries(self) * msixEntrySize;
                      }),
              hasMsix),
    presentIf(counted(bytes("msix_pba", msixEntryMax / 8),
                      [](const Record& self, const Record&) {
                          return (msixEntries(self) + 7) / 8;
                      }),
              hasMsix),
    presentIf(u16("config_vector"), hasMsix),
    u8("status"),
    u8("isr"),
    u16("queue_sel"),
    u32("guest_features"),
    u32("config_len"),
    counted(bytes("config", virtioConfigMax),
            [](const Record& self, const Record&) {
                return self.number("config_len");
            }),
    u32("num_queues"),
    presentIf(
        counted(structures("vq", virtioQueueMax, queueWithVector), queueCount),
        hasMsix),
    presentIf(counted(structures("vq", virtioQueueMax, queue), queueCount),
              hasNoMsix),
};
constexpr Schema common{"", 0, commonFields};

// vmstate_virtio's subsections.
constexpr Field features64Fields[] = {
    u64("guest_features"),
};
constexpr Schema features64{"virtio/64bit_features", 1, features64Fields};

constexpr Field ringsFields[] = {
    u64("vring.avail"),
    u64("vring.used"),
};
constexpr Schema rings{"virtqueue_state", 1, ringsFields};
constexpr Field virtqueuesFields[] = {
    structures("vq", virtioQueueMax, rings),
};
constexpr Schema virtqueues{"virtio/virtqueues", 1, virtqueuesFields};

constexpr Field ringsizeRowFields[] = {
    u32("vring.num_default"),
};
constexpr Schema ringsizeRow{"ringsize_state", 1, ringsizeRowFields};
constexpr Field ringsizeFields[] = {
    structures("vq", virtioQueueMax, ringsizeRow),
};
constexpr Schema ringsize{"virtio/ringsize", 1, ringsizeFields};

constexpr Field modernQueueFields[] = {
    u16("num"),
    unused(1),
    boolean("enabled"),
    numbers("desc", Encoding::U32, 2),
    numbers("avail", Encoding::U32, 2),
    numbers("used", Encoding::U32, 2),
};
constexpr Schema modernQueue{"virtio_pci/modern_queue_state", 1,
                             modernQueueFields};
constexpr Field modernFields[] = {
    u32("dfselect"),
    u32("gfselect"),
    numbers("guest_features", Encoding::U32, 2),
    structures("vqs", virtioQueueMax, modernQueue),
};
constexpr Schema modern{"virtio_pci/modern_state", 1, modernFields};
constexpr Subsection virtioPciSubsections[] = {
    admitted(modern),
};
constexpr Schema virtioPci{"virtio_pci", 1, {}, virtioPciSubsections};

constexpr Field extraStateFields[] = {
    structure("extra_state", virtioPci),
};
constexpr Schema extraState{"virtio/extra_state", 1, extraStateFields};

constexpr Field startedFields[] = {
    boolean("started"),
};
constexpr Schema started{"virtio/started", 1, startedFields};

constexpr Field disabledFields[] = {
    boolean("disabled"),
};
constexpr Schema disabled{"virtio/disabled", 1, disabledFields};

constexpr Subsection virtioSubsections[] = {
    refused("virtio/device_endian", "x86 guests are little-endian"),
    admitted(features64),
    admitted(virtqueues),
    admitted(ringsize),
    refused("virtio/broken", "the device is broken; only a reset of the guest "
                             "repairs it"),
    admitted(extraState),
    admitted(started),
    refused("virtio/packed_virtqueues", "packed rings are not offered"),
    admitted(disabled),
};
constexpr Schema virtio{"virtio", 1, {}, virtioSubsections};

// virtio_blk_save_device(): a list of requests, each behind a 1, ended by 0.
constexpr Field blkFields[] = {
    group(common),
    mustBeZero(u8("rq"), "there are requests in flight; the device must be "
                         "drained before it is saved"),
    group(virtio),
};

// virtio_serial_save_device().
constexpr std::uint32_t portsMapMax = 16; // 511 ports
constexpr std::uint32_t portMax = 32 * portsMapMax;
constexpr Field portFields[] = {
    u32("id"),
    boolean("guest_connected"),
    boolean("host_connected"),
    mustBeZero(u32("elem_popped"), "there is output in flight; the device "
                                   "must be drained before it is saved"),
};
constexpr Schema port{"", 0, portFields};
constexpr Field consoleFields[] = {
    group(common),
    u16("config.cols"),
    u16("config.rows"),
    u32("config.max_nr_ports"),
    counted(numbers("ports_map", Encoding::U32, portsMapMax),
            [](const Record& self, const Record&) {
                return (self.number("config.max_nr_ports") + 31) / 32;
            }),
    u32("nr_active_ports"),
    counted(structures("ports", portMax, port),
            [](const Record& self, const Record&) {
                return self.number("nr_active_ports");
            }),
    group(virtio),
};

// vmstate_virtio_net_device for one queue pair: with more, max_queue_pairs and
// curr_queue_pairs would follow has_ufo. has_vnet_hdr and has_ufo are little
// tables of their own in QEMU (VMSTATE_WITH_TMP).
constexpr std::uint32_t macTableEntries = 64;
constexpr std::uint32_t macSize = 6;
constexpr Field vnetFields[] = {u32("has_vnet_hdr")};
constexpr Schema vnet{"virtio-net-vnet", 0, vnetFields};
constexpr Field ufoFields[] = {u8("has_ufo")};
constexpr Schema ufo{"virtio-net-ufo", 0, ufoFields};
constexpr Field txWaitingFields[] = {u32("tx_waiting")};
constexpr Schema txWaiting{"virtio-net-queue-tx_waiting", 0, txWaitingFields};
constexpr Schema txWaitingOthers{"virtio-net-tx_waiting", 0, {}};

bool hasCtrlGuestOffloads(const Record&, const Record& outer)
{
    constexpr std::uint64_t ctrlGuestOffloads = 1U << 2;
    return (outer.number("guest_features") & ctrlGuestOffloads) != 0;
}

constexpr Field netDeviceFields[] = {
    bytes("mac", macSize),
    group(txWaiting),
    u32("mergeable_rx_bufs"),
    u16("net.status"), // "status" in QEMU, as the transport's
    u8("promisc"),
    u8("allmulti"),
    u32("mac_table.in_use"),
    counted(bytes("mac_table.macs", macTableEntries* macSize),
            [](const Record& self, const Record&) {
                return self.number("mac_table.in_use") * macSize;
            }),
    bytes("vlans", 512),
    group(vnet),
    u8("mac_table.multi_overflow"),
    u8("mac_table.uni_overflow"),
    u8("alluni"),
    u8("nomulti"),
    u8("nouni"),
    u8("nobcast"),
    group(ufo),
    group(txWaitingOthers),
    presentIf(u64("curr_guest_offloads"), hasCtrlGuestOffloads),
};
constexpr Subsection netDeviceSubsections[] = {
    refused("virtio-net-device/rss", "receive-side scaling is not offered"),
    refused("virtio-net-device/backend", "vhost-user is not offered"),
};
constexpr Schema netDevice{"virtio-net-device", 11, netDeviceFields,
                           netDeviceSubsections};
constexpr Field netFields[] = {
    group(common),
    group(netDevice),
    group(virtio),
};

constexpr Field rngFields[] = {
    group(common),
    group(virtio),
};

} // namespace

const Schema virtioBlk{"virtio-blk", 2, blkFields};
const Schema virtioNet{"virtio-net", 11, netFields};
const Schema virtioConsole{"virtio-console", 3, consoleFields};
const Schema virtioRng{"virtio-rng", 1, rngFields};

} // namespace airlock::handover::tables
