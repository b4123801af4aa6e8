#include "common/epoch_address.hpp"
#include "common/file.hpp"
#include "tools/switchd/agent.hpp"
#include "tools/switchd/port.hpp"
#include "tools/switchd/service.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

/** The lease of a port with a switch that is made up, at made-up times. */
namespace airlock::sw
{
namespace
{

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using namespace std::chrono_literals;

constexpr std::uint16_t data = 0x6003;

/** Notes what it is told to do. */
class FakeFabric : public Fabric
{
  public:
    void open(const std::string& port, const MacAddress& address,
              std::chrono::seconds) override
    {
        check(port);
        onOpen();
        opened = address;
        hiddenAtOpen = hidden(address);
        done.push_back("open");
    }
    void drain(const std::string& port, const MacAddress&,
               std::chrono::seconds) override
    {
        check(port);
        opened.reset();
        done.push_back("drain");
    }
    void close(const std::string&) override
    {
        if (broken)
        {
            throw Error("broken on purpose");
        }
        opened.reset();
        done.push_back("close");
    }
    void send(const std::string&, ByteView frame) override
    {
        sent.emplace_back(frame.begin(), frame.end());
    }
    bool elsewhere(const std::string&, const MacAddress&) override
    {
        return false;
    }
    std::optional<std::string> foreign(const std::string&,
                                       const MacAddress& address) override
    {
        looked++;
        return address == others ? std::optional<std::string>("tag")
                                 : std::nullopt;
    }
    void guardsChanged() override { hides = guarded().hidden; }

    bool hidden(const MacAddress& address) const
    {
        return std::ranges::find(hides, address) != hides.end();
    }

    std::function<void()> onOpen = [] {};
    std::function<PortAgent::Guarded()> guarded = [] {
        return PortAgent::Guarded();
    };
    std::vector<MacAddress> hides;
    bool hiddenAtOpen = false;
    bool broken = false;
    std::optional<MacAddress> opened;
    std::optional<MacAddress> others;
    std::vector<std::string> done;
    std::vector<Bytes> sent;
    std::size_t looked = 0;

  private:
    void check(const std::string& port) const
    {
        EXPECT_EQ(port, "boot0");
        if (broken)
        {
            throw Error("broken on purpose");
        }
    }
};

class SwitchPort : public ::testing::Test
{
  protected:
    SwitchPort()
    {
        settings.name = "boot0";
        settings.guesses = 10;
        Enrolment enrolment;
        enrolment.host = "host";
        enrolment.method = Method::mac;
        enrolment.root = std::make_shared<Secret>(root.view());
        store.save("boot0", enrolment);
    }

    PortAgent& port()
    {
        if (!agent)
        {
            agent.emplace(settings, store, fabric,
                          [this](log::Level, std::string_view message,
                                 const std::vector<log::Field>&) {
                              reports.emplace_back(message);
                          });
        }
        return *agent;
    }

    /** An ordinary frame from an address. */
    void see(const MacAddress& from)
    {
        ByteWriter out;
        out.bytes(MacAddress{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}.view());
        out.bytes(from.view());
        out.be16(data);
        port().frame({out.data(), false}, now);
    }

    MacAddress of(std::uint64_t epoch) const
    {
        return epoch::hostAddress(root, epoch);
    }

    Json misses() { return port().status(now)["misses"]; }

