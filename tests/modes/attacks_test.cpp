#include "bootsrv/machine/boot_choice.hpp"
#include "common/epoch_address.hpp"
#include "devmodel/handover/schema.hpp"
#include "devmodel/handover/stream.hpp"
#include "devmodel/vm/hand_over.hpp"
#include "tests/integration/boot_jobs.hpp"
#include "tests/modes/attack_kit.hpp"
#include "tests/modes/switched_capsule.hpp"
#include "tests/switch/frames.hpp"
#include "tests/unit/error_of.hpp"
#include "tests/unit/test_streams.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <set>
#include <sstream>
#include <thread>

// Root in dirty mode tries everything, in one dirty boot of a capsule that is
// as bad as a real machine: its card stays, its firmware's variables and the
// disk with the images are as dirty mode leaves them. Clean mode, firmware,
// TPM, switch and production machine are the real ones. The whole story is
// played once; each test looks at one side of it.

namespace airlock::test
{
namespace
{

using boot::JobState;
using capsule::ModeEnd;
using capsule::RunningMode;
using rig::CableEnd;
using rig::Caught;
using testing::AnyOf;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr std::uint64_t stagingBytes = 256U << 20;
constexpr auto attackTime = std::chrono::minutes(40);
constexpr Milliseconds step{20};
constexpr unsigned randomSources = 6;

/** A guest without a system, on the disk that the attacker gets. Its state on
 * the full machine, and its production machine. */
class Victim
{
  public:
    Victim() : disk_(home_.path() / "disk")
    {
        UniqueFd fd = openFile(disk_, O_RDWR | O_CREAT);
        writeAllAt(fd.get(), Bytes(AttackKit::diskBytes), 0);
        fd.reset();
        request = smallRequest(AttackKit::diskBytes);
        spec_ = request.guest;
        spec_.disks = {{disk_, false}};
        const vm::QemuBuilds qemu =
            vm::findQemuBuilds(vm::defaultBuildDirectory());
        {
            vm::BootVm boot(qemu.boot, spec_, {}, home_.path() / "boot.log");
            boot.waitBooted(vm::BootedAfter{std::chrono::seconds(3)},
                            std::chrono::minutes(1));
            boot.save();
            guest_ = boot.end();
        }
        production_ = std::make_unique<vm::ProductionVm>(
            qemu.production, spec_,
            vm::ProductionVm::Options{home_.path() / "production.log", {}, {}});
        production_->waitTrap(std::chrono::seconds(30));
    }

    /** A queue of more entries than QEMU has room for. */
    Bytes hostileState() const
    {
        auto sections = handover::parseBootStream(guest_.state).sections;
        const auto disk = std::ranges::find_if(
            sections, [](const handover::Section& section) {
                return section.id.idstr.ends_with("/virtio-blk");
            });
        handover::Record record = handover::parseSection(*disk);
        handover::Rows& queues = record.rows("vq");
        queues.at(0, queues.column("vring.num")) = 1U << 20;
        disk->payload = handover::serialise(record);
        return buildStream(sections);
    }

    /** The same without the one value, as it would come back. */
    std::string harmlessIsRefused()
    {
        const auto sections = handover::parseBootStream(guest_.state).sections;
        vm::BootedGuest guest{buildStream(sections), std::move(guest_.memory)};
        const handover::Bundle bundle =
            vm::makeBundle(std::move(guest), spec_, request.job);
        return errorOf<Error>(
            [&] { vm::loadBundle(*production_, bundle, request.job); });
    }

    std::string isRefused(const handover::Bundle& bundle)
    {
        return errorOf<Error>(
            [&] { vm::handOver(*production_, bundle, request.job); });
    }

    bool isTrapped() { return production_->trap().has_value(); }

    boot::JobRequest request;

  private:
    TempDirectory home_;
    std::filesystem::path disk_;
    vm::GuestSpec spec_;
    vm::BootedGuest guest_;
    std::unique_ptr<vm::ProductionVm> production_;
};

/** What happened. */
struct Story
{
    explicit Story(const std::filesystem::path& images)
        : host(images, stagingBytes), victim(std::make_unique<Victim>())
    {}

    void play()
    {
        before();
        dirty();
        fooled();
        after();
    }

    SwitchedCapsule host;
    std::unique_ptr<Victim> victim;
    AttackKit kit;
    std::string id;
    Bytes newestKept;

