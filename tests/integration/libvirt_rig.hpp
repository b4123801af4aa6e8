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

/** A boot server of a rig. */
struct BootServerCase
{
    std::string name = "boot1";
    unsigned weight = 1;
    std::string qemu; ///< empty: the one that was built
};

/** How the daemons of a rig are configured. */
struct HostCase
{
    std::vector<BootServerCase> servers = {{}};
    unsigned firstPort = 17420; ///< of the boot servers, one after the other
    std::string reboot = "booted = \"shell\"\n"; ///< TOML, in [reboot]
    std::string tables;                          ///< TOML, more tables
};

/** One production host and its boot servers on this machine: libvirt, both
 * daemons, certificates, and a guest that is a domain. */
class HostRig
{
  public:
    explicit HostRig(const GuestCase& guest, const HostCase& host = {});
    ~HostRig();

    PrivateLibvirt& libvirt() { return libvirt_; }
    const std::string& domain() const { return name_; }

    void startHostd();
    void startBootd(std::size_t server = 0);
    Process& hostd() { return *hostd_; }
    Process& bootd(std::size_t server = 0) { return *bootd_.at(server); }

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
    void writeHostConfiguration();
    void writeBootConfiguration(std::size_t server);
    std::string bootName(std::size_t server, const char* end) const;
    std::string domainXml(const GuestCase& guest) const;

    HostCase host_;
    TempDirectory directory_;
    PrivateLibvirt libvirt_;
    std::string name_ = "demo";
    std::vector<std::optional<Process>> bootd_;
    std::optional<Process> hostd_;
    std::optional<Console> console_;
};

} // namespace airlock::test
