#pragma once

#include <string_view>

/** What libvirt can put into a virtio device that the guest would see and the
 * boot machine would not have. `airlockctl adopt` takes it out, parseDomain()
 * refuses it. */
namespace airlock::host::rules
{

/** Attributes of <driver>, for every kind of device. */
inline constexpr std::string_view driverAttributes[] = {
    "iommu",    "ats",        "packed",    "page_per_vq",   "queues",
    "iothread", "queue_size", "event_idx", "rx_queue_size", "tx_queue_size",
};

/** Children of <disk>. */
inline constexpr std::string_view diskElements[] = {
    "serial", "wwn", "vendor", "product", "blockio", "geometry",
};

/** Children of <interface>. */
inline constexpr std::string_view nicElements[] = {"mtu", "rom", "boot"};

/** Kinds of <interface> that are a virtio card of QEMU on a host device. */
inline constexpr std::string_view nicTypes[] = {"bridge", "network", "direct",
                                                "ethernet"};

/** Caching that changes the features of the disk in the guest. */
inline constexpr std::string_view diskCaches[] = {"writethrough", "directsync"};

template <typename Words>
bool contains(const Words& words, std::string_view word)
{
    for (std::string_view each : words)
    {
        if (each == word)
        {
            return true;
        }
    }
    return false;
}

} // namespace airlock::host::rules