    std::string console; ///< of the attacker
    std::vector<Caught> atPort, atPort2, atPort3;
    std::vector<Caught> out, out2, out3; ///< at the production host
    Json missesBefore;                   ///< of clean mode and its firmware
    Json shut;                           ///< the port after the first round
    std::string journal;                 ///< of the switch agent by then
    std::uint64_t damage = 0;

    std::string cleanConsole; ///< of the one that finds an older record
    std::size_t cleanFrames = 0;
    Json cleanPort;
    Bytes variables;
    std::size_t framesBeforeProof = 0;
    boot::JobStatus status;
    std::string refusal, control;
    bool trapped = false;
    std::string lastConsole;

  private:
    /** The partition of what is kept, from outside. */
    UniqueFd disk() { return openFile(host.capsule().dataDisk(), O_RDWR); }
    Bytes kept()
    {
        const capsule::DiskLayout& layout = host.capsule().layout();
        // As long as the part before it.
        Bytes bytes(layout.kept - layout.seal);
        readExactAt(disk().get(), bytes, layout.kept);
        return bytes;
    }
    void writeFromEnd(std::uint64_t fromEnd, std::string_view text)
    {
        const capsule::DiskLayout& layout = host.capsule().layout();
        const UniqueFd staging = openFile(host.capsule().stagingDisk(), O_RDWR);
        writeAllAt(staging.get(), asBytes(text),
                   layout.staging + layout.stagingSize - fromEnd);
    }

    void makeKit(std::uint64_t epoch)
    {
        const Secret& root = host.rig().root();
        kit.lastHost = epoch::hostAddress(root, epoch);
        kit.lastGate = epoch::switchAddress(root, epoch);
        kit.nextHost = epoch::hostAddress(root, epoch + 1);
        kit.sources = {kit.lastHost, kit.lastGate,
                       host.net().productionAddress()};
        for (const int apart : {-1, 1})
        {
            MacAddress near = kit.lastHost;
            near.bytes[5] = static_cast<std::uint8_t>(near.bytes[5] + apart);
            kit.sources.push_back(near);
        }
        for (unsigned i = 0; i < randomSources; i++)
        {
            MacAddress any;
            fillRandom(any.bytes);
            any.bytes[0] = static_cast<std::uint8_t>(any.bytes[0] & 0xfcU);
            kit.sources.push_back(any);
        }
        kit.unicast = {host.net().productionAddress(), kit.lastGate,
                       mac("06:00:00:00:00:77")};
        kit.secrets["root"] = copyOf(root.view());
        kit.secrets["tls"] =
            copyOf(asBytes(host.rig().site.tls.key).subspan(60, 32));
        for (std::uint64_t next = epoch; next < epoch + 3; next++)
        {
            const std::string name = std::to_string(next);
            kit.secrets["host " + name] =
                copyOf(epoch::hostAddress(root, next).view());
            kit.secrets["switch " + name] =
                copyOf(epoch::switchAddress(root, next).view());
        }
        kit.state = victim->hostileState();
    }

    /** Clean mode takes the job that the attacker comes with, and is cut off.
     */
    void before()
    {
        kit.kept = kept();
        const ModeEnd end =
            host.run(false, host.bootTime, [&](RunningMode& mode) {
                host.waitOpen(mode);
                makeKit(host.net().port()["epoch"]);
                host.asHost([&](boot::Client& client) {
                    const Bytes disk = kit.write();
                    id = uploadSmall(client, victim->request, asText(disk), 0);
                    client.seal(id);
                });
                // The capture sees what comes through an open port.
                if (host.waitCutOff() == 0)
                {
                    throw Error("the capture does not see clean mode");
                }
            });
        if (!end.dirtyNext)
        {
            throw Error("clean mode does not go dirty: " + end.console);
        }
        newestKept = kept();
        writeFromEnd(AttackKit::baitFromEnd, AttackKit::bait);
        host.net().atProduction();
    }

    void collect(CableEnd& port, std::vector<Caught>& atThePort,
                 std::vector<Caught>& outside)
    {
        const auto add = [](std::vector<Caught>& to, std::vector<Caught> from) {
            std::move(from.begin(), from.end(), std::back_inserter(to));
        };
        add(atThePort, port.take());
        add(outside, host.net().atProduction());
    }

    void waitSaid(RunningMode& mode, CableEnd& port, const std::string& text,
                  std::vector<Caught>& atThePort, std::vector<Caught>& outside)
    {
        for (const Deadline deadline(attackTime);;)
        {
            collect(port, atThePort, outside);
            try
            {
                mode.waitForConsole(text, step);
                collect(port, atThePort, outside);
                return;
            }
            catch (const TimedOut&)
            {
                if (deadline.passed() || mode.ended(Milliseconds(0)))
                {
                    throw;
                }
            }
        }
    }