    TempDirectory directory;
    EnrolmentStore store{directory.path() / "ports"};
    PortSettings settings;
    FakeFabric fabric;
    std::vector<std::string> reports;
    std::optional<PortAgent> agent;
    Secret root = Secret::random();
    TimePoint now{1000h};
    const MacAddress stranger{{6, 0, 0, 0, 0, 0x66}};
};

TEST_F(SwitchPort, AnEpochIsUsedUpOnTheDiskBeforeThePortOpens)
{
    std::uint64_t onDisk = 0;
    fabric.onOpen = [&] { onDisk = store.load("boot0")->epoch; };
    see(of(5));
    EXPECT_TRUE(port().isOpen());
    EXPECT_EQ(onDisk, 5U);
    // The next process knows it, and begins cut off.
    agent.reset();
    EXPECT_FALSE(port().isOpen());
    see(of(5));
    EXPECT_FALSE(port().isOpen());
    EXPECT_EQ(misses()["used"], 1);
}

TEST_F(SwitchPort, StaysShutWhenTheDiskIsFull)
{
    port();
    std::filesystem::remove_all(directory.path() / "ports");
    see(of(1));
    EXPECT_FALSE(port().isOpen());
    EXPECT_FALSE(fabric.opened);
}

TEST_F(SwitchPort, StaysShutWhenTheSwitchFails)
{
    port();
    fabric.onOpen = [] { throw Error("broken on purpose"); };
    see(of(1));
    EXPECT_FALSE(port().isOpen());
    EXPECT_EQ(fabric.done.back(), "close");
}

TEST_F(SwitchPort, TriesAgainUntilThePortIsShut)
{
    see(of(1));
    fabric.broken = true;
    EXPECT_THROW(port().cut("test"), Error);
    EXPECT_EQ(port().status(now)["state"], "shutting");
    EXPECT_THROW(port().cutByHost(now), Error);
    see(of(2)); // nobody opens it in between
    EXPECT_FALSE(port().isOpen());
    EXPECT_EQ(port().status(now)["epoch"], 1);
    fabric.broken = false;
    fabric.done.clear();
    port().tick(now);
    EXPECT_THAT(fabric.done, ElementsAre("close"));
    EXPECT_EQ(port().status(now)["state"], "cut-off");
    port().tick(now);
    EXPECT_THAT(fabric.done, ElementsAre("close"));
    EXPECT_NO_THROW(port().cutByHost(now));
}

TEST_F(SwitchPort, SaysCutOffToTheBootHostOnlyWhenItIs)
{
    see(of(1));
    fabric.broken = true;
    EXPECT_THROW(port().cutByHost(now), Error);
    EXPECT_FALSE(port().isOpen());
}

TEST_F(SwitchPort, ALeaseEndsUnlessItIsRenewed)
{
    settings.lease = 10s;
    see(of(1));
    now += 6s;
    EXPECT_TRUE(port().wantsTraffic(now));
    see(of(1));
    EXPECT_FALSE(port().wantsTraffic(now));
    now += 9s;
    port().tick(now);
    EXPECT_TRUE(port().isOpen());
    now += 1s;
    port().tick(now);
    EXPECT_FALSE(port().isOpen());
    EXPECT_EQ(fabric.done.back(), "close");
}

TEST_F(SwitchPort, TheSameRootAgainMakesNoAddressGoodAgain)
{
    see(of(5));
    port().rotate(root, now);
    now += 3s; // the answer has got out
    see(of(5));
    EXPECT_FALSE(port().isOpen());
    EXPECT_EQ(misses()["used"], 1);
    see(of(6));
    EXPECT_TRUE(port().isOpen());
    Enrolment again = *port().enrolment();
    again.epoch = 0;
    port().enroll(again);
    see(of(6));
    EXPECT_FALSE(port().isOpen());
    EXPECT_EQ(store.load("boot0")->epoch, 6U);
    // Another one is counted from the beginning.
    see(of(7));
    Secret other = Secret::random();
    port().rotate(other, now);
    see(epoch::hostAddress(other, 1));
    EXPECT_TRUE(port().isOpen());
}

/** What is neither hidden nor in the forwarding table goes to all ports. */
TEST_F(SwitchPort, AnAddressIsHiddenUntilTheSwitchKnowsItsPort)
{
    port();
    fabric.guarded = [&] { return port().guarded(); };
    fabric.guardsChanged();
    EXPECT_TRUE(fabric.hidden(of(1)));
    see(of(1));
    EXPECT_TRUE(fabric.hiddenAtOpen);
    EXPECT_FALSE(fabric.hidden(of(1)));
    // Opening makes the switch forget what drains: that is hidden before.
    port().cutByHost(now);
    EXPECT_FALSE(fabric.hidden(of(1)));
    bool wasHidden = false;
    fabric.onOpen = [&] { wasHidden = fabric.hidden(of(1)); };
    see(of(2));
    EXPECT_TRUE(port().isOpen());
    EXPECT_TRUE(wasHidden);
}

/** The epoch is noted on the disk first. Else a lease could be over when it
 * begins, and its epoch be used up for nothing. */
TEST_F(SwitchPort, ALeaseBeginsWhenItsEpochIsNoted)
{
    settings.lease = 3s;
    settings.clock = [&] { return now + 5s; };
    see(of(1));
    now += 7s;
    port().tick(now);
    EXPECT_TRUE(port().isOpen());
    now += 1s;
    port().tick(now);
    EXPECT_FALSE(port().isOpen());
}

/** Frames may wait while the agent does something else. */
TEST_F(SwitchPort, ALeaseThatIsOverIsNotRenewed)
{
    settings.lease = 10s;
    see(of(1));
    now += 10s;
    see(of(1));
    EXPECT_FALSE(port().isOpen());
    EXPECT_FALSE(fabric.opened);
    EXPECT_EQ(misses()["used"], 1);
    see(of(2));
    EXPECT_TRUE(port().isOpen());
    now += 10s;
    EXPECT_THROW(port().rotate(Secret::random(), now), Refused);
    EXPECT_FALSE(fabric.opened);
}

TEST_F(SwitchPort, RenewingIsNotForEachFrame)
{
    see(of(1));
    fabric.done.clear();
    for (int i = 0; i < 1000; i++)
    {
        see(of(1));
    }
    EXPECT_THAT(fabric.done, IsEmpty());
}

TEST_F(SwitchPort, TheDrainEnds)
{
    see(of(1));
    port().cutByHost(now);
    EXPECT_FALSE(port().isOpen());
    EXPECT_EQ(fabric.done.back(), "drain");
    EXPECT_TRUE(port().nextDue(now));
    now += 3s;
    port().tick(now);
    EXPECT_EQ(fabric.done.back(), "close");
    EXPECT_FALSE(port().nextDue(now));
}

TEST_F(SwitchPort, TakingTheAnswerIsNoMiss)
{
    see(of(1));
    port().cutByHost(now);
    see(of(1));
    EXPECT_EQ(misses()["used"], 0);
    EXPECT_FALSE(port().isOpen());
    now += 3s;
    see(of(1));
    EXPECT_EQ(misses()["used"], 1);
}

TEST_F(SwitchPort, LooksAtSoManyGuessesOnly)
{
    for (int i = 0; i < 1000; i++)
    {
        see({{6, 0, 0, 0, static_cast<std::uint8_t>(i >> 8),
              static_cast<std::uint8_t>(i)}});
    }
    EXPECT_EQ(misses()["unknown"], 10);
    EXPECT_EQ(misses()["limited"], 990);
    EXPECT_EQ(fabric.looked, 10U);
    // Not even the right one, for the moment.
    see(of(1));
    EXPECT_FALSE(port().isOpen());
    now += 1s;
    see(of(1));
    EXPECT_TRUE(port().isOpen());
}

TEST_F(SwitchPort, ReportsManyMissesTogether)
{
    for (int i = 0; i < 100; i++)
    {
        see(stranger);
    }
    EXPECT_EQ(reports.size(), 1U);
    now += 11s;
    port().tick(now);
    EXPECT_EQ(reports.size(), 2U);
    now += 11s;
    port().tick(now);
    EXPECT_EQ(reports.size(), 2U);
    EXPECT_FALSE(port().nextDue(now));
}

TEST_F(SwitchPort, AnAddressOfAnotherPortIsNoCandidate)
{
    fabric.others = of(1);
    see(of(1));
    EXPECT_FALSE(port().isOpen());
    EXPECT_EQ(misses()["unknown"], 1);
}

TEST_F(SwitchPort, HidesAddressesThatAreNotLeased)
{
    auto holds = [](const std::vector<MacAddress>& all, const MacAddress& one) {
        return std::find(all.begin(), all.end(), one) != all.end();
    };
    EXPECT_TRUE(holds(port().guarded().hidden, of(1)));
    EXPECT_TRUE(holds(port().guarded().expected, of(1)));
    see(of(1));
    EXPECT_FALSE(holds(port().guarded().hidden, of(1)));
    EXPECT_TRUE(holds(port().guarded().expected, of(1)));
    EXPECT_TRUE(holds(port().guarded().hidden, of(2)));
    port().cutByHost(now); // the answer has to get out
    EXPECT_FALSE(holds(port().guarded().hidden, of(1)));
    now += 3s;
    port().tick(now);
    EXPECT_TRUE(holds(port().guarded().hidden, of(1)));
}

/** In the place of a TPM's: the proof is the number of the start. */
class CountingVerifier : public ProofVerifier
{
  public:
    Evidence verify(const Claim& claim, ByteView proof) const override
    {
        EXPECT_EQ(claim.port, "boot0");
        if (proof.size() != 1)
        {
            throw Refused("proof", "is none");
        }
        if (proof[0] < last_)
        {
            throw Refused("proof", "is of a start before the last one");
        }
        trust::wire::ClockInfo clock;
        clock.resetCount = proof[0];
        return {proof[0], clock};
    }
    void remember(const trust::wire::ClockInfo& last) override
    {
        last_ = last.resetCount;
    }

