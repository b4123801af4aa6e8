#pragma once

#include "common/deadline.hpp"
#include "devmodel/handover/bundle.hpp"
#include "hostagent/agent/delta_spool.hpp"
#include "hostagent/agent/servers.hpp"
#include "hostagent/agent/slots.hpp"
#include "hostagent/agent/trapped_domain.hpp"
#include "hostagent/disk/disk_export.hpp"
#include "hostagent/store/store.hpp"

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <stop_token>
#include <string>

namespace airlock::host
{

/** How reboots are done; domains may say otherwise in their metadata. */
struct RebootSettings
{
    std::string booted = "auto";     ///< see docs/protocol-boot.md
    std::chrono::seconds limit{600}; ///< for the guest to come up
    std::chrono::seconds uploadTime{1800};
    /** From sealing to the result, beyond the limit: the queue and, on a boot
     * host that reboots, its reboots. */
    std::chrono::seconds serverTime{900};
    std::chrono::seconds returnTime{1800};
    std::chrono::seconds retryDelay{5};
    unsigned attempts = 3; ///< boot servers that are tried before `held`
    unsigned jobs = 8;     ///< at once
    std::uint64_t diskBytes = 1ULL << 40; ///< larger ones are not shipped
};

/** How long a VM may be in a state on its way; a reboot of this VM may take
 * `limit`. */
std::chrono::seconds stateTime(const RebootSettings& settings, State state,
                               std::chrono::seconds limit);

/** Mark of a VM whose clock is to be set when its agent answers. */
inline constexpr const char* clockMark = "clock";

/** Something that an operator should look at. */
struct Alert
{
    std::string uuid;
    std::string name;
    std::string what; ///< "held", "retrying"...; see airlock-hostd(8)
    std::string why;
};

/** What all reboots share. */
struct CycleContext
{
    Store& store;
    ServerPool& servers;
    JobSlots& slots;
    RebootSettings settings;
    std::filesystem::path spool;
    std::function<void(const Alert&)> alert;
    /** Told of each change of state. */
    std::function<void(const VmRecord&)> changed;
};

/** Alerts for each VM that is on its way for longer than that may take: whoever
 * works on it does not come back from a call of libvirt or QEMU. `active` are
 * the UUIDs of domains that are on; `limits` are of the VMs whose reboots may
 * take another time than the configured one. */
void alertStuck(const CycleContext& context,
                const std::set<std::string>& active,
                const std::map<std::string, std::chrono::seconds>& limits);

/** An operator gives up what a boot wrote to the disks of a VM that is held
 * while a delta is only half applied: its disks are whatever the operator says
 * that they are. It stays held in this life. */
void discardDelta(const CycleContext& context, const VmRecord& vm);

/** A domain is off or gone: nobody waits for its job any more. A delta that is
 * being applied stays, for the next life to complete. */
void abandonJob(const CycleContext& context, const std::string& uuid);

/** libvirt does not define the domain any more: what the store knows of it is
 * forgotten, unless its disks are half written. */
void forgetDomain(const CycleContext& context, const std::string& uuid);

/** Takes one domain through its reboot, from whatever point it is at.
 *
 * Each change of state is durable before it is acted on, and each action may
 * be done again: the process may die anywhere, a new object on the same domain
 * goes on. The production disk is not written before the state of the booted
 * guest is admitted and loaded.
 */
class Cycle
{
  public:
    Cycle(CycleContext& context, std::shared_ptr<Domain> domain,
          std::stop_token stop);

    /** Goes on until there is nothing to do: the guest runs, is off, waits for
     * an operator (nothing), or for a while (how long). Throws Error when
     * libvirt, QEMU or the store fail; then it may be tried again later. */
    std::optional<Milliseconds> run();

    /** What a boot of this domain may take. */
    std::chrono::seconds limit() const;

  private:
    enum class Next
    {
        goOn,
        wait,
        done,
    };

    DomainSpec readSpec();
    void refuse();
    bool isIdle();
    bool isNewLife() const;
    Next tryStep();
    Next step();
    Next complete();
    Next untrapped();
    Next giveUp();
    void alertResumed() const;
    Next startOver();
    Next begin();
    void abandon();
    Next choose();
    boot::Client connect() const;
    Next upload();
    Next waitBooted();
    Next fetchDeltas();
    void fetchDelta(boot::Client& client, std::size_t disk,
                    std::uint64_t diskBytes, const boot::DeltaFile& expected);
    Next admit();
    Next apply();
    Next resume(bool loaded);
    std::optional<Milliseconds> setClock();
    void applyDeltas();
    void finish();
    void removeDeltas();
    void closeJob(Change& change, const std::string& result) const;
    void removeJob(const std::string& job);
    Next trouble(const std::exception& error);
    Next fail(const std::string& why);
    Next hold(const std::string& why, std::vector<std::string> marks);
    void alert(const char* what, const std::string& why) const;
    void enter(State state, const Change& change = {});
    void checkDisks(const std::vector<QemuDisk>& disks) const;
    std::chrono::seconds timeFor(State state) const;
    double secondsInState() const;
    bool lateFor(std::chrono::seconds time) const;

    boot::JobRequest request(const std::vector<QemuDisk>& disks) const;
    handover::JobTicket ticket() const;
    std::vector<QemuDisk> disks();
    DeltaSpool spool() const;
    std::string lifeMark() const;

    CycleContext& context_;
    std::shared_ptr<Domain> domain_;
    std::stop_token stop_;
    VmRecord record_;
    std::string refused_; ///< why its XML is; then spec_ is empty
    DomainSpec spec_;
    TrappedDomain trapped_;
    vm::TrapState qemu_; ///< as the step saw it
    std::optional<boot::JobStatus> status_;
    std::map<std::string, double> seconds_;
    Figures figures_;
};

} // namespace airlock::host
