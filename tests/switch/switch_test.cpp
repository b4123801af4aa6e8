#include "tests/switch/switch_fixture.hpp"
#include "tests/unit/error_of.hpp"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <fstream>

/** What passes a boot port, and what does not. */
namespace airlock::test
{
namespace
{

TEST_F(Switch, LetsNothingInFromAPortThatIsCutOff)
{
    startEnrolled();
    MacAddress bridge =
        mac(parseJson(runTool({"ip", "-j", "link", "show", "br0"}),
                      "ip")[0]["address"]
                .get<std::string>());
    // The other ports' addresses are known to the bridge.
    rig.through("prod0", frame(everybody, prod, dataType));
    std::vector<MacAddress> sources = {address("boot0"), address("boot1"),
                                       stranger,         prod,
                                       bridge,           MacAddress{}};
    std::vector<MacAddress> targets = {prod, bridge, mac("06:00:00:00:00:77"),
                                       address("boot1"),
                                       epoch::switchAddress(rootOf(8), 1)};
    std::size_t sent = 0;
    for (const MacAddress& source : sources)
    {
        for (const Bytes& bytes : framesFrom(source, targets))
        {
            rig.end("boot0").send(bytes);
            sent++;
        }
        EXPECT_EQ(rig.count(rig.through("boot0", frame(prod, source, dataType)),
                            {"boot0"}),
                  0U)
            << source.text();
    }
    EXPECT_GT(sent, 1000U);
    EXPECT_EQ(state("boot0"), "cut-off");
    EXPECT_THAT(tableOf("boot0"), ::testing::IsEmpty());
    Json misses = status("boot0")["misses"];
    EXPECT_GT(misses["unknown"].get<int>() + misses["limited"].get<int>(), 0);
}

TEST_F(Switch, LetsNothingOutOfAPortThatIsCutOff)
{
    startEnrolled();
    std::size_t atProd = 0;
    for (const Bytes& bytes :
         framesFrom(prod, {mac("06:00:00:00:00:77"), stranger}))
    {
        auto seen = rig.through("prod0", bytes);
        EXPECT_EQ(seen["boot0"].size(), 0U);
        EXPECT_EQ(seen["boot1"].size(), 0U);
        atProd += seen["prod1"].size();
    }
    EXPECT_GT(atProd, 0U); // the frames were good ones
}

TEST_F(Switch, FramesToSecretAddressesComeOutNowhere)
{
    startEnrolled();
    for (std::uint64_t epoch : {1U, 2U, 16U})
    {
        for (const MacAddress& secret :
             {epoch::hostAddress(rootOf(7), epoch),
              epoch::switchAddress(rootOf(7), epoch)})
        {
            for (const Bytes& bytes : framesFrom(prod, {secret}))
            {
                if (MacAddress::from(bytes, "frame") == secret)
                {
                    rig.end("prod0").send(bytes);
                }
            }
            EXPECT_EQ(leaks("prod0", frame(secret, prod, dataType)), 0U);
        }
    }
    // Those of the lease that is over, too.
    openPort("boot0");
    EXPECT_EQ(leaks("prod0", frame(address("boot0"), prod, dataType)), 1U);
    agent->cut("boot0", "test");
    EXPECT_EQ(leaks("prod0", frame(address("boot0"), prod, dataType)), 0U);
}

TEST_F(Switch, TheSwitchItselfSendsNothingToAPortThatIsCutOff)
{
    startEnrolled();
    runTool({"ip", "address", "add", "10.9.0.1/24", "brd", "+", "dev", "br0"});
    runTool({"ip", "neighbour", "replace", "10.9.0.7", "lladdr",
             address("boot0").text(), "dev", "br0"});
    runTool({"ip", "neighbour", "replace", "10.9.0.8", "lladdr",
             stranger.text(), "dev", "br0"});
    UniqueFd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    int one = 1;
    ASSERT_EQ(
        ::setsockopt(socket.get(), SOL_SOCKET, SO_BROADCAST, &one, sizeof(one)),
        0);
    for (const char* to : {"10.9.0.7", "10.9.0.8", "10.9.0.9", "10.9.0.255"})
    {
        sockaddr_in target{};
        target.sin_family = AF_INET;
        target.sin_port = htons(9);
        ::inet_pton(AF_INET, to, &target.sin_addr);
        EXPECT_EQ(::sendto(socket.get(), "x", 1, 0,
                           reinterpret_cast<sockaddr*>(&target),
                           sizeof(target)),
                  1);
    }
    // As a daemon does that speaks LLDP or STP: past the bridge.
    CableEnd inside("boot0");
    for (const std::string& group : groups())
    {
        inside.send(frame(mac(group), stranger, 0x88CC));
    }
    // A port's own IPv6 stack speaks when the link comes up.
    rig.cables().run([] {
        runTool({"ip", "link", "set", "boot0", "down"});
        runTool({"ip", "link", "set", "boot0", "up"});
    });
    EXPECT_TRUE(eventually([&] { return status("boot0")["link"] == "up"; }));
    // Duplicate address detection is over: the stack has spoken.
    EXPECT_TRUE(eventually([] {
        std::string all = runTool({"ip", "-j", "address", "show", "boot0"});
        return all.find("inet6") != std::string::npos &&
               all.find("tentative") == std::string::npos;
    }));
    auto seen = rig.through("prod0", frame(stranger, prod, dataType));
    EXPECT_EQ(seen["boot0"].size(), 0U);
    EXPECT_EQ(seen["boot1"].size(), 0U);
}

TEST_F(Switch, OpensForTheAddressOfTheEpochAndForNoOther)
{
    startEnrolled();
    EXPECT_FALSE(passes("boot0", address("boot0")));
    EXPECT_EQ(leaks("boot0", hello(Method::mac96, 7, 1)), 0U);
    ASSERT_TRUE(becomes("boot0", "open"));
    rig.settle();

    auto seen =
        rig.through("boot0", frame(everybody, address("boot0"), dataType));
    EXPECT_EQ(seen["prod0"].size(), 1U);
    EXPECT_EQ(seen["prod1"].size(), 1U);
    EXPECT_EQ(rig.count(seen, {"prod0", "prod1"}), 0U);
    seen = rig.through("prod0", frame(address("boot0"), prod, dataType));
    EXPECT_EQ(seen["boot0"].size(), 1U);
    EXPECT_EQ(rig.count(seen, {"boot0"}), 0U);
    EXPECT_FALSE(passes("boot0", stranger));
    EXPECT_FALSE(passes("boot0", address("boot0", 2)));

    agent->cut("boot0", "test");
    EXPECT_EQ(state("boot0"), "cut-off");
    EXPECT_FALSE(passes("boot0", address("boot0")));
}

TEST_F(Switch, AnOpenPortStillDropsTagsAndLinkLocalFrames)
{
    startEnrolled();
    openPort("boot0");
    for (const Bytes& bytes : framesFrom(address("boot0"), {prod}))
    {
        auto seen = rig.through("boot0", bytes);
        MacAddress to = MacAddress::from(bytes, "frame");
        std::uint16_t type = ByteReader(ByteView(bytes).subspan(12), "").be16();
        bool linkLocal = to.text().starts_with("01:80:c2:00:00:0");
        bool tagged = type == 0x8100 || type == 0x88A8;
        if (linkLocal || tagged || type == quarantine::defaultEtherType)
        {
            EXPECT_EQ(rig.count(seen), 0U) << to.text() << " " << type;
        }
        EXPECT_EQ(seen["boot1"].size(), 0U);
    }
    EXPECT_EQ(state("boot0"), "open");
    EXPECT_TRUE(passes("boot0", address("boot0")));
}

TEST_F(Switch, AnOpenPortGetsWhatIsForItAndBroadcasts)
{
    startEnrolled();
    openPort("boot0");
    for (const std::string& group : groups())
    {
        auto seen = rig.through("prod0", frame(mac(group), prod, dataType));
        EXPECT_EQ(seen["boot0"].size(), mac(group) == everybody ? 1U : 0U)
            << group;
        EXPECT_EQ(seen["boot1"].size(), 0U);
    }
    auto seen = rig.through("prod0", frame(stranger, prod, dataType));
    EXPECT_EQ(seen["boot0"].size(), 0U);
}

TEST_F(Switch, BootHostsDoNotReachEachOther)
{
    startEnrolled();
    openPort("boot0");
    openPort("boot1");
    auto seen = rig.through(
        "boot0", frame(address("boot1"), address("boot0"), dataType));
    EXPECT_EQ(rig.count(seen), 0U);
    seen = rig.through("boot0", frame(everybody, address("boot0"), dataType));
    EXPECT_EQ(seen["boot1"].size(), 0U);
    EXPECT_EQ(seen["prod0"].size(), 1U);
}

TEST_F(Switch, SaysAtOnceWhenTheKernelCannotWatchSoMuch)
{
    settings.window = 64;
    for (unsigned i = 0; i < 20; i++)
    {
        settings.ports.push_back({fmt::format("more{}", i)});
    }
    auto starting = [&] {
        return errorOf<Error>(
            [&] { SwitchAgent(settings, [](const Json&) {}); });
    };
    auto advice = ::testing::HasSubstr("net.core.optmem_max");
    const char* limit = "/proc/sys/net/core/optmem_max";
    if (!std::filesystem::exists(limit))
    {
        // Not of a namespace in this kernel: it is as the machine has it.
        EXPECT_THAT(starting(), ::testing::AnyOf("", advice));
        return;
    }
    std::ofstream(limit) << "20480";
    EXPECT_THAT(starting(), advice);
    std::ofstream(limit) << "131072";
    EXPECT_EQ(starting(), "");
}

TEST_F(Switch, TheKernelsToolsSayTheSame)
{
    startEnrolled();
    openPort("boot0");
    Json link = linkOf("boot0");
    for (const char* flag : {"locked", "isolated", "bcast_flood"})
    {
        EXPECT_EQ(link[flag], true) << flag;
    }
    for (const char* flag : {"learning", "flood", "mcast_flood", "hairpin"})
    {
        EXPECT_EQ(link[flag], false) << flag;
    }
    EXPECT_EQ(linkOf("boot1")["bcast_flood"], false);
    auto table = tableOf("boot0");
    ASSERT_EQ(table.size(), 1U);
    EXPECT_EQ(table[0]["mac"], address("boot0").text());
    EXPECT_EQ(table[0]["state"], "static");
    EXPECT_THAT(dumpJson(table[0]["flags"]), ::testing::HasSubstr("sticky"));
    Json bridge = parseJson(runTool({"ip", "-j", "-d", "link", "show", "br0"}),
                            "ip")[0]["linkinfo"]["info_data"];
    EXPECT_EQ(bridge["stp_state"], 0);
    EXPECT_EQ(bridge["mcast_snooping"], 0);
    EXPECT_EQ(bridge["no_linklocal_learn"], 1);

    agent->cut("boot0", "test");
    EXPECT_THAT(tableOf("boot0"), ::testing::IsEmpty());
    EXPECT_EQ(linkOf("boot0")["bcast_flood"], false);
}

/** Each layer has to hold alone. */
TEST_F(Switch, TheBridgeAloneHoldsWithoutTheFence)
{
    startEnrolled();
    openPort("boot0");
    freeze();
    rig.setIpv6("boot0", false); // no matter of the bridge
    rig.setIpv6("boot1", false);
    runTool({"nft", "flush", "ruleset"});
    rig.settle(); // what IPv6 said last
    EXPECT_TRUE(passes("boot0", address("boot0")));
    EXPECT_FALSE(passes("boot0", stranger));
    EXPECT_FALSE(passes("boot1", address("boot1")));
    auto seen = rig.through("prod0", frame(stranger, prod, dataType));
    EXPECT_EQ(rig.count(seen, {"prod1"}), 0U) << rig.describe(seen);
    seen = rig.through("prod0", frame(everybody, prod, dataType));
    EXPECT_EQ(rig.count(seen, {"boot0", "prod1"}), 0U) << rig.describe(seen);
    // EAPOL teaches a port that learns; a static entry moves unless it sticks.
    rig.through("boot1", frame(mac("01:80:c2:00:00:03"), stranger, 0x888E));
    EXPECT_FALSE(passes("boot1", stranger));
    rig.through("prod0", frame(everybody, address("boot0"), dataType));
    ASSERT_EQ(tableOf("boot0").size(), 1U);
    EXPECT_TRUE(passes("boot0", address("boot0")));
}

TEST_F(Switch, TheFenceAloneHoldsWithoutTheBridge)
{
    startEnrolled();
    openPort("boot0");
    freeze();
    for (const char* port : {"boot0", "boot1"})
    {
        runTool({"bridge", "link", "set", "dev", port, "locked", "off",
                 "learning", "on", "flood", "on", "mcast_flood", "on",
                 "bcast_flood", "on", "isolated", "off"});
    }
    EXPECT_TRUE(passes("boot0", address("boot0")));
    EXPECT_FALSE(passes("boot0", stranger));
    EXPECT_FALSE(passes("boot1", address("boot1")));
    EXPECT_FALSE(passes("boot1", stranger));
    for (const std::string& group : groups())
    {
        auto seen = rig.through("prod0", frame(mac(group), prod, dataType));
        EXPECT_EQ(seen["boot1"].size(), 0U) << group;
        EXPECT_EQ(leaks("boot1", frame(mac(group), stranger, 0x88CC)), 0U);
    }
    auto seen = rig.through("prod0", frame(stranger, prod, dataType));
    EXPECT_EQ(rig.count(seen, {"prod1"}), 0U);
}

} // namespace
} // namespace airlock::test
