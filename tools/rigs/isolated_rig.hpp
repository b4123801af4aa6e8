#pragma once

#include "bootsrv/capsule/capsule.hpp"
#include "bootsrv/client.hpp"
#include "common/pki.hpp"
#include "common/secret.hpp"
#include "tools/rigs/host_rig.hpp"
#include "tools/rigs/switched_hosts.hpp"

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace airlock::rig
{

/** What the boot host is made from. */
struct BootHostCase
{
    /** clean.efi, dirty.efi and the keys of their site, in "site". */
    std::filesystem::path images;
    std::uint64_t stagingBytes = 8ULL << 30; ///< sparse
    unsigned cpus = 2;
    unsigned memoryMiB = 1024;
};

/** What a production host has beside the one boot host. */
struct ProductionCase
{
    /** Boot servers that are processes of it. */
    std::vector<BootServerCase> others = {};
    /** Lines for hostd.toml, section reboot. A guest in a guest, without
     * hardware help, and two starts of the boot host around it, take long. */
    std::string reboot = "limit = 1500";
    std::string tables = {}; ///< more tables for hostd.toml
};

/** A site on this machine: a production host with libvirt and a host agent, a
 * switch with its agent, a boot host that is a capsule with the images as they
 * are shipped, and an administrator, each in a network namespace:
 *
 *     boot host --- boot0 | switch | prod0 --- production host
 *                             |                      |
 *                       administrator's network, which no boot host is at
 *
 * This process is the production host: it gets mounts and a network of its own.
 */
class IsolatedRig
{
  public:
    static constexpr const char* bootHostName = "boot1";

    /** The networks, and the switch with its agent. Before the first thread.
     * `directory` gets all files. */
    IsolatedRig(std::filesystem::path directory, BootHostCase boot);
    IsolatedRig(const IsolatedRig&) = delete;
    IsolatedRig& operator=(const IsolatedRig&) = delete;

    /** Makes the capsule; it is started twice, to be measured and enrolled. */
    void enrol();
    /** Switches the boot host on, by "airlock-bootd capsule run". */
    void startBootHost();
    /** Waits until it has shown the switch that it is clean. Error with its
     * last words when it does not. */
    void waitClean(Milliseconds time, const std::function<void()>& tick = {});
    /** libvirt and the host agent of the production host, with this domain. */
    HostRig& startProduction(const DomainCase& domain,
                             ProductionCase more = {});

    /** What a host agent without libvirt has; to be used on the production
     * host. */
    boot::Client client();

    SwitchedHosts& net() { return net_; }
    const NetNamespace& administrator() const { return administrator_; }
    HostRig& production() { return *production_; }
    /** Of the boot host; once it is enrolled. */
    const capsule::Capsule& capsule() const { return *capsule_; }
    /** The boot host's mode: "clean", "dirty", or "off". */
    std::string mode() const;
    std::filesystem::path console() const;
    std::filesystem::path bootLog() const { return directory_ / "bootd.log"; }
    std::string logs() const;

  private:
    void plugAdministrator();
    Json site() const;

    std::filesystem::path directory_;
    BootHostCase bootCase_;
    pki::Credential authority_;
    Secret root_ = Secret::random();
    SwitchedHosts net_;
    NetNamespace administrator_;
    std::optional<capsule::Capsule> capsule_;
    std::optional<Process> bootHost_;
    std::unique_ptr<HostRig> production_;
};

/** The mode that a supervisor's log says it has started last: "clean", "dirty",
 * or "off" when none was. */
std::string modeIn(std::string_view log);

} // namespace airlock::rig