    /** No fence, a bridge like any other, and an agent that hangs. */
    void takeDefenceAway()
    {
        host.net().agent().signal(SIGSTOP);
        runTool({"nft", "flush", "ruleset"});
        runTool({"bridge", "link", "set", "dev", "boot0", "locked", "off",
                 "learning", "on", "flood", "on", "mcast_flood", "on",
                 "bcast_flood", "on", "isolated", "off"});
    }

    /** The agent finds what was done to its switch, and mends it. */
    void bringDefenceBack()
    {
        host.net().agent().signal(SIGCONT);
        for (const Deadline deadline(std::chrono::minutes(1)); damage == 0;)
        {
            damage = host.net().call("status")["damage"];
            if (deadline.passed())
            {
                throw TimedOut("the switch agent does not notice");
            }
            std::this_thread::sleep_for(step);
        }
    }

    void dirty()
    {
        CableEnd port("boot0");
        missesBefore = host.net().port()["misses"];
        host.options().keepAll = true;
        host.options().keepCard = true;
        const ModeEnd end = host.run(true, attackTime, [&](RunningMode& mode) {
            waitSaid(mode, port, "probe first round: ", atPort, out);
            shut = host.net().port();
            journal = host.net().log();
            takeDefenceAway();
            writeFromEnd(AttackKit::orderFromEnd, "second");
            waitSaid(mode, port, "probe second round: ", atPort2, out2);
            bringDefenceBack();
            writeFromEnd(AttackKit::orderFromEnd, "third ");
            waitSaid(mode, port, "probe third round: ", atPort3, out3);
            writeFromEnd(AttackKit::orderFromEnd, "go on ");
        });
        console = end.console;
        host.net().framesOfOthers();
    }

    /** Clean mode as dirty mode has left it everything. */
    void fooled()
    {
        const ModeEnd end = host.run(false, host.bootTime);
        cleanConsole = end.console;
        cleanFrames = host.net().framesOfOthers();
        cleanPort = host.net().port();
        variables = readFile(host.capsule().variables(),
                             capsule::VariableStore::maxFile);
    }

    /** And with the record of what is kept that the TPM knows: the crafted
     * result comes back. */
    void after()
    {
        const UniqueFd data = disk();
        writeAllAt(data.get(), newestKept, host.capsule().layout().kept);
        host.options().keepCard = false;
        host.cut(false, [&](RunningMode& mode) {
            framesBeforeProof = host.waitOpen(mode);
            host.asHost([&](boot::Client& client) {
                status = waitFinished(client, id, std::chrono::minutes(2));
                const handover::Bundle bundle = client.fetchBundle(
                    id, [&](const handover::Manifest& manifest) {
                        manifest.requireJob(victim->request.job);
                    });
                refusal = victim->isRefused(bundle);
            });
            trapped = victim->isTrapped();
            control = victim->harmlessIsRefused();
        });
        lastConsole = readTextFile(host.directory() / "console", 1U << 20);
    }
};

class Attacks : public testing::Test
{
  protected:
    static void SetUpTestSuite()
    {
        story_ = std::make_unique<Story>(
            imagesOf("AIRLOCK_ATTACK_IMAGES", "attacks"));
        story_->play();
    }
    static void TearDownTestSuite() { story_.reset(); }

    static const Story& story() { return *story_; }
    static std::string told(const std::string& what)
    {
        return said(story_->console, what);
    }
    static std::string outcome(const std::string& attack)
    {
        return told("attack " + attack);
    }

    static bool has(const Caught& caught, std::string_view text)
    {
        return std::search(caught.bytes.begin(), caught.bytes.end(),
                           text.begin(), text.end()) != caught.bytes.end();
    }

