#pragma once

#include "common/process.hpp"
#include "tests/machine/machine_rig.hpp"
#include "tests/switch/switch_rig.hpp"

#include <optional>

namespace airlock::test
{

/** A boot host and a production host, each in a network namespace, at the ports
 * boot0 and prod0 of a switch with the real airlock-switchd. The machine's
 * interface is called eth0. */
class SwitchNet
{
  public:
    static constexpr const char* switchAddress = "10.9.0.1";
    static constexpr const char* bootAddress = "10.9.0.2";
    static constexpr const char* hostAddress = "10.9.0.3";

    explicit SwitchNet(MachineRig& machine);

    /** Has the machine's site and its namespace fit; before install(). */
    void setUpMachine(machine::ProofMethod method);
    /** A tap takes the place of the boot host's cable: a machine whose QEMU is
     * started in the switch's namespace is plugged in there. Before
     * startAgent(). */
    void plugInTap();
    void startAgent();
    /** The agent's control socket. */
    Json call(const std::string& method, Json parameters = Json::object());
    void enroll(const std::string& method, const std::string& key = "");
    Json port() { return call("port", {{"port", "boot0"}})["port"]; }
    bool portBecomes(const std::string& state);

    const NetNamespace& production() const { return production_; }
    const NetNamespace& boot() const { return boot_; }
    const NetNamespace& switchSide() const { return switch_; }
    /** A host agent on the production host; to be used there. */
    boot::Client client(const std::string& name = "host1");
    /** Of the boot host's interface. */
    MacAddress bootAddressNow();
    /** Frames that came out of the production port since the last call and are
     * neither the switch's nor the production host's own. */
    std::size_t framesOfOthers();
    /** All of them, whoever they say they are from. */
    std::vector<Caught> atProduction() { return prodEnd_->take(); }
    /** Whether the switch or the production host has this address. */
    bool isOwn(const MacAddress& address) const
    {
        return own_.contains(address);
    }
    /** Of the production host's end of the cable. */
    const MacAddress& productionAddress() const { return productionMac_; }

    Process& agent() { return *agent_; }
    std::string log() const;

  private:
    MachineRig& machine_;
    NetNamespace switch_;
    NetNamespace boot_;
    NetNamespace production_;
    std::unique_ptr<CableEnd> prodEnd_;
    std::set<MacAddress> own_;
    MacAddress productionMac_;
    std::optional<Process> agent_;
};

} // namespace airlock::test
