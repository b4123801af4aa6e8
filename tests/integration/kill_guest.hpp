#pragma once

#include "tools/rigs/host_rig.hpp"

#include <cstdint>
#include <map>
#include <string>

namespace airlock::test
{

using namespace rig;

/** The first guest of a rig, a tiny one, that writes to its disk until it is
 * rebooted, and what it was told is durable. In each life it writes numbered
 * records to a file of that life; each is synced before it is acknowledged on
 * the console. */
class KillGuest
{
  public:
    explicit KillGuest(HostRig& rig) : rig_(rig) {}

    void start(Milliseconds timeout);

    /** Returns when some records are acknowledged; the guest goes on writing.
     */
    void startWriting();
    /** From inside; `harsh`: at once, with all that is not synced lost. */
    void reboot(bool harsh);
    /** From outside. Returns when it is trapped. */
    void reset();
    /** Waits for the next life, starting the domain if it is off. */
    void waitBack(Milliseconds timeout);

    /** Of the last life: records that were acknowledged. */
    std::uint64_t acknowledged() const { return records_.at(life_); }
    /** What is wrong in the new life: records of the last life that are
     * missing or damaged, boots that left their mark twice or not at all,
     * errors in the kernel's log. Empty when all is well. */
    std::string complaints();
    /** Looks at the records of all lives once more. */
    std::string lostOfAll();

    /** Where the host agent's log ended when the reboot was asked for. */
    std::size_t logStart() const { return logStart_; }

  private:
    void takeAcknowledgements();
    std::string lostOf(unsigned life, std::uint64_t records);

    HostRig& rig_;
    std::string bootId_;
    std::vector<std::string> boots_; ///< ids of all lives that were seen
    unsigned life_ = 0;
    std::map<unsigned, std::uint64_t> records_; ///< by life
    std::size_t logStart_ = 0;
};

/** Waits for a text in the host agent's log, from an offset on. */
void waitLogged(const HostRig& rig, const std::string& text, std::size_t from,
                Milliseconds timeout);

/** False when there is none. */
bool killBootQemu(const HostRig& rig);
/** Waits until libvirt has noticed. Nothing to do if it is off already. */
void killProductionQemu(HostRig& rig);

/** What e2fsck says against the root file system of a tiny guest's image after
 * the journal was replayed on a copy; empty when it is clean. */
std::string fileSystemTrouble(const std::filesystem::path& image);

} // namespace airlock::test
