#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace airlock::vm
{

/** What a host agent and a boot server have to agree on: what one lets a domain
 * have, the other takes. Bytes of names, labels and policies; the time that a
 * boot may take. */
inline constexpr std::size_t maxLabel = 64;
inline constexpr std::size_t maxPolicy = 256;
inline constexpr std::chrono::seconds maxBootTime = std::chrono::hours(24);

/** A text that is safe in a log: printable ASCII, not empty, not too long. */
bool isLabel(std::string_view text, std::size_t max = maxLabel);

enum class Accelerator
{
    tcg,
    kvm,
};

/** A raw image. Its format is never probed; one process at a time may have it
 * open for writing (QEMU's image locks see to that). */
struct Disk
{
    std::filesystem::path image;
    bool readOnly = false;
};

struct Nic
{
    std::string mac; ///< "52:54:00:12:34:56"
};

/** What the guest sees of its machine, before and after a hand-over.
 *
 * Both QEMUs are started from the same GuestSpec, with each device at the same
 * PCI address: what a guest learnt while it booted has to hold afterwards.
 */
struct GuestSpec
{
    std::string name = "guest"; ///< letters, digits, '-', '_', '.'
    std::string uuid;           ///< RFC 4122; empty: none
    unsigned vcpus = 2;
    std::uint64_t memory = 1ULL << 30; ///< bytes, whole MiB
    /** A named model of QEMU that TCG and KVM both have in full; never
     * "host", which means something else on each machine. */
    std::string cpuModel = "Nehalem";
    Accelerator accelerator = Accelerator::tcg;
    std::vector<Disk> disks; ///< at most maxDisks; the first one is booted
    std::vector<Nic> nics;   ///< at most maxNics
    bool console = true;     ///< a virtio console (hvc0 in Linux)
    bool agent = false;      ///< a port for the guest agent beside the console
    bool rng = true;         ///< a virtio entropy source
    bool msix = true;        ///< false: virtio devices use INTx
};

inline constexpr unsigned maxVcpus = 64;
inline constexpr std::size_t maxDisks = 8;
inline constexpr std::size_t maxNics = 4;

/** What only the boot machine has. */
struct BootOptions
{
    /** Legacy and extraneous devices by catalog id, switched on or off; the
     * rest is as the machine type has it. */
    std::map<std::string, bool> devices;
    /** Instead of QEMU's own SeaBIOS; a file name as for QEMU's -bios. */
    std::optional<std::string> firmware;
};

/** Throws Error naming the first value that no machine can be made from. */
void validate(const GuestSpec& spec);

/** Slots of the devices on the root bus (00:XX.0), the same on both machine
 * types. Slot 0 is the host bridge, 1 is left to a VGA card and 0x1f to the
 * boot machine's chip set. */
inline constexpr unsigned consoleSlot = 0x02;
inline constexpr unsigned rngSlot = 0x03;
inline constexpr unsigned firstNicSlot = 0x04;
inline constexpr unsigned firstDiskSlot = 0x08;

/** The devices that a specification asks for, with their addresses:
 * "virtio-net-pci@00:04.0". */
std::vector<std::string> deviceList(const GuestSpec& spec);

/** Names under which QMP knows disk and NIC number `index`. */
std::string diskNode(std::size_t index);
std::string nicId(std::size_t index);

} // namespace airlock::vm
