#pragma once

#include "common/mac_address.hpp"
#include "tools/switchd/nft.hpp"

#include <chrono>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace airlock::sw
{

/** The second layer: nftables rules that let nothing in from a boot port or
 * out to it but what a lease allows, and that forget the lease by themselves.
 *
 * Tables "airlock" of the families bridge and netdev. A lease is an element
 * with a time-out of the set "live": when nobody renews it, for example
 * because the agent was killed, the kernel drops it. Boot ports are known by
 * name, so a port that leaves the bridge and comes back finds the rules there.
 *
 * Bridge family: frames that the bridge forwards, delivers or sends. Netdev
 * family, hooks of each boot port: also those that go past the bridge, such as
 * what the switch's own IP stack or a daemon sends straight to the port.
 */
class Fence
{
  public:
    Fence(std::vector<std::string> ports, std::uint16_t etherType);

    /** Replaces both tables: everything is shut. */
    void install();

    /** Makes the hooks of a port whose interface is there; they go with the
     * interface. Throws Error, for example when the kernel has no such hooks.
     */
    void attach(const std::string& port);

    /** Which addresses nobody on another port may use (`expected`), and to
     * which no frame may go (`hidden`). */
    void guard(const std::vector<MacAddress>& expected,
               const std::vector<MacAddress>& hidden);

    /** Lets an address through at a port, for a time; the same again renews
     * it. With `broadcast`, frames to all go out of the port. */
    void open(const std::string& port, const MacAddress& address,
              std::chrono::seconds time, bool broadcast);

    /** Nothing comes in any more; what the switch itself sends to the address
     * goes out for `time`. */
    void drain(const std::string& port, const MacAddress& address,
               std::chrono::seconds time);

    /** Nothing in, nothing out. No error when it was so, nor when the time of
     * a lease ends meanwhile; an error when the tables are not there. */
    void close(const std::string& port);

    /** Whether rules, sets and the hooks of these ports are as they were made:
     * the guarded addresses are in their sets, and nothing is let through but
     * what open() and drain() let. A lease that is missing is no harm. */
    bool intact(const std::set<std::string>& attached);

  private:
    void shut(const std::string& port);
    bool setsHold(const Json& listed) const;

    std::vector<std::string> ports_;
    std::uint16_t etherType_;
    Nft nft_;
    /** As the kernel listed them when they were made. */
    Json rulesMade_;
    Json setsMade_; ///< of the family netdev
    std::map<std::string, Json> hooksMade_;
    /** What is in the sets, by their names, as valueText() has it; of those
     * with time-outs, what may be. The same in both families. */
    std::map<std::string, std::set<std::string>> contents_;
};

} // namespace airlock::sw
