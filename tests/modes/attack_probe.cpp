// First process of a dirty image for tests: root of a machine that was taken
// over and has a network driver. It tries all at once what a job's disk tells
// it to (attack_kit.hpp), and leaves a result that was made to hurt.
#include "bootsrv/machine/collect.hpp"
#include "bootsrv/machine/init.hpp"
#include "bootsrv/machine/nic.hpp"
#include "bootsrv/machine/tpm_anchor.hpp"
#include "common/quarantine.hpp"
#include "devmodel/handover/image_stream.hpp"
#include "tests/modes/attack_kit.hpp"
#include "tests/modes/dirty_attacks.hpp"
#include "tests/switch/frames.hpp"
#include "trust/nv.hpp"
#include "trust/sealing.hpp"

#include <arpa/inet.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <thread>

using namespace airlock;
using probe::say;
using probe::tryAttack;
using test::AttackKit;

namespace
{

constexpr auto limit = std::chrono::minutes(45);
constexpr const char* label = "airlock-esp";

/** The job that staging holds, as root of dirty mode has it. */
class Job
{
  public:
    explicit Job(const std::filesystem::path& device)
        : staging_(device), key_(machine::readHeader(staging_).value()),
          request_(machine::stagedRequest(staging_, key_)),
          layout_(machine::Layout::of(request_, staging_.bytes())),
          in_(staging_, layout_.in, key_, machine::inArea),
          out_(staging_, layout_.out, key_, machine::outArea)
    {}

    AttackKit kit()
    {
        const std::uint64_t bytes = request_.disks.at(0).bytes;
        UniqueFd fd = createMemfd("disk", bytes);
        const handover::ImageFile file(fd.get(), bytes);
        handover::ImageStreamReader reader(
            bytes, [&file](const handover::ImageChunk& it) { file.write(it); });
        const auto head = machine::findRecord(in_, layout_.disks.at(0));
        machine::readRecord(in_, layout_.disks.at(0), head.value(),
                            [&reader](ByteView data) { reader.feed(data); });
        return AttackKit::parse(readFile(fd.get(), bytes, "disk"));
    }

    /** The right form, so that clean mode passes it on; memory and disk of
     * zeros, and a state that was made for production's QEMU. */
    void leaveResult(ByteView state)
    {
        machine::writeRecord(out_, layout_.state, state);
        empty(layout_.memory, request_.guest.memory);
        empty(layout_.deltas.at(0).value(), request_.disks.at(0).bytes);
        staging_.sync();
        const std::string report = machine::RunReport{"done", "", {}}.toText();
        machine::writeRecord(out_, layout_.result, asBytes(report));
        staging_.sync();
    }

    /** Waits until the test has written this order beside the job. */
    void wait(std::string_view order)
    {
        const UniqueFd fd =
            openFile(machine::findPartition(machine::stagingLabel, limit),
                     O_RDONLY | O_DIRECT);
        alignas(4096) static std::array<std::uint8_t, 4096> sector;
        do
        {
            std::this_thread::sleep_for(Milliseconds(100));
            readExactAt(fd.get(), sector,
                        staging_.bytes() - AttackKit::orderFromEnd);
        } while (!asText(sector).starts_with(order));
    }

  private:
    void empty(const machine::Slot& slot, std::uint64_t bytes)
    {
        const UniqueFd fd = createMemfd("empty", bytes);
        handover::FileImage image(fd.get(), bytes);
        machine::RecordWriter writer(out_, slot);
        handover::writeImageStream(
            image, [&writer](ByteView data) { writer.write(data); });
        writer.finish();
    }

    machine::DeviceBlocks staging_;
    Secret key_;
    boot::JobRequest request_;
    machine::Layout layout_;
    machine::CryptArea in_;
    machine::CryptArea out_;
};

// --- Reading ---------------------------------------------------------------

/** Looks for all secrets at once, in one piece after the other. */
class Search
{
  public:
    explicit Search(const AttackKit& kit) : kit_(kit) {}

    void look(ByteView data)
    {
        bytes_ += data.size();
        if (std::all_of(data.begin(), data.end(),
                        [](std::uint8_t it) { return it == 0; }))
        {
            return;
        }
        for (const auto& [name, secret] : kit_.secrets)
        {
            found_ += count(data, secret);
        }
    }

    /** For what shows that the search finds something. */
    static std::size_t count(ByteView data, ByteView needle)
    {
        std::size_t out = 0;
        const std::boyer_moore_horspool_searcher searcher(needle.begin(),
                                                          needle.end());
        for (auto at = data.begin();
             (at = std::search(at, data.end(), searcher)) != data.end(); ++at)
        {
            out++;
        }
        return out;
    }

    void tell(const std::string& where, std::size_t control) const
    {
        say("secrets in " + where, std::to_string(found_));
        say("control in " + where, control > 0 ? "found" : "not found");
        say("bytes of " + where, std::to_string(bytes_));
    }

