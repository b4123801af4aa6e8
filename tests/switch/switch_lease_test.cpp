#include "tests/switch/switch_fixture.hpp"
#include "tools/switchd/fence.hpp"

#include <fmt/format.h>
#include <nftables/libnftables.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <set>

/** When a port opens, and what ends a lease. */
namespace airlock::test
{
namespace
{

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

TEST_F(Switch, AnotherEnrolmentOrRootEndsTheLease)
{
    startEnrolled();
    openPort("boot0");
    enroll("boot0", Method::mac96, 9);
    EXPECT_EQ(state("boot0"), "cut-off");
    EXPECT_FALSE(passes("boot0", address("boot0")));
    EXPECT_THAT(tableOf("boot0"), IsEmpty());
    rig.through("boot0", hello(Method::mac96, 7, 2));
    EXPECT_TRUE(
        eventually([&] { return status("boot0")["misses"]["unknown"] >= 1; }));
    rig.through("boot0", hello(Method::mac96, 9, 1));
    ASSERT_TRUE(becomes("boot0", "open"));
    agent->rotate("boot0", rootOf(10));
    EXPECT_EQ(state("boot0"), "cut-off");
    EXPECT_FALSE(passes("boot0", epoch::hostAddress(rootOf(9), 1)));
    rig.through("boot0", hello(Method::mac96, 10, 1));
    EXPECT_TRUE(becomes("boot0", "open"));
}

TEST_F(Switch, BroadcastsStayOutWhereNobodyWantsThem)
{
    settings.ports[0].broadcast = false;
    startEnrolled();
    openPort("boot0");
    openPort("boot1");
    auto seen = rig.through("prod0", frame(everybody, prod, dataType));
    EXPECT_EQ(seen["boot0"].size(), 0U);
    EXPECT_EQ(seen["boot1"].size(), 1U); // of the other kind
    seen = rig.through("prod0", frame(address("boot0"), prod, dataType));
    EXPECT_EQ(seen["boot0"].size(), 1U);
    EXPECT_TRUE(passes("boot0", address("boot0")));
    EXPECT_EQ(linkOf("boot0")["bcast_flood"], false);
}

TEST_F(Switch, EachAddressOpensOneLease)
{
    startEnrolled();
    openPort("boot0");
    agent->cut("boot0", "test");
    rig.through("boot0", hello(Method::mac96, 7, 1));
    EXPECT_TRUE(
        eventually([&] { return status("boot0")["misses"]["used"] == 1; }));
    EXPECT_EQ(state("boot0"), "cut-off");
    openPort("boot0", 3); // a boot that never came to the network was epoch 2
    agent->cut("boot0", "test");
    rig.through("boot0", hello(Method::mac96, 7, 2));
    EXPECT_TRUE(
        eventually([&] { return status("boot0")["misses"]["used"] == 2; }));
    EXPECT_EQ(state("boot0"), "cut-off");
}

TEST_F(Switch, RefusesEpochsThatAreTooFarAhead)
{
    settings.window = 4;
    startEnrolled();
    rig.through("boot0", hello(Method::mac96, 7, 5));
    EXPECT_TRUE(
        eventually([&] { return status("boot0")["misses"]["ahead"] == 1; }));
    EXPECT_EQ(state("boot0"), "cut-off");
    openPort("boot0", 4);
}

TEST_F(Switch, TheRightAddressAloneIsNotEnoughForMac96)
{
    startEnrolled();
    rig.through("boot0", frame(prod, address("boot0"), dataType));
    rig.through("boot0", hello(Method::mac, 7, 1)); // to the usual address
    quarantine::Frame half;
    half.source = address("boot0");
    half.destination = epoch::switchAddress(rootOf(7), 2); // of another epoch
    rig.through("boot0", quarantine::write(half));
    // The right pair, but not in a hello.
    rig.through("boot0", frame(epoch::switchAddress(rootOf(7), 1),
                               address("boot0"), dataType));
    EXPECT_TRUE(
        eventually([&] { return status("boot0")["misses"]["half"] == 4; }));
    // The right pair with a tag.
    Bytes tagged = hello(Method::mac96, 7, 1);
    const Bytes tag = {0x81, 0x00, 0x00, 0x01};
    tagged.insert(tagged.begin() + 12, tag.begin(), tag.end());
    rig.through("boot0", tagged);
    EXPECT_TRUE(
        eventually([&] { return status("boot0")["misses"]["tagged"] == 1; }));
    // The right frame at the wrong port: the epoch is spoilt.
    rig.through("boot1", hello(Method::mac96, 7, 1));
    EXPECT_TRUE(eventually([&] { return status("boot0")["epoch"] == 1; }));
    EXPECT_EQ(state("boot0"), "cut-off");
    EXPECT_EQ(state("boot1"), "cut-off");
    rig.through("boot0", hello(Method::mac96, 7, 1));
    EXPECT_TRUE(
        eventually([&] { return status("boot0")["misses"]["used"] == 1; }));
    openPort("boot0", 2);
}

TEST_F(Switch, AnOrdinaryFrameOpensForMac)
{
    start();
    enroll("boot0", Method::mac, 7);
    rig.settle();
    EXPECT_EQ(leaks("boot0", frame(everybody, address("boot0"), dataType)), 0U);
    ASSERT_TRUE(becomes("boot0", "open"));
    EXPECT_TRUE(passes("boot0", address("boot0")));
}

TEST_F(Switch, OnlyAHelloOpensForMacThatIsNotPlain)
{
    settings.ports[0].plain = false;
    start();
    enroll("boot0", Method::mac, 7);
    rig.through("boot0", frame(everybody, address("boot0"), dataType));
    EXPECT_TRUE(
        eventually([&] { return status("boot0")["misses"]["half"] == 1; }));
    EXPECT_EQ(state("boot0"), "cut-off");
    rig.through("boot0", hello(Method::mac, 7, 1));
    EXPECT_TRUE(becomes("boot0", "open"));
}

TEST_F(Switch, ALeaseEndsByItself)
{
    settings.lease = 2s;
    startEnrolled();
    openPort("boot0");
    EXPECT_TRUE(becomes("boot0", "cut-off"));
    EXPECT_EQ(status("boot0")["reason"], "the lease has ended");
    EXPECT_FALSE(passes("boot0", address("boot0")));
    EXPECT_THAT(tableOf("boot0"), IsEmpty());
    // By itself, and not because something went wrong.
    EXPECT_TRUE(isUp("boot0"));
    EXPECT_EQ(agent->status()["damage"], 0);
    EXPECT_FALSE(told("a port could not be shut"));
    openPort("boot0", 2);
    EXPECT_TRUE(passes("boot0", address("boot0", 2)));
}

/** The kernel ends leases too, between any two steps of the agent. */
TEST_F(Switch, APortIsShutWhileTheTimesOfItsLeasesEnd)
{
    sw::Fence fence({"boot0", "boot1"}, quarantine::defaultEtherType);
    fence.install();
    for (int round = 0; round < 2; round++)
    {
        // They end one after the other: some of them while it shuts.
        std::uint16_t number = 0;
        for (Deadline deadline(1200ms); !deadline.passed(); number++)
        {
            fence.open("boot0",
                       {{6, 0, 0, 0, static_cast<std::uint8_t>(number >> 8),
                         static_cast<std::uint8_t>(number)}},
                       1s, false);
        }
        EXPECT_NO_THROW(fence.close("boot0"));
    }
    for (const char* family : {"bridge", "netdev"})
    {
        std::string left =
            runTool({"nft", "list", "set", family, "airlock", "live"});
        EXPECT_THAT(left, Not(HasSubstr("boot0"))) << family;
    }
}

TEST_F(Switch, APortIsShutWhereSomebodyHasRemovedTheTables)
{
    startEnrolled();
    openPort("boot0");
    openPort("boot1");
    freeze();
    runTool({"nft", "flush", "ruleset"});
    EXPECT_NO_THROW(agent->cut("boot0", "test"));
    EXPECT_TRUE(isUp("boot0"));
    EXPECT_FALSE(passes("boot0", address("boot0")));
    EXPECT_FALSE(passes("boot1", address("boot1")));
    thaw(); // and then it sees that the hooks are missing
    EXPECT_TRUE(becomes("boot1", "cut-off"));
    EXPECT_TRUE(eventually([&] { return agent->status()["damage"] == 1; }));
    std::uint64_t epoch = openAgain("boot0");
    EXPECT_TRUE(passes("boot0", address("boot0", epoch)));
}

/** Tables that only their owner may change: nobody can shut anything. */
class OwnedTables
{
  public:
    OwnedTables() : nft_(nft_ctx_new(NFT_CTX_DEFAULT))
    {
        for (const char* family : {"bridge", "netdev"})
        {
            run(fmt::format("delete table {} airlock", family));
            run(fmt::format("add table {} airlock {{ flags owner; }}", family));
        }
    }
    ~OwnedTables() { nft_ctx_free(nft_); } // they go with it
    OwnedTables(const OwnedTables&) = delete;
    OwnedTables& operator=(const OwnedTables&) = delete;