    static std::unique_ptr<Story> story_;
};

std::unique_ptr<Story> Attacks::story_;

/** Frames with the round's text, as the set of what is asked of them. */
template <typename Of>
auto setOf(const std::vector<Caught>& all, std::string_view text, Of&& of)
{
    std::set<decltype(of(all.front()))> out;
    for (const Caught& caught : all)
    {
        if (std::search(caught.bytes.begin(), caught.bytes.end(), text.begin(),
                        text.end()) != caught.bytes.end())
        {
            out.insert(of(caught));
        }
    }
    return out;
}

/** All that the attacker tried, each looked at by one of the tests below. */
TEST_F(Attacks, EveryAttackCameToItsEnd)
{
    const std::string mark = "probe attack ";
    std::vector<std::string> names;
    std::istringstream lines(story().console);
    for (std::string line; std::getline(lines, line);)
    {
        const std::size_t at = line.find(mark);
        if (at != std::string::npos)
        {
            const std::string rest = line.substr(at + mark.size());
            names.push_back(rest.substr(0, rest.find(':')));
            std::printf("%s\n", plainText(rest, 200).c_str());
        }
    }
    EXPECT_THAT(names,
                testing::ElementsAre(
                    "read-disks", "read-variables", "read-anchor", "read-tpm",
                    "unseal", "own-blob", "generation", "lower-anchor",
                    "new-anchor", "clear", "clear-platform", "send",
                    "secure-boot", "options", "boot-order", "clean-next",
                    "request", "loader", "kept", "result"));
}

TEST_F(Attacks, EveryFrameReachesThePort)
{
    const auto& frames = story().atPort;
    const auto sources =
        setOf(frames, AttackKit::firstRound,
              [](const Caught& caught) { return caught.source(); });
    for (const MacAddress& source : story().kit.sources)
    {
        EXPECT_THAT(sources, Contains(source)) << source.text();
    }
    const auto targets =
        setOf(frames, AttackKit::firstRound,
              [](const Caught& caught) { return caught.destination(); });
    for (const std::string& group : groups())
    {
        EXPECT_THAT(targets, Contains(mac(group))) << group;
    }
    const auto types =
        setOf(frames, AttackKit::firstRound,
              [](const Caught& caught) { return caught.type(); });
    for (const std::uint16_t type : frameTypes())
    {
        EXPECT_THAT(types, Contains(type)) << type;
    }
    const auto tags =
        setOf(frames, AttackKit::firstRound, [](const Caught& caught) {
            return std::pair(caught.vlan.value_or(0), caught.type());
        });
    EXPECT_THAT(tags, Contains(std::pair(std::uint16_t{100}, dataType)));
    EXPECT_THAT(tags, Contains(std::pair(std::uint16_t{1},
                                         std::uint16_t{0x8100}))); // two tags
    EXPECT_GT(frames.size(), 2000U) << told("first round");
    EXPECT_EQ(outcome("send"), "it worked");
}

TEST_F(Attacks, NoFrameLeavesTheSwitchBetweenCutOffAndProof)
{
    for (const Caught& caught : story().out)
    {
        EXPECT_TRUE(story_->host.net().ownAddresses().contains(caught.source()))
            << caught.source().text();
        EXPECT_FALSE(has(caught, AttackKit::firstRound))
            << caught.source().text(); // with the address of another host
    }
    EXPECT_EQ(story().cleanFrames, 0U);
    EXPECT_EQ(story().framesBeforeProof, 0U);
    EXPECT_EQ(story().shut["state"], "cut-off");
    EXPECT_EQ(story().shut["reason"], "the boot host asked for it");
    EXPECT_EQ(story().shut["opened"], 1);
}

/** The capture sees the attacker where nothing is in its way. */
TEST_F(Attacks, TheSameFramesLeaveASwitchWithoutDefence)
{
    const auto sources =
        setOf(story().out2, AttackKit::secondRound,
              [](const Caught& caught) { return caught.source(); });
    for (const MacAddress& source : story().kit.sources)
    {
        EXPECT_THAT(sources, Contains(source)) << source.text();
    }
    const auto types =
        setOf(story().out2, AttackKit::secondRound,
              [](const Caught& caught) { return caught.type(); });
    for (const std::uint16_t type :
         std::array<std::uint16_t, 5>{0x0806, 0x888E, 0x88CC, 0x0026, dataType})
    {
        EXPECT_THAT(types, Contains(type)) << type;
    }
}

TEST_F(Attacks, NoFrameLeavesASwitchThatTheAgentHasMended)
{
    EXPECT_GT(story().damage, 0U);
    const auto tried =
        setOf(story().atPort3, AttackKit::thirdRound,
              [](const Caught& caught) { return caught.source(); });
    for (const MacAddress& source : story().kit.sources)
    {
        EXPECT_THAT(tried, Contains(source)) << source.text();
    }
    for (const Caught& caught : story().out3)
    {
        EXPECT_FALSE(has(caught, AttackKit::thirdRound))
            << caught.source().text();
    }
}

std::uint64_t sumOf(const Json& misses)
{
    std::uint64_t sum = 0;
    for (const Json& kind : misses)
    {
        sum += kind.get<std::uint64_t>();
    }
    return sum;
}

TEST_F(Attacks, CleanModeRaisesNone)
{
    EXPECT_EQ(sumOf(story().missesBefore), 0U) << story().missesBefore.dump();
}

TEST_F(Attacks, MissesRaiseTheAlert)
{
    const Json& before = story().missesBefore;
    const Json misses = story().shut["misses"];
    for (const char* kind :
         {"unknown", "used", "half", "tagged", "malformed", "limited"})
    {
        EXPECT_GT(misses[kind].get<int>(), before[kind].get<int>())
            << kind << " " << misses.dump();
    }
    // How many are looked at and how many only counted depends on how fast they
    // come.
    EXPECT_GT(sumOf(misses), sumOf(before) + 1000) << misses.dump();
    EXPECT_THAT(story().journal,
                HasSubstr("frames with an address that is not allowed"));
    // As airlock-switchd(8) has it for rules on warnings.
    EXPECT_THAT(story().journal,
                HasSubstr("MESSAGE_ID=31cf13d28d7649e685e1997a109f99d7"));
}

TEST_F(Attacks, SecretsAreNowhereToBeRead)
{
    for (const char* place : {"disks", "variables", "TPM"})
    {
        EXPECT_EQ(outcome(std::string("read-") +
                          (place == std::string("TPM") ? "tpm" : place)),
                  "it worked");
        EXPECT_EQ(told(std::string("secrets in ") + place), "0");
        EXPECT_EQ(told(std::string("control in ") + place), "found");
    }
    EXPECT_THAT(outcome("read-anchor"), HasSubstr("cannot read index"));
    // The card tells the address that its maker gave it.
    EXPECT_THAT(told("card address"), testing::StartsWith("52:54:00:"));
}

TEST_F(Attacks, TheTpmStaysShut)
{
    EXPECT_THAT(told("unseal"), HasSubstr("another state"));
    EXPECT_THAT(told("authorizations"), HasSubstr("another state"));
    for (const char* attack : {"own-blob", "generation", "lower-anchor",
                               "new-anchor", "clear", "clear-platform"})
    {
        EXPECT_THAT(outcome(attack),
                    AnyOf(HasSubstr("auth"), HasSubstr("hierarchy")))
            << attack;
    }
}

TEST_F(Attacks, FirmwareAndLoaderAreCleanModesAgain)
{
    EXPECT_THAT(outcome("secure-boot"), HasSubstr("it worked"));
    EXPECT_THAT(told("secure boot"), Not(HasSubstr("it worked")));
    for (const char* attack : {"options", "boot-order", "clean-next", "loader"})
    {
        EXPECT_EQ(outcome(attack), "it worked");
    }
    const auto store =
        capsule::VariableStore::parse(story().variables, "variables");
    const machine::Guid global = machine::parseGuid(machine::globalVariables);
    const auto valueOf = [&](const std::string& name) {
        const auto found = store.find(name, global);
        return found ? found->data : Bytes();
    };
    const std::array<machine::Mode, 1> order = {machine::Mode::clean};
    EXPECT_EQ(valueOf("BootOrder"), machine::bootList(order));
    EXPECT_EQ(valueOf(machine::bootVariable(machine::Mode::clean)),
              machine::loadOption(machine::Mode::clean));
    EXPECT_THAT(valueOf("BootNext"), IsEmpty());
}

TEST_F(Attacks, RecordsOfDirtyModeDoNotCount)
{
    EXPECT_EQ(told("request"), "left");
    EXPECT_EQ(outcome("kept"), "it worked");
    EXPECT_THAT(story().cleanConsole,
                HasSubstr("A request to enrol does not count"));
    EXPECT_THAT(story().cleanConsole, HasSubstr("put back an older one"));
    EXPECT_EQ(story().cleanPort["state"], "cut-off");
    EXPECT_EQ(story().cleanPort["opened"], 1);
    // With its own record it is on the network, with the next address.
    EXPECT_THAT(story().lastConsole,
                HasSubstr("The switch has opened the port"));
}

TEST_F(Attacks, CraftedStateIsPassedOnAndRefusedInProduction)
{
    EXPECT_EQ(outcome("result"), "it worked");
    EXPECT_EQ(story().status.state, JobState::done)
        << dumpJson(story().status.toJson());
    EXPECT_THAT(story().refusal,
                HasSubstr("vring.num: 0x100000 is not a power of two"));
    EXPECT_TRUE(story().trapped);
    EXPECT_EQ(story().control, ""); // it is that value
}

} // namespace
} // namespace airlock::test
