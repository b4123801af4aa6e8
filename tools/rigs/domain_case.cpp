#include "tools/rigs/domain_case.hpp"

#include "devmodel/vm/guest_spec.hpp"

#include <fmt/format.h>

namespace airlock::rig
{

namespace
{

/** The last two digits count. */
constexpr const char* uuidStart = "3b9b1f0e-4f3e-4b51-9a4a-3b7a4a0c9d";
constexpr unsigned firstUuid = 0x11;

bool hasAgent(const DomainCase& domain)
{
    return domain.guest.kernel != "tiny";
}

std::string agentChannel(const DomainCase& domain,
                         const std::filesystem::path& directory)
{
    return domain.guest.kernel == "tiny"
               ? ""
               : fmt::format(R"(
    <channel type='unix'>
      <source mode='bind' path='{}/{}.agent'/>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
      <address type='virtio-serial' controller='0' bus='0' port='1'/>
    </channel>)",
                             directory.string(), domain.name);
}

std::string metadataOf(const DomainCase& domain)
{
    return domain.tenant.empty() ? ""
                                 : fmt::format(R"(
  <metadata>
    <airlock:domain xmlns:airlock='urn:airlock:domain:1'>
      <airlock:tenant name='{}'/>
    </airlock:domain>
  </metadata>)",
                                               domain.tenant);
}

} // namespace

std::string imageDisk(const std::filesystem::path& image)
{
    return fmt::format(R"(
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' discard='unmap'/>
      <source file='{}'/>
      <target dev='vda' bus='virtio'/>
      <address type='pci' domain='0' bus='0' slot='8' function='0'/>
    </disk>)",
                       image.string());
}

std::string bridgeCard(const std::string& mac, const std::string& bridge)
{
    return fmt::format(R"(
    <interface type='bridge'>
      <mac address='{}'/>
      <source bridge='{}'/>
      <model type='virtio'/>
      <driver name='qemu'/>
      <address type='pci' domain='0' bus='0' slot='{:#x}' function='0'/>
    </interface>)",
                       mac, bridge, vm::firstNicSlot);
}

std::filesystem::path consolePath(const DomainCase& domain,
                                  const std::filesystem::path& directory)
{
    return directory / (domain.name + ".console");
}

std::string domainXml(const DomainCase& domain, std::size_t index,
                      const std::string& disks,
                      const std::filesystem::path& qemu,
                      const std::filesystem::path& directory)
{
    return fmt::format(
        R"(<domain type='{type}'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>{metadata}
  <memory unit='MiB'>{memory}</memory>
  <memoryBacking>
    <source type='file'/>
    <access mode='shared'/>
  </memoryBacking>
  <vcpu>{vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='{machine}'>hvm</type>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='custom' match='exact' check='none'>
    <model fallback='forbid'>Nehalem</model>
    <topology sockets='1' dies='1' cores='{vcpus}' threads='1'/>
  </cpu>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>preserve</on_crash>
  <devices>
    <emulator>{qemu}</emulator>
    <controller type='pci' index='0' model='pcie-root'/>
    <controller type='usb' model='none'/>
    <controller type='virtio-serial' index='0' ports='{ports}'>
      <address type='pci' domain='0' bus='0' slot='2' function='0'/>
    </controller>{disks}{cards}
    <console type='unix'>
      <source mode='bind' path='{console}'/>
      <target type='virtio' port='0'/>
    </console>{agent}
    <rng model='virtio'>
      <backend model='random'>/dev/urandom</backend>
      <address type='pci' domain='0' bus='0' slot='3' function='0'/>
    </rng>
    <memballoon model='none'/>
  </devices>
</domain>
)",
        fmt::arg("type", domain.kvm ? "kvm" : "qemu"),
        fmt::arg("name", domain.name),
        fmt::arg("machine", domain.plain ? "airlock-boot-1.0" : "airlock-1.0"),
        fmt::arg("uuid", fmt::format("{}{:02x}", uuidStart, firstUuid + index)),
        fmt::arg("metadata", metadataOf(domain)),
        fmt::arg("memory", domain.guest.memory >> 20),
        fmt::arg("vcpus", domain.guest.vcpus), fmt::arg("qemu", qemu.string()),
        fmt::arg("disks", disks), fmt::arg("cards", domain.cards),
        fmt::arg("console", consolePath(domain, directory).string()),
        fmt::arg("ports", hasAgent(domain) ? 2 : 1),
        fmt::arg("agent", agentChannel(domain, directory)));
}

} // namespace airlock::rig
