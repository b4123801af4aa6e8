#include "tests/machine/switch_net.hpp"

#include "common/tls.hpp"

namespace airlock::test
{

SwitchNet::SwitchNet(MachineRig& machine)
    : SwitchedHosts(machine.directory(), machine.pki().authority()),
      machine_(machine)
{}

void SwitchNet::setUpMachine(machine::ProofMethod method)
{
    machine_.nic = "eth0";
    machine_.launcher = rig::inside(boot());
    machine_.site.tls =
        machine_.identityFor("boot1", tls::bootRole, bootAddress);
    machine_.site.network = {std::string(bootAddress) + "/24", ""};
    machine::Site::Switch site;
    site.host = switchAddress;
    site.method = method;
    site.leaseSeconds = leaseSeconds;
    machine_.site.switchTo = site;
}

void SwitchNet::enroll(const std::string& method, const std::string& key)
{
    Json wanted = {{"port", bootPort}, {"host", "boot1"}, {"method", method}};
    if (key.empty())
    {
        wanted["root"] = toHex(machine_.root().view());
    }
    else
    {
        wanted["key"] = key;
    }
    call("enroll", wanted);
}

MacAddress SwitchNet::bootAddressNow()
{
    MacAddress out;
    boot().run([&out] { out = rig::addressOf("eth0"); });
    return out;
}

boot::Client SwitchNet::client(const std::string& name)
{
    return machine_.clientAt(bootAddress, name);
}

} // namespace airlock::test
