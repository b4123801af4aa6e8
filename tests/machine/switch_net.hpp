#pragma once

#include "tests/machine/machine_rig.hpp"
#include "tools/rigs/switched_hosts.hpp"

namespace airlock::test
{

using rig::NetNamespace;

/** SwitchedHosts whose boot host is a MachineRig, with an interface eth0. */
class SwitchNet : public rig::SwitchedHosts
{
  public:
    explicit SwitchNet(MachineRig& machine);

    /** Has the machine's site and its namespace fit; before install(). */
    void setUpMachine(machine::ProofMethod method);
    void enroll(const std::string& method, const std::string& key = "");

    /** A host agent on the production host; to be used there. */
    boot::Client client(const std::string& name = "host1");
    /** Of the boot host's interface. */
    MacAddress bootAddressNow();

  private:
    MachineRig& machine_;
};

} // namespace airlock::test