  private:
    const AttackKit& kit_;
    std::uint64_t bytes_ = 0;
    std::size_t found_ = 0;
};

void readDisks(const AttackKit& kit)
{
    constexpr std::size_t piece = 4U << 20;
    constexpr std::size_t overlap = 64;
    Search search(kit);
    std::size_t control = 0;
    for (const auto& disk : std::filesystem::directory_iterator("/sys/block"))
    {
        const std::string name = disk.path().filename().string();
        if (!name.starts_with("vd"))
        {
            continue;
        }
        machine::DeviceBlocks blocks("/dev/" + name);
        for (std::uint64_t at = 0; at < blocks.bytes(); at += piece)
        {
            Bytes data(
                std::min<std::uint64_t>(piece + overlap, blocks.bytes() - at));
            blocks.read(data, at);
            search.look(data);
            control += Search::count(data, asBytes(AttackKit::bait));
        }
    }
    search.tell("disks", control);
}

void readVariables(const AttackKit& kit)
{
    Search search(kit);
    std::size_t control = 0;
    for (const auto& file :
         std::filesystem::directory_iterator("/sys/firmware/efi/efivars"))
    {
        UniqueFd fd = openFile(file.path(), O_RDONLY);
        const Bytes data = readToEnd(fd.get(), 1U << 20, file.path().string());
        search.look(data);
        // The site's certificate for images is in one of them.
        control += Search::count(data, asBytes("Airlock images"));
    }
    search.tell("variables", control);
}

void readTpm(const AttackKit& kit)
{
    const trust::Tpm tpm(probe::tpmDevice);
    const trust::Session session(tpm, trust::storageKey(tpm));
    Search search(kit);
    std::size_t control = 0;
    std::string anchor = "there is none";
    for (const TPM2_HANDLE index : tpm.handles(TPM2_NV_INDEX_FIRST))
    {
        Bytes data;
        const std::string outcome = probe::errorOf([&] {
            data = trust::readIndex(tpm, session, index,
                                    trust::indexSize(tpm, index));
        });
        if (index == machine::anchorIndex)
        {
            anchor = outcome;
        }
        search.look(data);
        // The certificate of the endorsement key is for everybody.
        control += Search::count(data, asBytes("swtpm"));
    }
    search.tell("TPM", control);
    say("attack read-anchor", anchor);
}

std::string permanentAddress(const std::string& nic)
{
    alignas(ethtool_perm_addr)
        std::array<std::uint8_t, sizeof(ethtool_perm_addr) + 32>
            ask{};
    auto* const head = reinterpret_cast<ethtool_perm_addr*>(ask.data());
    head->cmd = ETHTOOL_GPERMADDR;
    head->size = 32;
    ifreq request{};
    nic.copy(request.ifr_name, IFNAMSIZ - 1);
    request.ifr_data = reinterpret_cast<char*>(ask.data());
    const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    if (::ioctl(fd.get(), SIOCETHTOOL, &request) != 0)
    {
        throwErrno("the card does not tell its address");
    }
    return MacAddress::from(ByteView(ask).subspan(sizeof(ethtool_perm_addr)),
                            "card")
        .text();
}

// --- Changing the TPM ------------------------------------------------------

void clear(ESYS_TR hierarchy)
{
    const trust::Tpm tpm(probe::tpmDevice);
    trust::check(Esys_Clear(tpm.get(), hierarchy, ESYS_TR_PASSWORD,
                            ESYS_TR_NONE, ESYS_TR_NONE),
                 "cannot clear the TPM");
}

/** A blob with a root that the attacker knows, for the policy of clean mode. */
void ownBlob()
{
    const trust::Tpm tpm(probe::tpmDevice);
    const trust::PolicyKey key = trust::PolicyKey::fromPem(
        probe::textOf("/policy.pem") + "\n", "policy key");
    const trust::SealedBlob blob =
        trust::seal(tpm, key, machine::cleanRef, Secret(64));
    trust::pin(tpm, Secret(), blob);
}

void raiseGeneration()
{
    const trust::Tpm tpm(probe::tpmDevice);
    trust::raiseGeneration(tpm, Secret(), 1000);
}

/** So that an older record of what is kept would count. */
void lowerAnchor()
{
    const trust::Tpm tpm(probe::tpmDevice);
    const trust::Session session(tpm, trust::storageKey(tpm));
    trust::writeIndex(tpm, session, machine::anchorIndex, Bytes(8));
}

void newAnchor()
{
    const trust::Tpm tpm(probe::tpmDevice);
    machine::TpmAnchor::define(tpm, Secret(), Secret(Secret::keySize));
}

// --- Changing disks --------------------------------------------------------

/** What boot loaders look for, and a command line for them. */
void loaderFiles()
{
    const std::filesystem::path at = "/run/esp";
    std::filesystem::create_directories(at);
    const std::filesystem::path device =
        machine::findPartition(label, std::chrono::seconds(5));
    if (::mount(device.c_str(), at.c_str(), "vfat", 0, "iocharset=ascii") != 0)
    {
        throwErrno("cannot mount the partition with the images");
    }
    std::filesystem::create_directories(at / "loader" / "entries");
    writeFileAtomic(at / "loader" / "loader.conf",
                    std::string_view("default evil.conf\ntimeout 0\n"));
    writeFileAtomic(at / "loader" / "entries" / "evil.conf",
                    std::string_view("title evil\n"
                                     "efi /EFI/airlock/dirty.efi\n"
                                     "options rdinit=/evil\n"));
    ::sync();
    if (::umount(at.c_str()) != 0)
    {
        throwErrno("cannot unmount the partition with the images");
    }
}

void putBackKept(const AttackKit& kit)
{
    machine::DeviceBlocks kept(
        machine::findPartition(machine::keptLabel, std::chrono::seconds(5)));
    kept.write(kit.kept, 0);
    kept.sync();
}

// --- Sending ---------------------------------------------------------------

/** The card, with the address of the epoch that is over. */
class Wire
{
  public:
    explicit Wire(const MacAddress& address)
        : nic_(machine::findNic()),
          fd_(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0))
    {
        nic_.come(address);
        for (const Deadline deadline(std::chrono::seconds(20));
             !nic_.carrier() && !deadline.passed();)
        {
            std::this_thread::sleep_for(Milliseconds(20));
        }
        sockaddr_ll to{};
        to.sll_family = AF_PACKET;
        to.sll_ifindex = nic_.index();
        if (!fd_ || ::bind(fd_.get(), reinterpret_cast<const sockaddr*>(&to),
                           sizeof(to)) != 0)
        {
            throwErrno("cannot use the card");
        }
    }