  private:
    std::uint32_t last_ = 0;
};

/** A boot host that proves what CountingVerifier asks for. */
class SwitchPortQuote : public SwitchPort
{
  protected:
    SwitchPortQuote()
    {
        settings.verifier = [](const std::string&) {
            return std::make_unique<CountingVerifier>();
        };
        Enrolment enrolment;
        enrolment.host = "host";
        enrolment.method = Method::quote;
        enrolment.key = "any";
        port().enroll(enrolment);
    }

    quarantine::Message send(const MacAddress& from,
                             quarantine::Message message)
    {
        fabric.sent.clear();
        port().frame({quarantine::write(
                          {quarantine::agentAddress, from, std::move(message)}),
                      false},
                     now);
        EXPECT_EQ(fabric.sent.size(), 1U);
        return quarantine::parse(fabric.sent.at(0)).message;
    }

    quarantine::Challenge ask(const MacAddress& from)
    {
        now += 1s;
        return std::get<quarantine::Challenge>(send(from, quarantine::Ask{}));
    }

    bool prove(const MacAddress& from, const quarantine::Nonce& nonce,
               Bytes proof)
    {
        now += 1s;
        return std::get<quarantine::Verdict>(
                   send(from, quarantine::Proof{nonce, std::move(proof)}))
            .open;
    }

