/** A domain with a network card on a bridge: the link is down while the guest
 * boots and nothing of it is on the wire; on the production host the card has a
 * carrier and the guest gets its address by DHCP, in every life. */
#include "common/error.hpp"
#include "devmodel/vm/qemu_argv.hpp"
#include "tools/rigs/host_rig.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <thread>

namespace airlock::test
{

using namespace rig;

namespace
{

constexpr Milliseconds bootTime = std::chrono::minutes(4);
constexpr Milliseconds leaseTime = std::chrono::seconds(60);
constexpr Milliseconds waitStep{200};
constexpr const char* bridge = "airlock0";
constexpr const char* card = "52:54:00:a1:0c:02";

/** A bridge in this process's own network, with a DHCP server on it. */
class Network
{
  public:
    Network() : files_("airlock-dhcp")
    {
        enterPrivateNamespaces();
        runTool({"ip", "link", "add", bridge, "type", "bridge"});
        runTool({"ip", "address", "add", "10.77.0.1/24", "dev", bridge});
        runTool({"ip", "link", "set", bridge, "up"});
        SpawnOptions options;
        options.argv = {
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=0",
            "--user=root",
            "--pid-file",
            "--bind-interfaces",
            fmt::format("--interface={}", bridge),
            "--dhcp-range=10.77.0.10,10.77.0.50,10m",
            "--dhcp-authoritative",
            fmt::format("--dhcp-leasefile={}/leases", files_.path().string())};
        server_.emplace(options);
    }

  private:
    TempDirectory files_;
    std::optional<Process> server_;
};

/** Frames that the guest has sent: those that its tap device has received. */
std::uint64_t framesSent()
{
    Json links =
        parseJson(runTool({"ip", "-j", "-s", "link", "show", "master", bridge}),
                  "ip link");
    if (links.size() != 1)
    {
        throw Error("there is not one card at the bridge but " + links.dump());
    }
    return links[0].at("stats64").at("rx").at("packets").get<std::uint64_t>();
}

void waitLease(HostRig& rig)
{
    Deadline deadline(leaseTime);
    while (rig.run("ip -4 address show dev eth0").find("10.77.0.") ==
           std::string::npos)
    {
        if (deadline.passed())
        {
            throw TimedOut("the guest has no address: " +
                           rig.run("ip address; cat /run/udhcpc.log"));
        }
        std::this_thread::sleep_for(waitStep);
    }
}

void expectOnline(HostRig& rig)
{
    EXPECT_EQ(rig.run("cat /sys/class/net/eth0/carrier"), "1\n");
    waitLease(rig);
    EXPECT_EQ(rig.run("ping -c 2 -W 5 10.77.0.1 >/dev/null && echo pong"),
              "pong\n");
}

TEST(Nics, AddressComesOnTheProductionHost)
{
    Network network;
    DomainCase domain;
    domain.guest = {"tiny", 1, 160ULL << 20, true};
    domain.cards = bridgeCard(card, bridge);
    HostRig rig({domain});
    rig.guest().start();
    rig.waitAlive(bootTime);
    expectOnline(rig);

    rig.run("echo 'cat /sys/class/net/eth0/carrier >/root/carrier' "
            ">/root/at-boot && chmod 755 /root/at-boot && sync");
    for (unsigned round = 1; round <= 2; round++)
    {
        SCOPED_TRACE(fmt::format("reboot {}", round));
        rig.send("rm -f /root/carrier; reboot");
        rig.waitPaused(bootTime);
        std::uint64_t before = framesSent();
        while (rig.domainState() == "paused" &&
               rig.ask("status", {{"vm", rig.domain()}}).at("vm").at("state") !=
                   "admitting")
        {
            EXPECT_EQ(framesSent(), before);
            std::this_thread::sleep_for(waitStep);
        }
        rig.waitAlive(bootTime);
        EXPECT_EQ(rig.run("cat /root/carrier"), "0\n")
            << "the link was up while the guest booted";
        expectOnline(rig);
    }
}

} // namespace
} // namespace airlock::test
