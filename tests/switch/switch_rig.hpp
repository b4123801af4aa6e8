#pragma once

#include "common/bytes.hpp"
#include "common/fd.hpp"
#include "common/file.hpp"
#include "common/mac_address.hpp"
#include "common/process.hpp"
#include "tests/switch/frames.hpp"
#include "tools/rigs/cable.hpp"
#include "tools/rigs/net_namespace.hpp"
#include "tools/switchd/agent.hpp"

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace airlock::test
{

using rig::CableEnd;
using rig::Caught;
using rig::NetNamespace;

/** A switch: bridge "br0" with the ports boot0, boot1, prod0, prod1 in one
 * namespace; the other ends of their cables (the same names) in another one.
 *
 * The thread that makes it lives in the switch's namespace until the end, on
 * one CPU: what it sends goes through the kernel in order.
 */
class SwitchRig
{
  public:
    SwitchRig();
    ~SwitchRig();

    static const std::vector<std::string>& ports();

    CableEnd& end(const std::string& port) { return *ends_.at(port); }
    const NetNamespace& cables() const { return cables_; }
    const std::filesystem::path& directory() const { return directory_.path(); }

    /** Makes a cable and plugs it into the bridge. */
    void plug(const std::string& port);

    /** Whether the switch's own IPv6 speaks at a port by itself. It does at
     * boot ports, where nothing of it may come out, and nowhere else. */
    static void setIpv6(const std::string& port, bool on);

    /** Sends the frame at a port; what comes out of the others, when all of it
     * has come through, without the rig's own frames and without those that
     * the switch's IP stack sends to production ports. */
    std::map<std::string, std::vector<Caught>> through(const std::string& port,
                                                       ByteView frame);
    /** How many frames of `seen` came out of ports other than these; without
     * what kernels say of multicast groups by themselves. */
    static std::size_t
    count(const std::map<std::string, std::vector<Caught>>& seen,
          const std::vector<std::string>& except = {});

    /** A line for each frame. */
    static std::string
    describe(const std::map<std::string, std::vector<Caught>>& seen);

    /** Waits until everything that was sent is through, and forgets it. */
    void settle();

  private:
    std::map<std::string, std::vector<Caught>> collect();

    NetNamespace switch_;
    NetNamespace cables_;
    NetNamespace home_ = NetNamespace::current();
    TempDirectory directory_{"airlock-switch"};
    std::map<std::string, std::unique_ptr<CableEnd>> ends_;
    std::set<MacAddress> ownAddresses_;
    std::uint32_t marks_ = 0;
};

} // namespace airlock::test