    void send(ByteView frame)
    {
        while (::send(fd_.get(), frame.data(), frame.size(), 0) < 0)
        {
            if (errno != ENOBUFS && errno != EAGAIN)
            {
                throwErrno("cannot send a frame");
            }
            std::this_thread::sleep_for(Milliseconds(1));
        }
        sent_++;
    }

    std::uint64_t sent() const { return sent_; }

  private:
    machine::Nic nic_;
    UniqueFd fd_;
    std::uint64_t sent_ = 0;
};

/** What nearly opens the port. First, while the switch's agent still looks at
 * every frame. */
void sendHellos(Wire& wire, const AttackKit& kit)
{
    const auto hello = [&](const MacAddress& from, const MacAddress& to) {
        wire.send(quarantine::write({to, from, quarantine::Hello{}}));
    };
    MacAddress near = kit.lastGate;
    near.bytes[5] ^= 1U;
    for (const MacAddress& gate :
         {kit.lastGate, near, quarantine::agentAddress, test::everybody})
    {
        hello(kit.nextHost, gate);
        hello(kit.lastHost, gate);
    }
    Bytes broken =
        quarantine::write({kit.lastGate, kit.nextHost, quarantine::Hello{}});
    broken[18] = 0xee; // a type that there is not
    wire.send(broken);
    for (const std::uint16_t tag : std::array<std::uint16_t, 2>{0x8100, 0x88A8})
    {
        wire.send(test::taggedFrame(kit.lastGate, kit.nextHost, 1,
                                    quarantine::defaultEtherType, tag));
    }
}

void sendAll(Wire& wire, const AttackKit& kit, const char* text)
{
    for (const MacAddress& source : kit.sources)
    {
        wire.send(test::arpQuestion(source, text));
        wire.send(test::neighbourQuestion(source, text));
        for (const Bytes& frame : test::framesFrom(source, kit.unicast, text))
        {
            wire.send(frame);
        }
    }
}

void send(Job& job, const AttackKit& kit)
{
    Wire wire(kit.lastHost);
    sendHellos(wire, kit);
    sendAll(wire, kit, AttackKit::firstRound);
    say("first round", std::to_string(wire.sent()));
    job.wait("second");
    sendAll(wire, kit, AttackKit::secondRound);
    say("second round", std::to_string(wire.sent()));
    job.wait("third");
    sendAll(wire, kit, AttackKit::thirdRound);
    say("third round", std::to_string(wire.sent()));
    job.wait("go on");
}

void work(const std::filesystem::path& staging)
{
    Job job(staging);
    const AttackKit kit = job.kit();
    const auto& known = probe::dirtyAttacks();
    say("card", probe::errorOf([] {
            say("card address", permanentAddress(machine::findNic()));
        }));
    tryAttack("read-disks", [&] { readDisks(kit); });
    tryAttack("read-variables", [&] { readVariables(kit); });
    tryAttack("read-tpm", [&] { readTpm(kit); });
    tryAttack("unseal", known.at("unseal"));
    tryAttack("own-blob", ownBlob);
    tryAttack("generation", raiseGeneration);
    tryAttack("lower-anchor", lowerAnchor);
    tryAttack("new-anchor", newAnchor);
    tryAttack("clear", [] { clear(ESYS_TR_RH_LOCKOUT); });
    tryAttack("clear-platform", [] { clear(ESYS_TR_RH_PLATFORM); });
    tryAttack("send", [&] { send(job, kit); });
    for (const char* name :
         {"secure-boot", "options", "boot-order", "clean-next", "request"})
    {
        tryAttack(name, known.at(name));
    }
    tryAttack("loader", loaderFiles);
    tryAttack("kept", [&] { putBackKept(kit); });
    tryAttack("result", [&] { job.leaveResult(kit.state); });
}

} // namespace

int main()
{
    machine::dirtyInit(limit, work);
}
