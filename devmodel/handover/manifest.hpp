#pragma once

#include "devmodel/handover/memory_image.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

/** What a bundle says about itself.
 *
 * State carries no identity: the manifest is written by the agent that ran the
 * job (clean mode, the host agent, or the one program that plays both), from
 * what it knows and from digests that it computed itself. Nothing that the
 * dirty side wrote (the device state, the guest's memory, its vmdesc) ever
 * becomes a field here; a guest that took over its boot machine can change
 * the state in a bundle but not which job the bundle answers.
 */
namespace airlock::handover
{

/** Names one boot of one VM. An answer to another job never fits. */
struct JobTicket
{
    std::string vm;               ///< UUID, lower case, with dashes
    std::uint64_t generation = 0; ///< counts the boots of this VM
    Digest nonce{};               ///< 32 random bytes, fresh for each try

    /** A ticket with a fresh nonce; Refused when `vm` is no UUID. */
    static JobTicket issue(std::string_view vm, std::uint64_t generation);

    bool operator==(const JobTicket&) const = default;
};

/** What the two machines were started with; the agent's own words. */
struct GuestShape
{
    std::string bootMachine;       ///< "airlock-boot-1.0"
    std::string productionMachine; ///< "airlock-1.0"
    std::string accelerator;       ///< "kvm" or "tcg"
    std::string cpuModel;          ///< named model; never "host"
    std::uint32_t vcpus = 0;       ///< 1..255
    std::uint64_t memoryBytes = 0; ///< guest RAM = size of the memory image
    /** Part of it below 4 GiB, at guest address 0 and file offset 0; the rest
     * is at 4 GiB and follows in the file. */
    std::uint64_t lowMemoryBytes = 0;
    std::vector<std::string> devices; ///< "virtio-net-pci@00:02.0"

    bool operator==(const GuestShape&) const = default;
};

struct Manifest
{
    static constexpr std::uint64_t version = 1;

    JobTicket job;
    GuestShape guest;

    std::uint64_t deviceStateBytes = 0;
    Digest deviceStateSha256{};

    std::uint64_t memoryChunks = 0; ///< chunks that are not zero
    Digest memoryRoot{};            ///< MemoryDigest::root()

    /** Sections that reducing left out, as "idstr" or "idstr#instance"; the
     * reducer drops only what it found in the catalog. */
    std::vector<std::string> droppedSections;
    std::map<std::string, double> seconds; ///< time of each stage

    /** The text of manifest.json; indented, ends in a newline. */
    std::string toJson() const;

    /** Reads a manifest that may be anything. Throws Refused with the path of
     * what is wrong ("manifest: job.nonce"): unknown, missing or odd members,
     * sizes beyond the limits, another version or chunk size. */
    static Manifest parse(std::string_view text);

    /** Throws Refused naming what differs ("manifest: job.generation") when
     * this is the answer to another job. The nonce is not quoted. */
    void requireJob(const JobTicket& expected) const;

    bool operator==(const Manifest&) const = default;
};

/** Most bytes that a device state may have; QEMU's own for 8 vCPUs and ten
 * devices has 70 KiB. */
inline constexpr std::uint64_t deviceStateMaxBytes = 16U << 20;

} // namespace airlock::handover
