#include "bootsrv/machine/init.hpp"

#include "bootsrv/machine/boot_choice.hpp"
#include "bootsrv/machine/nic.hpp"
#include "common/file.hpp"
#include "common/log.hpp"

#include <unistd.h>

#include <csignal>

namespace airlock::machine
{

namespace
{

constexpr const char* tpmDevice = "device:/dev/tpmrm0";
constexpr auto diskTime = std::chrono::seconds(30);
constexpr std::size_t maxKey = 16U << 10;

PowerCycle howToCycle()
{
    if (!std::filesystem::exists(powerCycleFile))
    {
        return PowerCycle::powerOff;
    }
    return readTextFile(powerCycleFile, 64).starts_with("reboot")
               ? PowerCycle::reboot
               : PowerCycle::powerOff;
}

trust::PolicyKey policyKey()
{
    return trust::PolicyKey::fromPem(readTextFile(policyKeyFile, maxKey),
                                     policyKeyFile);
}

/** For predictions of the next image. It is only written when it changed. */
void noteLog(const SealStore& store, SealRecord& record)
{
    Bytes log = measuredBoot();
    if (log != record.log)
    {
        record.log = std::move(log);
        store.write(record);
    }
}

/** What there is to do before there are secrets. True: that was all. */
bool prepare(const std::shared_ptr<MachineTpm>& tpm, const SealStore& store,
             SealRecord& record, const EnrolmentStep& enrol)
{
    const std::string unwanted = tpm->use([&](const trust::Tpm& it) {
        noteTarget(it, store, record);
        return dropUnwanted(it, store, record, policyKey());
    });
    if (!unwanted.empty())
    {
        log::warning("A request to enrol does not count",
                     {{"REASON", unwanted}});
    }
    if (record.request)
    {
        noteLog(store, record);
        enrollIdentity(tpm, store, policyKey(), enrol);
        log::notice("This machine is enrolled");
        return true;
    }
    if (!record.blob && !record.next)
    {
        noteLog(store, record);
        log::notice("This machine is not enrolled; its measurements are noted");
        return true;
    }
    return false;
}

/** A new root, when the site asked for one. */
void rotate(const std::shared_ptr<MachineTpm>& tpm, const SealStore& store,
            SealRecord& record, const MayRotate& mayRotate)
{
    const bool asked = record.rotation.has_value();
    const std::string why = tpm->use([&](const trust::Tpm& it) {
        return rotateRoot(it, store, record, policyKey(), mayRotate);
    });
    if (!why.empty())
    {
        log::warning("There is no new root", {{"REASON", why}});
    }
    else if (asked)
    {
        log::notice("This machine has a new root; the switch is told next");
    }
}

/** The hardware's own address is nobody's business. */
std::string quietNic()
{
    std::string nic = findNic();
    if (!nic.empty())
    {
        Nic(nic).leave();
    }
    return nic;
}

void cleanSteps(const EnrolmentStep& enrol,
                const std::function<void(CleanParts&)>& work,
                const MayRotate& mayRotate)
{
    mountKernelFiles();
    loadModules(moduleDirectory);
    // First of all: a crash in here must not start dirty mode.
    const BootChoice choice;
    choice.reset();
    std::string nic = quietNic();
    lockDown();
    const SealStore store(findPartition(sealLabel, diskTime));
    SealRecord record = store.read();
    const auto tpm = std::make_shared<MachineTpm>(tpmDevice);
    if (prepare(tpm, store, record, enrol))
    {
        return;
    }
    rotate(tpm, store, record, mayRotate);
    SealedIdentity identity = tpm->use([&](const trust::Tpm& it) {
        return unsealIdentity(it, record, policyKey());
    });
    log::notice("The secrets are unsealed, and shut until the next start");
    // The log of a state that was approved, not of any that was tried.
    noteLog(store, record);
    CleanParts parts{
        tpm,
        std::move(identity),
        findPartition(keptLabel, diskTime),
        findPartition(stagingLabel, diskTime),
        std::move(nic),
        [&choice](Mode next) {
            if (next == Mode::dirty)
            {
                choice.next(next);
            }
            log::notice("The mode changes",
                        {{"NEXT", next == Mode::dirty ? "dirty" : "clean"}});
            endMachine(howToCycle());
        },
    };
    work(parts);
}

/** Whatever failed, nothing may be unsealed afterwards. */
void capAnyway() noexcept
{
    try
    {
        trust::cap(trust::Tpm(tpmDevice));
    }
    catch (const std::exception&)
    {
        // Without a TPM there is nothing to shut.
        return;
    }
}

void ignoreSignals()
{
    ::signal(SIGPIPE, SIG_IGN);
}

} // namespace

void cleanInit(const EnrolmentStep& enrol,
               const std::function<void(CleanParts&)>& work,
               const MayRotate& mayRotate)
{
    ignoreSignals();
    try
    {
        cleanSteps(enrol, work, mayRotate);
    }
    catch (const std::exception& error)
    {
        capAnyway();
        log::error("Clean mode cannot go on", {{"REASON", error.what()}});
    }
    endMachine(PowerCycle::powerOff);
}

void dirtyInit(
    std::chrono::seconds limit,
    const std::function<void(const std::filesystem::path& staging)>& work)
{
    ignoreSignals();
    PowerCycle how = PowerCycle::powerOff;
    try
    {
        how = howToCycle();
        endMachineAfter(limit, how);
        mountKernelFiles();
        loadModules(moduleDirectory);
        work(findPartition(stagingLabel, diskTime));
    }
    catch (const std::exception& error)
    {
        log::error("Dirty mode ends", {{"REASON", error.what()}});
    }
    endMachine(how);
}

} // namespace airlock::machine
