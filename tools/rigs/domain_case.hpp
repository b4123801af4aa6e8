#pragma once

#include "tools/rigs/guest_case.hpp"

#include <filesystem>
#include <functional>
#include <string>

namespace airlock::rig
{

/** A domain of a HostRig. */
struct DomainCase
{
    std::string name = "demo";
    GuestCase guest = {};
    std::filesystem::path image = {}; ///< empty: that of guest.kernel
    std::string tenant = {};          ///< its label; empty: none
    /** KVM, or QEMU's own translation. */
    bool kvm = false;
    /** Makes the images in the given directory and returns libvirt's XML of
     * the disks; without it there is one, a copy of the guest's image. */
    std::function<std::string(const std::filesystem::path&)> disks = {};
    std::string cards = {}; ///< libvirt's XML of network cards
    /** An ordinary domain on the boot machine, which is a full PC; libvirt
     * alone reboots it. For a rig without daemons. */
    bool plain = false;
};

/** libvirt's XML of a raw image as the first disk. */
std::string imageDisk(const std::filesystem::path& image);

/** libvirt's XML of the first network card, on a bridge of the host. */
std::string bridgeCard(const std::string& mac, const std::string& bridge);

/** libvirt's XML of the domain, the `index`th of a host. `directory`: for the
 * sockets of its console and guest agent. */
std::string domainXml(const DomainCase& domain, std::size_t index,
                      const std::string& disks,
                      const std::filesystem::path& qemu,
                      const std::filesystem::path& directory);
/** The socket of the domain's virtio console. */
std::filesystem::path consolePath(const DomainCase& domain,
                                  const std::filesystem::path& directory);

} // namespace airlock::rig
