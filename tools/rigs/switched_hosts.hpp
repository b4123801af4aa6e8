#pragma once

#include "common/json.hpp"
#include "common/pki.hpp"
#include "common/process.hpp"
#include "tools/rigs/cable.hpp"
#include "tools/rigs/net_namespace.hpp"

#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace airlock::rig
{

/** A boot host and a production host, each in a network namespace, at two ports
 * of a switch with the real airlock-switchd:
 *
 *     boot (eth0) --- boot0 | br0 | prod0 --- (eth0) production
 */
class SwitchedHosts
{
  public:
    static constexpr const char* switchAddress = "10.9.0.1";
    static constexpr const char* bootAddress = "10.9.0.2";
    static constexpr const char* hostAddress = "10.9.0.3";
    static constexpr const char* bootPort = "boot0";
    static constexpr const char* productionPort = "prod0";
    static constexpr unsigned leaseSeconds = 6;

    /** `directory` gets the agent's files; it and the authority of all
     * certificates have to outlive it. */
    SwitchedHosts(std::filesystem::path directory,
                  const pki::Credential& authority,
                  NetNamespace production = {});

    /** A tap takes the place of the boot host's cable: a machine whose QEMU
     * gets it from a thread in the switch's namespace is plugged in there.
     * Before startAgent(). */
    void plugInTap();
    /** `more`: lines for switchd.toml, before its tables. */
    void startAgent(const std::string& more = "");
    /** The agent's control socket. */
    Json call(const std::string& method, Json parameters = Json::object());
    std::filesystem::path socket() const { return directory_ / "switchd.sock"; }
    Json port() { return call("port", {{"port", bootPort}})["port"]; }
    bool portBecomes(const std::string& state,
                     Milliseconds time = std::chrono::seconds(40));

    const NetNamespace& production() const { return production_; }
    const NetNamespace& boot() const { return boot_; }
    const NetNamespace& theSwitch() const { return switch_; }
    /** Frames that came out of the production port since the last call and are
     * neither the switch's nor the production host's own. */
    std::size_t framesOfOthers();
    /** All of them, whoever they say they are from. */
    std::vector<Caught> atProduction() { return prodEnd_->take(); }
    /** Of the production host's end of the cable. */
    const MacAddress& productionAddress() const { return productionMac_; }
    /** Addresses of the switch and of the production host. */
    const std::set<MacAddress>& ownAddresses() const { return own_; }

    Process& agent() { return *agent_; }
    std::string log() const;

  private:
    std::filesystem::path directory_;
    const pki::Credential& authority_;
    NetNamespace switch_;
    NetNamespace boot_;
    NetNamespace production_;
    std::unique_ptr<CableEnd> prodEnd_;
    std::set<MacAddress> own_;
    MacAddress productionMac_;
    std::optional<Process> agent_;
};

/** Begins a command line that is to run in this namespace. */
std::vector<std::string> inside(const NetNamespace& net);

} // namespace airlock::rig
