#pragma once

#include "common/console.hpp"
#include "common/file.hpp"
#include "common/process.hpp"
#include "guest_files.hpp"

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace airlock::test
{

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

    std::string uri() const;
    /** Output of virsh; Error with what it said when it fails. */
    std::string virsh(const std::vector<std::string>& arguments,
                      Milliseconds timeout = std::chrono::minutes(1)) const;

  private:
    std::filesystem::path directory_;
    std::optional<Process> process_;
};

/** One production host and one boot server on this machine: libvirt, both
 * daemons, certificates, and a guest that is a domain. */
class HostRig
{
  public:
    explicit HostRig(const GuestCase& guest);
    ~HostRig();

    PrivateLibvirt& libvirt() { return libvirt_; }
    const std::string& domain() const { return name_; }

    void startHostd();
    void startBootd();
    Process& hostd() { return *hostd_; }
    Process& bootd() { return *bootd_; }

    /** Waits until virsh says "running" and the guest answers on its console;
     * then a shell of root is there. Error with the daemons' last words. */
    void waitAlive(Milliseconds timeout);
    /** Waits until the domain is seen trapped (paused). */
    void waitPaused(Milliseconds timeout);
    /** After a reboot: forgets the former life's console, then as waitAlive().
     */
    void waitReborn(Milliseconds timeout);
    /** Output of a command in the guest. */
    std::string run(const std::string& command,
                    Milliseconds timeout = std::chrono::minutes(1));
    void send(const std::string& line);

    std::string domainState() const;
    std::string logs() const;
    const std::filesystem::path& path() const { return directory_.path(); }

  private:
    void writeCertificates();
    void writeConfigurations();
    std::string domainXml(const GuestCase& guest) const;

    TempDirectory directory_;
    PrivateLibvirt libvirt_;
    std::string name_ = "demo";
    std::optional<Process> bootd_;
    std::optional<Process> hostd_;
    std::optional<Console> console_;
};

} // namespace airlock::test
