#pragma once

#include "common/process.hpp"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace airlock::rig
{

/** Gives this process mounts and a network of its own, of which nothing is
 * left when it ends: the loopback interface is up, there is no other. All that
 * it starts is in there with it. Once is enough; before the first thread. */
void enterPrivateNamespaces();

/** A libvirtd of our own: its own configuration, state and sockets, in a mount
 * namespace of its own. The machine's libvirt, if it has one, is not touched.
 */
class PrivateLibvirt
{
  public:
    explicit PrivateLibvirt(const std::filesystem::path& directory);
    PrivateLibvirt(const PrivateLibvirt&) = delete;
    PrivateLibvirt& operator=(const PrivateLibvirt&) = delete;
    /** Ends it and every guest that it left running. */
    ~PrivateLibvirt();

    void start();
    /** SIGKILL; guests go on running. */
    void kill();

    /** Of the daemon: "9.0.0". */
    std::string version() const;
    std::string uri() const;
    /** Of the guest's QEMU; Error when it has none. */
    pid_t qemu(const std::string& domain) const;
    /** Output of virsh; Error with what it said when it fails. */
    std::string virsh(const std::vector<std::string>& arguments,
                      Milliseconds timeout = std::chrono::minutes(1)) const;

  private:
    std::filesystem::path directory_;
    std::optional<Process> process_;
};

} // namespace airlock::rig
