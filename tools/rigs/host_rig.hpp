#pragma once

#include "common/file.hpp"
#include "common/json.hpp"
#include "common/pki.hpp"
#include "tools/rigs/built.hpp"
#include "tools/rigs/hosted_guest.hpp"

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace airlock::rig
{

/** A boot server of a HostRig. */
struct BootServerCase
{
    std::string name = "boot1";
    unsigned weight = 1;
    std::string qemu = {}; ///< empty: the one that was built
    /** One that is somewhere else already; empty: it is started here. */
    std::string host = {};
    std::uint16_t port = 7420; ///< of one with a host
};

struct RigSettings
{
    std::string booted = "shell"; ///< hostd.toml, reboot.booted
    std::string reboot;           ///< lines for hostd.toml, section reboot
    std::string boot;             ///< lines for bootd.toml, section boot
    bool daemons = true;          ///< libvirt only if not
    std::string tables;           ///< more tables for hostd.toml
    std::vector<BootServerCase> servers = {{}};
    /** Of all certificates; without it there is one of our own. */
    std::optional<pki::Credential> authority = {};
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
    std::filesystem::path socket() const { return path() / "hostd.sock"; }
    /** Id of the job that began last; empty when there was none. */
    std::string lastJob() const;
    /** Waits until the first guest is back from another job than that; that
     * job as the history has it. Calls `tick` with the guest's state. Error
     * when it is held, TimedOut when it does not come. */
    Json waitReturn(const std::string& lastJob, Milliseconds timeout,
                    const std::function<void(const std::string&)>& tick) const;

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
    /** One of ours: "tools/airlockctl/airlockctl". */
    static std::string program(const std::string& relative)
    {
        return builtProgram(relative);
    }
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

} // namespace airlock::rig
