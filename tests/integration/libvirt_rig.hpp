#pragma once

#include "common/console.hpp"
#include "common/file.hpp"
#include "common/json.hpp"
#include "common/process.hpp"
#include "guest_files.hpp"

#include <filesystem>
#include <functional>
#include <memory>
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
    /** Of the guest's QEMU; Error when it has none. */
    pid_t qemu(const std::string& domain) const;
    /** Output of virsh; Error with what it said when it fails. */
    std::string virsh(const std::vector<std::string>& arguments,
                      Milliseconds timeout = std::chrono::minutes(1)) const;

  private:
    std::filesystem::path directory_;
    std::optional<Process> process_;
};

/** A domain of a HostRig. */
struct DomainCase
{
    std::string name = "demo";
    GuestCase guest;
    std::string tenant; ///< its label; empty: none
    /** Makes the images in the given directory and returns libvirt's XML of
     * the disks; without it there is one, a copy of the guest's image. */
    std::function<std::string(const std::filesystem::path&)> disks;
    std::string cards; ///< libvirt's XML of network cards
    /** An ordinary domain on the boot machine, which is a full PC; libvirt
     * alone reboots it. For a rig without daemons. */
    bool plain = false;
};

/** A boot server of a HostRig. */
struct BootServerCase
{
    std::string name = "boot1";
    unsigned weight = 1;
    std::string qemu = {}; ///< empty: the one that was built
};

struct RigSettings
{
    std::string reboot;  ///< lines for hostd.toml, section reboot
    std::string boot;    ///< lines for bootd.toml, section boot
    bool daemons = true; ///< libvirt only if not
    std::string tables;  ///< more tables for hostd.toml
    std::vector<BootServerCase> servers = {{}};
};

/** Gives this process mounts and a network of its own, of which nothing is
 * left when it ends: the loopback interface is up, there is no other. All that
 * it starts is in there with it. Once is enough; before the first thread. */
void enterPrivateNamespaces();

/** One guest of a HostRig: its console, as a shell of root. */
class HostedGuest
{
  public:
    HostedGuest(const PrivateLibvirt& libvirt, DomainCase domain,
                const std::filesystem::path& directory,
                std::function<std::string()> logs);

    const std::string& name() const { return domain_.name; }
    const std::string& tenant() const { return domain_.tenant; }
    /** The one disk of a guest that has no others. */
    std::filesystem::path image() const;
    std::filesystem::path consolePath() const;

    void start();
    std::string state() const;

    /** Waits until virsh says "running" and the guest answers on its console;
     * then a shell of root is there. Error with the daemons' last words. */
    void waitAlive(Milliseconds timeout);
    /** Waits until the domain is seen trapped (paused). */
    void waitPaused(Milliseconds timeout);
    /** Waits until the domain is off. */
    void waitOff(Milliseconds timeout);
    /** After a reboot: forgets the former life's console, then as waitAlive().
     */
    void waitReborn(Milliseconds timeout);
    /** Waits until another life than that with this boot id answers; for when
     * it is not known how far the reboot is. Returns its boot id. A question
     * that is not answered in `patience` is asked again. */
    std::string waitOtherLife(const std::string& bootId, Milliseconds timeout,
                              Milliseconds patience = std::chrono::seconds(5));

    /** Output of a command in the guest; Error unless it ends with 0. */
    std::string run(const std::string& command,
                    Milliseconds timeout = std::chrono::minutes(1));
    void send(const std::string& line);
    std::string bootId(Milliseconds timeout = std::chrono::seconds(5));
    /** Between waitAlive() and the end of that life. */
    Console& console() { return *console_; }

  private:
    void waitState(const std::string& wanted, Milliseconds timeout) const;

    const PrivateLibvirt& libvirt_;
    DomainCase domain_;
    std::filesystem::path directory_;
    std::function<std::string()> logs_;
    std::optional<Console> console_;
};

/** One production host and its boot servers on this machine: libvirt, both
 * daemons, certificates, and guests that are domains. */
class HostRig
{
  public:
    explicit HostRig(const GuestCase& guest);
    /** The daemons are started, the domains defined and not started. */
    explicit HostRig(std::vector<DomainCase> domains,
                     RigSettings settings = {});
    ~HostRig();

    PrivateLibvirt& libvirt() { return libvirt_; }
    HostedGuest& guest(std::size_t index = 0) { return *guests_.at(index); }
    std::size_t guestCount() const { return guests_.size(); }

    void startHostd();
    void startBootd(std::size_t server = 0);
    Process& hostd() { return *hostd_; }
    Process& bootd(std::size_t server = 0) { return *bootd_.at(server); }
    /** A call of the host agent's control socket, as airlockctl does it. */
    Json ask(const std::string& method, Json parameters = Json::object()) const;

    // Of the first guest, see HostedGuest.
    const std::string& domain() const { return guests_.front()->name(); }
    void waitAlive(Milliseconds timeout) { guest().waitAlive(timeout); }
    void waitPaused(Milliseconds timeout) { guest().waitPaused(timeout); }
    void waitReborn(Milliseconds timeout) { guest().waitReborn(timeout); }
    std::string run(const std::string& command,
                    Milliseconds timeout = std::chrono::minutes(1))
    {
        return guest().run(command, timeout);
    }
    void send(const std::string& line) { guest().send(line); }
    std::string domainState() const { return guests_.front()->state(); }

    std::string logs() const;
    const std::filesystem::path& path() const { return directory_.path(); }

  private:
    void writeCertificates();
    void writeHostConfiguration();
    void writeBootConfiguration(std::size_t server);
    std::string bootName(std::size_t server, const char* end) const;
    void define(const HostedGuest& guest, const DomainCase& domain,
                std::size_t index);

    TempDirectory directory_;
    RigSettings settings_;
    PrivateLibvirt libvirt_;
    std::vector<std::unique_ptr<HostedGuest>> guests_;
    std::vector<std::optional<Process>> bootd_;
    std::optional<Process> hostd_;
};

} // namespace airlock::test