  private:
    void run(const std::string& command)
    {
        EXPECT_EQ(nft_run_cmd_from_buffer(nft_, command.c_str()), 0) << command;
    }

    nft_ctx* nft_;
};

TEST_F(Switch, APortThatCannotBeShutIsDownUntilItCan)
{
    settings.checkEvery = 50ms;
    startEnrolled();
    openPort("boot0");
    {
        OwnedTables owned;
        EXPECT_TRUE(eventually([&] {
            return told("a link was taken down: its port could not be shut");
        }));
        // It may have been told of the other port first.
        EXPECT_TRUE(eventually([&] { return !isUp("boot0"); }));
    }
    EXPECT_TRUE(eventually([&] { return status("boot0")["link"] == "up"; }));
    EXPECT_TRUE(eventually(
        [&] { return told("a link was taken up again: its port is shut"); }));
    std::uint64_t epoch = openAgain("boot0");
    EXPECT_TRUE(passes("boot0", address("boot0", epoch)));
}

TEST_F(Switch, HooksThatCouldNotBeMadeAreTriedAgain)
{
    settings.checkEvery = 50ms;
    startEnrolled();
    EXPECT_EQ(agent->status()["hooks"], "bridge, netdev");
    runTool({"ip", "link", "delete", "boot1"});
    EXPECT_TRUE(
        eventually([&] { return status("boot1")["link"] == "absent"; }));
    // A chain of that name is in use.
    auto nft = [](std::vector<std::string> words) {
        words.insert(words.begin(), "nft");
        runTool(words);
    };
    for (const char* what : {"add", "flush", "delete", "add"})
    {
        // Some kernels keep the hook's chain for the next of that name.
        nft({what, "chain", "netdev", "airlock", "in_boot1"});
    }
    nft({"add", "chain", "netdev", "airlock", "user"});
    nft({"add", "rule", "netdev", "airlock", "user", "jump", "in_boot1"});
    rig.plug("boot1");
    EXPECT_TRUE(
        eventually([&] { return agent->status()["hooks"] == "bridge"; }));
    nft({"delete", "chain", "netdev", "airlock", "user"});
    EXPECT_TRUE(eventually(
        [&] { return agent->status()["hooks"] == "bridge, netdev"; }));
    EXPECT_EQ(agent->status()["damage"], 0);
    openAgain("boot1");
}

TEST_F(Switch, HellosRenewALease)
{
    settings.lease = 2s;
    startEnrolled();
    openPort("boot0");
    EXPECT_TRUE(eventually([&] {
        rig.through("boot0", hello(Method::mac96, 7, 1));
        return status("boot0")["renewed"] >= 4;
    }));
    EXPECT_EQ(status("boot0")["opened"], 1);
    EXPECT_TRUE(passes("boot0", address("boot0")));
}

TEST_F(Switch, OrdinaryFramesRenewALeaseOfMac)
{
    settings.lease = 2s;
    start();
    enroll("boot0", Method::mac, 7);
    EXPECT_TRUE(eventually([&] {
        rig.through("boot0", frame(everybody, address("boot0"), dataType));
        return status("boot0")["renewed"] >= 3;
    }));
    EXPECT_EQ(status("boot0")["opened"], 1);
}

TEST_F(Switch, TheKernelEndsALeaseWhenTheAgentHangs)
{
    settings.lease = 2s;
    startEnrolled();
    openPort("boot0");
    freeze();
    EXPECT_TRUE(passes("boot0", address("boot0")));
    EXPECT_TRUE(eventually([&] { return !passes("boot0", address("boot0")); }));
    EXPECT_EQ(leaks("prod0", frame(address("boot0"), prod, dataType)), 0U);
    auto seen = rig.through("prod0", frame(everybody, prod, dataType));
    EXPECT_EQ(seen["boot0"].size(), 0U);
}

TEST_F(Switch, AnAddressSeenAtAnotherPortEndsItsLease)
{
    startEnrolled();
    for (const char* port : {"prod0", "prod1", "boot1"})
    {
        std::uint64_t epoch = status("boot0")["epoch"].get<std::uint64_t>() + 1;
        openPort("boot0", epoch);
        EXPECT_EQ(
            leaks(port, frame(everybody, address("boot0", epoch), dataType)),
            0U);
        EXPECT_TRUE(becomes("boot0", "cut-off")) << port;
        EXPECT_THAT(status("boot0")["reason"].get<std::string>(),
                    HasSubstr(port));
        EXPECT_FALSE(passes("boot0", address("boot0", epoch)));
        rig.through("boot0", hello(Method::mac96, 7, epoch));
        rig.settle();
        EXPECT_EQ(state("boot0"), "cut-off");
    }
}

TEST_F(Switch, AnAddressSeenElsewhereBeforehandIsSpoilt)
{
    startEnrolled();
    rig.through("prod0", frame(everybody, address("boot0", 2), dataType));
    EXPECT_TRUE(eventually([&] { return status("boot0")["epoch"] == 2; }));
    rig.through("boot0", hello(Method::mac96, 7, 2));
    EXPECT_TRUE(
        eventually([&] { return status("boot0")["misses"]["used"] == 1; }));
    openPort("boot0", 3);
}

TEST_F(Switch, ALinkThatGoesDownEndsItsLease)
{
    startEnrolled();
    openPort("boot0");
    rig.cables().run([] { runTool({"ip", "link", "set", "boot0", "down"}); });
    EXPECT_TRUE(becomes("boot0", "cut-off"));
    EXPECT_THAT(tableOf("boot0"), IsEmpty());
    rig.cables().run([] { runTool({"ip", "link", "set", "boot0", "up"}); });
    EXPECT_TRUE(eventually([&] { return status("boot0")["link"] == "up"; }));
    rig.settle();
    EXPECT_FALSE(passes("boot0", address("boot0")));
    EXPECT_EQ(state("boot0"), "cut-off");

    // So shortly that it is up again when the agent looks.
    openAgain("boot0");
    freeze();
    rig.cables().run([] {
        runTool({"ip", "link", "set", "boot0", "down"});
        runTool({"ip", "link", "set", "boot0", "up"});
    });
    rig.settle();
    thaw();
    EXPECT_TRUE(becomes("boot0", "cut-off"));
    EXPECT_EQ(status("boot0")["reason"], "the link went down");
}

TEST_F(Switch, APortThatIsPluggedAgainIsShut)
{
    startEnrolled();
    openPort("boot0");
    runTool({"ip", "link", "set", "boot0", "nomaster"});
    EXPECT_TRUE(becomes("boot0", "cut-off"));
    EXPECT_TRUE(
        eventually([&] { return status("boot0")["link"] == "absent"; }));
    runTool({"ip", "link", "set", "boot0", "master", "br0"});
    // At once: the fence knows it by its name.
    EXPECT_FALSE(passes("boot0", address("boot0")));
    EXPECT_FALSE(passes("boot0", stranger));
    EXPECT_TRUE(eventually([&] { return linkOf("boot0")["locked"] == true; }));
    EXPECT_EQ(linkOf("boot0")["flood"], false);
    openAgain("boot0");

    // Out and in between two looks of the agent.
    runTool({"ip", "link", "set", "boot0", "nomaster"});
    runTool({"ip", "link", "set", "boot0", "master", "br0"});
    EXPECT_TRUE(becomes("boot0", "cut-off"));
    EXPECT_TRUE(eventually([&] { return linkOf("boot0")["locked"] == true; }));
    openAgain("boot0");

    // Another interface of the same name.
    runTool({"ip", "link", "delete", "boot0"});
    EXPECT_TRUE(becomes("boot0", "cut-off"));
    rig.plug("boot0");
    EXPECT_FALSE(passes("boot0", stranger));
    EXPECT_TRUE(eventually([&] { return linkOf("boot0")["locked"] == true; }));
    std::uint64_t epoch = openAgain("boot0");
    EXPECT_TRUE(passes("boot0", address("boot0", epoch)));
}

TEST_F(Switch, APortThatIsPluggedAgainStaysShutWithoutTheAgent)
{
    startEnrolled();
    freeze();
    runTool({"ip", "link", "set", "boot0", "nomaster"});
    runTool({"ip", "link", "set", "boot0", "master", "br0"});
    EXPECT_EQ(linkOf("boot0")["locked"], false); // as new ports are
    EXPECT_FALSE(passes("boot0", stranger));
    EXPECT_FALSE(passes("boot0", address("boot0")));
    auto seen = rig.through("prod0", frame(everybody, prod, dataType));
    EXPECT_EQ(seen["boot0"].size(), 0U);
}

TEST_F(Switch, WhatOthersChangeIsPutRightAndEndsLeases)
{
    settings.checkEvery = 50ms;
    startEnrolled();
    const std::vector<std::vector<std::string>> changes = {
        {"bridge", "link", "set", "dev", "boot0", "locked", "off"},
        {"bridge", "link", "set", "dev", "boot0", "learning", "on"},
        {"bridge", "link", "set", "dev", "boot0", "isolated", "off"},
        {"bridge", "fdb", "add", stranger.text(), "dev", "boot0", "master",
         "static"},
        {"bridge", "fdb", "delete", "LEASE", "dev", "boot0", "master"},
        {"nft", "flush", "ruleset"},
        {"nft", "delete", "table", "netdev", "airlock"},
        {"nft", "flush", "chain", "bridge", "airlock", "pre"},
        {"nft", "flush", "set", "bridge", "airlock", "hidden"},
        {"nft", "flush", "set", "netdev", "airlock", "expected"},
        {"nft", "add", "element", "bridge", "airlock", "live",
         "{ boot1 . " + stranger.text() + " timeout 60s }"},
        {"nft", "add", "element", "netdev", "airlock", "talk",
         "{ boot1 timeout 60s }"},
        {"ip", "link", "set", "br0", "type", "bridge", "mcast_snooping", "1"},
        {"ip", "link", "set", "br0", "type", "bridge", "group_fwd_mask",
         "0x4000"},
        {"ip", "link", "set", "br0", "type", "bridge", "no_linklocal_learn",
         "0"},
    };
    for (std::vector<std::string> change : changes)
    {
        std::uint64_t epoch = openAgain("boot0");
        std::uint64_t damage = agent->status()["damage"];
        std::replace(change.begin(), change.end(), std::string("LEASE"),
                     address("boot0", epoch).text());
        runTool(change);
        EXPECT_TRUE(becomes("boot0", "cut-off")) << change[1] << change[2];
        EXPECT_TRUE(eventually([&] {
            return agent->status()["damage"].get<std::uint64_t>() > damage &&
                   tableOf("boot0").empty() &&
                   linkOf("boot0")["locked"] == true &&
                   linkOf("boot0")["isolated"] == true;
        }));
        EXPECT_FALSE(passes("boot0", stranger));
        EXPECT_FALSE(passes("boot0", address("boot0", epoch)));
    }
}

TEST_F(Switch, StartsFromCutOffAndKeepsWhatWasUsedUp)
{
    startEnrolled();
    openPort("boot0");
    stop();
    EXPECT_FALSE(passes("boot0", address("boot0")));
    start();
    EXPECT_EQ(state("boot0"), "cut-off");
    EXPECT_EQ(status("boot0")["epoch"], 1);
    rig.through("boot0", hello(Method::mac96, 7, 1));
    EXPECT_TRUE(
        eventually([&] { return status("boot0")["misses"]["used"] == 1; }));
    openPort("boot0", 2);
}

TEST_F(Switch, TheBootHostCanHaveItselfCutOff)
{
    startEnrolled();
    openPort("boot0");
    Json answer = agent->cutByHost("host-boot0");
    EXPECT_EQ(answer["state"], "cut-off");
    // Nothing comes in, and nothing goes out but what the switch itself says.
    EXPECT_FALSE(passes("boot0", address("boot0")));
    EXPECT_EQ(leaks("prod0", frame(address("boot0"), prod, dataType)), 0U);
    auto seen = rig.through("prod0", frame(everybody, prod, dataType));
    EXPECT_EQ(seen["boot0"].size(), 0U);
    EXPECT_EQ(agent->cutByHost("host-boot0")["state"], "cut-off");
    EXPECT_TRUE(eventually([&] { return tableOf("boot0").empty(); }));
    EXPECT_THROW(agent->cutByHost("nobody"), sw::NoSuchPort);
}

TEST_F(Switch, ARotatedRootReplacesTheOldOne)
{
    startEnrolled();
    EXPECT_THROW(agent->rotateByHost("host-boot0", rootOf(9)), Refused);
    openPort("boot0");
    agent->rotateByHost("host-boot0", rootOf(9));
    EXPECT_EQ(state("boot0"), "cut-off");
    rig.through("boot0", hello(Method::mac96, 7, 2));
    rig.through("boot0", hello(Method::mac96, 9, 1));
    EXPECT_TRUE(becomes("boot0", "open"));
    EXPECT_EQ(status("boot0")["misses"]["unknown"], 1);
}

TEST_F(Switch, ALeaseThatOpensDuringADrainLasts)
{
    settings.checkEvery = 20ms;
    startEnrolled();
    openPort("boot0");
    agent->rotateByHost("host-boot0", rootOf(9));
    rig.through("boot0", hello(Method::mac96, 9, 1));
    ASSERT_TRUE(becomes("boot0", "open"));
    // Checks go by the ports' names: each of these was of boot0 before.
    for (std::uint64_t damage = 1; damage < 4; damage++)
    {
        runTool({"bridge", "fdb", "add", stranger.text(), "dev", "boot1",
                 "master", "static"});
        EXPECT_TRUE(
            eventually([&] { return agent->status()["damage"] == damage; }));
        EXPECT_TRUE(eventually([&] { return tableOf("boot1").empty(); }));
    }
    EXPECT_EQ(state("boot0"), "open");
    auto table = tableOf("boot0");
    ASSERT_EQ(table.size(), 1U);
    EXPECT_EQ(table[0]["mac"], epoch::hostAddress(rootOf(9), 1).text());
}

/** Not even for a moment, while a lease begins or ends. */
TEST_F(Switch, FramesToALeaseGoNowhereElse)
{
    startEnrolled();
    for (std::uint64_t epoch = 1; epoch <= 8; epoch++)
    {
        const Bytes bytes = frame(address("boot0", epoch), prod, dataType);
        {
            std::jthread sender([&](const std::stop_token& stop) {
                while (!stop.stop_requested())
                {
                    rig.end("prod0").send(bytes);
                    std::this_thread::sleep_for(50us);
                }
            });
            rig.end("boot0").send(hello(Method::mac96, 7, epoch));
            ASSERT_TRUE(becomes("boot0", "open"));
            epoch % 2 == 0 ? agent->cut("boot0", "test")
                           : static_cast<void>(agent->cutByHost("host-boot0"));
        }
        std::size_t flooded = 0;
        for (const Caught& caught : rig.end("prod1").take())
        {
            flooded +=
                caught.destination() == address("boot0", epoch) ? 1U : 0U;
        }
        EXPECT_EQ(flooded, 0U) << epoch;
        rig.settle();
    }
}

TEST_F(Switch, SecretAddressesAreNotTold)
{
    startEnrolled();
    for (std::uint64_t epoch = 1; epoch < 4; epoch++)
    {
        openPort("boot0", epoch);
        rig.through("boot0", frame(prod, address("boot0", epoch + 1),
                                   dataType)); // one that is to come
        rig.through("boot1", frame(prod, address("boot0", epoch + 100),
                                   dataType)); // another one's
        rig.through("prod0",
                    frame(everybody, address("boot0", epoch), dataType));
        EXPECT_TRUE(becomes("boot0", "cut-off"));
    }
    std::string told = dumpJson(agent->status());
    std::lock_guard lock(mutex);
    for (const Json& event : events)
    {
        told += dumpJson(event);
    }
    EXPECT_THAT(told, HasSubstr(epoch::tag(rootOf(7), address("boot0"))));
    for (std::uint64_t epoch = 0; epoch < 200; epoch++)
    {
        for (std::uint8_t root : {std::uint8_t(7), std::uint8_t(8)})
        {
            for (const MacAddress& secret :
                 {epoch::hostAddress(rootOf(root), epoch),
                  epoch::switchAddress(rootOf(root), epoch)})
            {
                EXPECT_EQ(told.find(secret.text()), std::string::npos);
                EXPECT_EQ(told.find(toHex(secret.view())), std::string::npos);
            }
        }
    }
}

/** A boot host with a key for method quote. */
class Quoting
{
  public:
    Quoting() : key_(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519")) {}
    ~Quoting() { EVP_PKEY_free(key_); }
    Quoting(const Quoting&) = delete;
    Quoting& operator=(const Quoting&) = delete;

    std::string publicKey() const
    {
        BIO* bio = BIO_new(BIO_s_mem());
        PEM_write_bio_PUBKEY(bio, key_);
        char* text = nullptr;
        auto size = static_cast<std::size_t>(BIO_get_mem_data(bio, &text));
        std::string out(text, size);
        BIO_free(bio);
        return out;
    }

    Bytes sign(const Digest& digest) const
    {
        Bytes out(64);
        std::size_t size = out.size();
        EVP_MD_CTX* context = EVP_MD_CTX_new();
        EVP_DigestSignInit(context, nullptr, nullptr, nullptr, key_);
        EVP_DigestSign(context, out.data(), &size, digest.data(),
                       digest.size());
        EVP_MD_CTX_free(context);
        return out;
    }

  private:
    EVP_PKEY* key_;
};

class SwitchQuote : public Switch
{
  protected:
    void startQuoting()
    {
        start();
        Enrolment enrolment;
        enrolment.host = "host-boot0";
        enrolment.method = Method::quote;
        enrolment.key = host.publicKey();
        agent->enroll("boot0", enrolment);
        rig.settle();
    }