    bool prove(Bytes proof)
    {
        return prove(self, ask(self).nonce, std::move(proof));
    }

    const MacAddress self{{6, 0, 0, 0, 0, 1}};
};

TEST_F(SwitchPortQuote, ALeaseDoesNotOutliveTheStartOfItsBootHost)
{
    EXPECT_FALSE(prove({}));
    EXPECT_TRUE(prove({7}));
    EXPECT_TRUE(prove({7}));
    EXPECT_TRUE(port().isOpen());
    EXPECT_FALSE(prove({8}));
    EXPECT_FALSE(port().isOpen());
    EXPECT_FALSE(fabric.opened);
    EXPECT_TRUE(prove({8}));
    // A challenge that is too old.
    auto challenge = ask(self);
    now += 5s;
    EXPECT_FALSE(prove(self, challenge.nonce, {8}));
}

TEST_F(SwitchPortQuote, AnAgentThatStartsAnewKnowsWhatWasSeen)
{
    std::optional<std::uint32_t> onDisk;
    fabric.onOpen = [&] {
        onDisk = store.load("boot0")->seen.value().resetCount;
    };
    EXPECT_TRUE(prove({7}));
    EXPECT_EQ(onDisk, 7U); // before the port was opened
    agent.reset();
    EXPECT_FALSE(prove({6}));
    EXPECT_TRUE(prove({7}));
    // A new enrolment of the same key forgets nothing, one of another does.
    Enrolment same = port().enrolment().value();
    same.seen.reset();
    port().enroll(same);
    EXPECT_FALSE(prove({6}));
    Enrolment other = same;
    other.key = "other";
    port().enroll(other);
    EXPECT_TRUE(prove({6}));
}

TEST_F(SwitchPortQuote, WhatCannotBeKeptOpensNothing)
{
    std::filesystem::remove_all(directory.path() / "ports");
    EXPECT_FALSE(prove({7}));
    EXPECT_FALSE(port().isOpen());
    EXPECT_FALSE(fabric.opened);
}

TEST_F(SwitchPortQuote, SoManyChallengesOnly)
{
    ask(self);
    fabric.sent.clear();
    now += 1s;
    for (unsigned i = 0; i < settings.challenges + 3; i++)
    {
        port().frame({quarantine::write(
                          {quarantine::agentAddress, self, quarantine::Ask{}}),
                      false},
                     now);
    }
    EXPECT_EQ(fabric.sent.size(), settings.challenges);
    EXPECT_EQ(misses()["limited"], 3);
}

TEST_F(SwitchPortQuote, AProofIsOfWhoWasAskedAndEnrolled)
{
    // Another address answers.
    EXPECT_FALSE(prove(stranger, ask(self).nonce, {7}));
    EXPECT_FALSE(port().isOpen());
    // While one is leased, no other one gets in.
    EXPECT_TRUE(prove({7}));
    EXPECT_FALSE(prove(stranger, ask(stranger).nonce, {7}));
    EXPECT_EQ(fabric.opened, self);
    EXPECT_TRUE(prove({7}));
    // An address that was enrolled is the only one.
    Enrolment enrolment = *port().enrolment();
    enrolment.address = self;
    port().enroll(enrolment);
    EXPECT_FALSE(prove(stranger, ask(stranger).nonce, {7}));
    EXPECT_FALSE(port().isOpen());
    EXPECT_TRUE(prove({7}));
}

TEST_F(SwitchPortQuote, TheVerdictIsWhetherThePortIsOpen)
{
    EXPECT_TRUE(prove({7}));
    now += 3s; // a renewal is due
    fabric.onOpen = [] { throw Error("broken on purpose"); };
    EXPECT_FALSE(prove({7}));
    EXPECT_FALSE(port().isOpen());
    EXPECT_FALSE(prove({7}));
    fabric.onOpen = [] {};
    EXPECT_TRUE(prove({7}));
}

TEST_F(SwitchPort, EnrolmentsAreCheckedAsOutsideInput)
{
    auto refused = [](const Json& json) {
        try
        {
            parseEnrolment(json, "test");
        }
        catch (const Refused&)
        {
            return true;
        }
        return false;
    };
    std::string hex(64, 'a');
    Json good = {{"host", "h"}, {"method", "mac96"}, {"root", hex}};
    EXPECT_FALSE(refused(good));
    for (const auto& [key, value] : std::vector<std::pair<std::string, Json>>{
             {"method", "mac48"},
             {"root", "aa"},
             {"root", nullptr},
             {"epoch", -1},
             {"epoch", 1ULL << 63},
             {"more", 1},
             {"host", 7},
             {"address", "01:00:00:00:00:01"},
             {"method", "quote"}})
    {
        Json changed = good;
        changed[key] = value;
        EXPECT_TRUE(refused(changed)) << key << dumpJson(value);
    }
}

/** The calls of boot hosts. */
class SwitchCalls : public ::testing::Test
{
  protected:
    SwitchCalls()
    {
        HostCalls calls;
        calls.status = [this](const std::string& host) { return known(host); };
        calls.cut = [this](const std::string& host) { return known(host); };
        calls.rotate = [this](const std::string& host, const Secret& root) {
            rotated = toHex(root.view());
            return known(host);
        };
        handler = makeHandler(calls, "1");
    }

