// First process of a clean image for tests: all that clean mode does before
// its work, and then what the test has written to the staging area.
#include "bootsrv/machine/init.hpp"
#include "bootsrv/machine/nic.hpp"
#include "common/epoch_address.hpp"
#include "common/file.hpp"
#include "tests/modes/probe.hpp"

#include <unistd.h>

using namespace airlock;

namespace
{

void tellSecrets(const machine::SealedIdentity& identity)
{
    Sha256 hash;
    hash.update(identity.addressRoot.view());
    hash.update(identity.keptKey.view());
    probe::say("secrets", toHex(hash.finish()));
}

void tellSecondTry(const machine::CleanParts& parts)
{
    const machine::SealRecord record =
        machine::SealStore(
            machine::findPartition(machine::sealLabel, std::chrono::seconds(5)))
            .read();
    const trust::PolicyKey key = trust::PolicyKey::fromPem(
        readTextFile(machine::policyKeyFile, 16U << 10), "key");
    probe::say("second unseal", probe::errorOf([&] {
                   parts.tpm->use([&](const trust::Tpm& tpm) {
                       trust::UnsealSession(tpm, key, record.policies.at(0))
                           .unseal(*record.blob, key);
                   });
               }));
}

void setEpochAddress(const machine::CleanParts& parts)
{
    if (parts.nic.empty())
    {
        probe::say("address", "no card");
        return;
    }
    const MacAddress address =
        epoch::hostAddress(parts.identity.addressRoot, 1);
    machine::Nic(parts.nic).come(address);
    probe::say("address",
               probe::textOf("/sys/class/net/" + parts.nic + "/address"));
}

void work(machine::CleanParts& parts)
{
    tellSecrets(parts.identity);
    tellSecondTry(parts);
    setEpochAddress(parts);
    probe::say("command line", probe::textOf("/proc/cmdline"));
    probe::say("side files",
               std::filesystem::exists("/.extra") ? "seen" : "no");
    const std::string order = probe::order(parts.staging);
    probe::say("order", order);
    if (order.starts_with("dirty"))
    {
        parts.powerCycle(machine::Mode::dirty);
    }
    if (order.starts_with("hold"))
    {
        probe::say("holding", "yes");
        for (;;)
        {
            ::pause();
        }
    }
}

} // namespace

int main()
{
    machine::cleanInit({}, work);
}