    Bytes quarantineFrame(const MacAddress& from, quarantine::Message message)
    {
        return quarantine::write(
            {quarantine::agentAddress, from, std::move(message)});
    }

    /** The agent's next message to this address. */
    template <typename Wanted>
    std::optional<Wanted> answerTo(const MacAddress& to)
    {
        std::optional<Wanted> out;
        eventually([&] {
            for (const Caught& caught : rig.end("boot0").take())
            {
                if (caught.type() != quarantine::defaultEtherType)
                {
                    continue;
                }
                quarantine::Frame parsed = quarantine::parse(caught.bytes);
                if (auto* wanted = std::get_if<Wanted>(&parsed.message))
                {
                    EXPECT_EQ(parsed.destination, to);
                    out = *wanted;
                }
            }
            return out.has_value();
        });
        return out;
    }

    quarantine::Challenge ask(const MacAddress& from)
    {
        rig.end("boot0").send(quarantineFrame(from, quarantine::Ask{}));
        return answerTo<quarantine::Challenge>(from).value();
    }

    bool prove(const MacAddress& from, const quarantine::Nonce& nonce,
               const Bytes& proof)
    {
        rig.end("boot0").send(
            quarantineFrame(from, quarantine::Proof{nonce, proof}));
        auto verdict = answerTo<quarantine::Verdict>(from).value();
        EXPECT_EQ(verdict.nonce, nonce);
        return verdict.open;
    }