    static Json known(const std::string& host)
    {
        if (host != "boot1")
        {
            throw NoSuchPort("none");
        }
        return {{"port", "p"}, {"state", "cut-off"}, {"epoch", 4}};
    }

    std::string call(const std::string& method, const std::string& what,
                     const std::string& body, const std::string& who = "boot1")
    try
    {
        auto exchange = handler({method, {"v1", what}, {who, "airlock-bootd"}});
        exchange->receive(asBytes(body));
        return dumpJson(parseJson(exchange->finish().body, "answer"));
    }
    catch (const http::Problem& problem)
    {
        return std::to_string(problem.status());
    }
    catch (const Refused&)
    {
        return "400";
    }

    http::Handler handler;
    std::string rotated;
};

TEST_F(SwitchCalls, AnswerOrRefuse)
{
    std::string nonce(64, 'b');
    EXPECT_EQ(call("POST", "cut", "{\"nonce\":\"" + nonce + "\"}"),
              "{\"epoch\":4,\"nonce\":\"" + nonce +
                  "\",\"port\":\"p\",\"state\":\"cut-off\"}");
    EXPECT_EQ(call("POST", "cut", "{\"nonce\":\"" + nonce + "\"}", "boot2"),
              "404");
    EXPECT_EQ(call("POST", "cut", "{}"), "400");
    EXPECT_EQ(call("POST", "cut", "{\"nonce\":\"b\"}"), "400");
    EXPECT_EQ(
        call("POST", "cut", "{\"nonce\":\"" + nonce + "\",\"port\":\"x\"}"),
        "400");
    EXPECT_EQ(call("POST", "cut", std::string(100000, ' ')), "400");
    EXPECT_EQ(call("GET", "cut", ""), "405");
    EXPECT_EQ(call("GET", "ports", ""), "404");
    EXPECT_EQ(call("GET", "health", ""), "{\"version\":\"1\"}");
    call("POST", "rotate", "{\"root\":\"" + nonce + "\"}");
    EXPECT_EQ(rotated, nonce);
    EXPECT_EQ(call("POST", "rotate", "{\"root\":\"00\"}"), "400");
}

} // namespace
} // namespace airlock::sw
