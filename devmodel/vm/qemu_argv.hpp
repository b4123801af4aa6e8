#pragma once

#include "devmodel/vm/guest_spec.hpp"

#include <filesystem>
#include <string>
#include <vector>

namespace airlock::vm
{

/** By this name a guest agent finds its port. */
inline constexpr const char* agentPortName = "org.qemu.guest_agent.0";

/** Machine types of the two builds. */
inline constexpr const char* productionMachine = "airlock-1.0";
inline constexpr const char* bootMachine = "airlock-boot-1.0";

/** A QEMU build of ours. */
struct Qemu
{
    std::filesystem::path binary;
    /** Where its firmware lies (-L); empty: as built in. */
    std::filesystem::path data;
    bool seccomp = false; ///< it was built with seccomp
};

/** Looks at a build: throws Error, saying how to make one, if there is none.
 */
Qemu findQemu(const std::filesystem::path& binary);

/** What tools/build-qemu left in a build directory. */
struct QemuBuilds
{
    Qemu production;
    Qemu boot;
};
QemuBuilds findQemuBuilds(const std::filesystem::path& buildDirectory);

/** $AIRLOCK_BUILD or ./build. */
std::filesystem::path defaultBuildDirectory();

/** Descriptors that the child inherits under these numbers. -1: none. */
struct Channels
{
    int qmp = -1;          ///< a stream socket, QMP on the other end
    int memory = -1;       ///< file of GuestSpec::memory bytes
    int console = -1;      ///< a stream socket, the virtio console
    int agent = -1;        ///< a stream socket, the guest agent's port
    int serial = -1;       ///< a stream socket, the boot machine's ttyS0
    std::vector<int> taps; ///< one per NIC; fewer: those NICs have no peer

    std::vector<int> all() const;
};

/** The command line of a machine that waits for a state in its reset trap. */
std::vector<std::string> productionArgv(const Qemu& qemu, const GuestSpec& spec,
                                        const Channels& channels);

/** The command line of a machine that boots the guest; it waits for `cont`,
 * so that links can be taken down before the first instruction. NICs have no
 * host side there. */
std::vector<std::string> bootArgv(const Qemu& qemu, const GuestSpec& spec,
                                  const BootOptions& options,
                                  const Channels& channels);

} // namespace airlock::vm