    Bytes proofFor(const std::string& port, const MacAddress& from,
                   const quarantine::Nonce& nonce)
    {
        return host.sign(quarantine::statement(port, from, nonce));
    }

    Quoting host;
    const MacAddress self = mac("06:00:00:00:00:b0");
};

TEST_F(SwitchQuote, AFreshProofOpensAndRenews)
{
    startQuoting();
    EXPECT_FALSE(passes("boot0", self));
    auto challenge = ask(self);
    EXPECT_EQ(challenge.port, "boot0");
    EXPECT_TRUE(
        prove(self, challenge.nonce, proofFor("boot0", self, challenge.nonce)));
    EXPECT_EQ(state("boot0"), "open");
    rig.settle();
    EXPECT_TRUE(passes("boot0", self));
    EXPECT_FALSE(passes("boot0", stranger));
    auto again = ask(self);
    EXPECT_NE(again.nonce, challenge.nonce);
    EXPECT_TRUE(prove(self, again.nonce, proofFor("boot0", self, again.nonce)));
    EXPECT_EQ(status("boot0")["opened"], 1);
}

TEST_F(SwitchQuote, ALeaseEndsWhenItsAddressIsSeenAtAnyOtherPort)
{
    startQuoting();
    enroll("boot1", Method::mac96, 8);
    for (const char* port : {"boot1", "prod0"})
    {
        auto challenge = ask(self);
        ASSERT_TRUE(prove(self, challenge.nonce,
                          proofFor("boot0", self, challenge.nonce)));
        rig.through(port, frame(everybody, self, dataType));
        EXPECT_TRUE(becomes("boot0", "cut-off")) << port;
        EXPECT_EQ(status("boot0")["reason"],
                  std::string("its address was seen at ") + port);
    }
}

TEST_F(SwitchQuote, ProofsThatDoNotHoldAreRefused)
{
    settings.challenges = 100;
    startQuoting();
    Quoting other;
    std::uint64_t refused = 0;
    auto refuses = [&](const MacAddress& from, const quarantine::Nonce& nonce,
                       const Bytes& proof) {
        EXPECT_FALSE(prove(from, nonce, proof));
        EXPECT_EQ(state("boot0"), "cut-off");
        EXPECT_EQ(status("boot0")["misses"]["refused"], ++refused);
    };
    auto nonce = ask(self).nonce;
    refuses(self, nonce,
            other.sign(quarantine::statement("boot0", self, nonce)));
    // That nonce is gone, also for the right key.
    refuses(self, nonce, proofFor("boot0", self, nonce));
    nonce = ask(self).nonce;
    refuses(self, nonce, proofFor("boot1", self, nonce));
    nonce = ask(self).nonce;
    refuses(self, nonce, proofFor("boot0", stranger, nonce));
    nonce = ask(self).nonce;
    refuses(stranger, nonce, proofFor("boot0", stranger, nonce));
    nonce = ask(self).nonce;
    refuses(self, nonce, {});
    nonce = ask(self).nonce;
    quarantine::Nonce own{};
    refuses(self, own, proofFor("boot0", self, own));
    // An address that is in use at another port.
    rig.through("prod0", frame(everybody, prod, dataType));
    nonce = ask(prod).nonce;
    refuses(prod, nonce, proofFor("boot0", prod, nonce));
    // A proof that opened once does not open again.
    nonce = ask(self).nonce;
    Bytes good = proofFor("boot0", self, nonce);
    EXPECT_TRUE(prove(self, nonce, good));
    agent->cut("boot0", "test");
    refuses(self, nonce, good);
}

} // namespace
} // namespace airlock::test
