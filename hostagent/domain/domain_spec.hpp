#pragma once

#include "devmodel/vm/guest_spec.hpp"

#include <chrono>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace airlock::host
{

/** Name of the production machine type, as in <type machine='...'>. */
inline constexpr std::string_view productionMachine = "airlock-1.0";

/** The name of the guest agent's virtio port. */
inline constexpr std::string_view agentChannelName = "org.qemu.guest_agent.0";

/** Ports of the virtio-serial controller: the console is port 0, the guest
 * agent port 1. */
inline constexpr unsigned consolePort = 0;
inline constexpr unsigned agentPort = 1;

struct DomainDisk
{
    std::string target; ///< "vda"
    std::string type;   ///< "file", "block", "network", "volume"
    std::string source; ///< path or name within the type; empty for others
    std::string format; ///< "raw", "qcow2"
    bool readOnly = false;
    std::string alias; ///< qdev id in the running QEMU; empty when shut off
};

struct DomainNic
{
    std::string mac;
    std::string type;  ///< "bridge", "network"...
    std::string alias; ///< qdev id in the running QEMU; empty when shut off
};

/** Prefer one boot server to another for this domain. */
struct ServerWeight
{
    std::string name;
    unsigned weight = 1; ///< 0: never
};

/** What an operator set for one domain, in its metadata:
 *
 *     <airlock:domain xmlns:airlock='urn:airlock:domain:1'>
 *       <airlock:booted policy='serial:login: $'/>
 *       <airlock:limit seconds='600'/>
 *       <airlock:tenant name='green'/>
 *       <airlock:server name='boot1' weight='3'/>
 *       <airlock:original>(the XML before `airlockctl
 * adopt`)</airlock:original>
 *     </airlock:domain>
 *
 * What is missing is as the host agent's configuration says.
 */
struct DomainSettings
{
    /** "auto", "guest-agent", "shell", "serial:REGEX", "idle:SECONDS",
     * "after:SECONDS" */
    std::optional<std::string> booted;
    std::optional<std::chrono::seconds> limit; ///< for a whole reboot
    std::string tenant;
    std::vector<ServerWeight> servers;
};

/** An airlock domain: everything of its XML that a reboot depends on. */
struct DomainSpec
{
    std::string name;
    std::string uuid;
    unsigned vcpus = 0;
    std::uint64_t memory = 0; ///< bytes
    std::string cpuModel;
    vm::Accelerator accelerator = vm::Accelerator::tcg;
    std::string emulator;
    std::vector<DomainDisk> disks; ///< by slot, that is as the guest sees them
    std::vector<DomainNic> nics;   ///< by slot
    bool console = false;
    std::string consoleAlias;
    bool rng = false;
    bool agent = false; ///< channel of the guest agent
    std::string agentAlias;
    DomainSettings settings;

    /** The same machine for devmodel/vm. Disks have their `source` as image. */
    vm::GuestSpec guest() const;
};

/** Whether the XML asks for a machine of ours: what to follow at all. Throws
 * Refused when it is no domain XML. */
bool isAirlockDomain(std::string_view xml);

/** The name in a domain's XML, bounded and printable. Throws Refused likewise.
 */
std::string domainName(std::string_view xml);

/** Reads the XML of an airlock domain (running or not), as `airlockctl adopt`
 * writes it and libvirt gives it back.
 *
 * Throws Refused naming the element and why it cannot be: another machine
 * type, a CPU model that is not named, memory that is no shared file, a device
 * that the production machine does not have or that is in another slot than
 * on the boot machine.
 */
DomainSpec parseDomain(std::string_view xml);

/** The aliases of the network cards whose link somebody has taken down
 * (<link state='down'/>). Of any domain XML; Refused when it is none. */
std::set<std::string> nicsWithoutLink(std::string_view xml);

/** Throws Refused for a policy that no boot server knows the form of. */
void checkBootedPolicy(std::string_view policy);

} // namespace airlock::host
