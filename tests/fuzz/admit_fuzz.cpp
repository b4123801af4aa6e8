#include "common/file.hpp"
#include "devmodel/handover/admit.hpp"
#include "tests/unit/recorded_guest.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>

/** The admission, on states that nearly are those of a real guest.
 *
 * The input is a list of changes to the sections that the reducer kept, and to
 * the words of memory that the admission reads. Whatever they are, the state
 * is refused, or what comes out is admitted again and stays as it is; and it
 * has none of what must never be loaded.
 */
namespace
{

using namespace airlock;
using namespace airlock::handover;

void require(bool holds)
{
    if (!holds)
    {
        std::abort();
    }
}

/** A recorded guest with some of its virtio devices; the more, the slower. */
struct Subject
{
    Subject(const std::string& name, unsigned vcpus, const std::string& device)
        : guest(name, ram, vcpus)
    {
        if (device != "all")
        {
            guest.keepOnly(device);
        }
        reference = std::make_unique<Reference>(guest.reference);
        for (const Section& section : guest.candidate)
        {
            interesting.push_back(test::worthChanging(section.payload));
        }
    }

    static constexpr std::uint64_t ram = 512ULL << 20;
    test::Guest guest;
    std::unique_ptr<Reference> reference;
    std::vector<std::vector<std::size_t>> interesting; ///< in each section
};

const Subject& subjectFor(std::uint8_t choice)
{
    static const std::array<std::string, 8> devices{
        "none",       "none",           "none",       "virtio-blk",
        "virtio-net", "virtio-console", "virtio-rng", "all"};
    static std::array<std::unique_ptr<Subject>, 16> known;
    auto& subject = known[choice % known.size()];
    if (!subject)
    {
        const unsigned vcpus = 1 + (choice >> 3 & 1);
        subject =
            std::make_unique<Subject>("guest-" + std::to_string(vcpus) + "cpu",
                                      vcpus, devices[choice % devices.size()]);
    }
    return *subject;
}

/** The input, read until it is used up. */
class Changes
{
  public:
    explicit Changes(ByteView input) : input_(input) {}

    bool atEnd() const { return at_ >= input_.size(); }
    std::uint8_t byte() { return atEnd() ? std::uint8_t{0} : input_[at_++]; }
    std::uint64_t number(std::size_t size)
    {
        std::uint64_t value = 0;
        for (std::size_t i = 0; i < size; ++i)
        {
            value = value << 8 | byte();
        }
        return value;
    }

  private:
    ByteView input_;
    std::size_t at_ = 0;
};

std::size_t position(Changes& changes, ByteView payload,
                     const std::vector<std::size_t>& from)
{
    const std::uint64_t word = changes.number(2);
    if (word % 4 == 3)
    {
        return changes.number(2) % payload.size();
    }
    const std::size_t anchor = from[changes.byte() % from.size()];
    return (anchor + word / 4 % 1024) % payload.size();
}

void changeBytes(Changes& changes, Bytes& payload,
                 const std::vector<std::size_t>& interesting)
{
    const std::size_t at = position(changes, payload, interesting);
    const auto here = payload.begin() + static_cast<std::ptrdiff_t>(at);
    const std::uint8_t how = changes.byte();
    const auto left = static_cast<std::ptrdiff_t>(payload.size() - at);
    switch (how % 8)
    {
    case 0:
        *here ^= static_cast<std::uint8_t>(1U << (how >> 5));
        break;
    case 1:
        payload.erase(here, here + std::min<std::ptrdiff_t>(left, how >> 3));
        break;
    case 2:
        payload.insert(here, how >> 3, changes.byte());
        break;
    default:
        for (std::size_t i = 0; i < 1U << (how >> 3 & 3); ++i)
        {
            payload[(at + i) % payload.size()] = changes.byte();
        }
    }
}

/** The low bits of one of the recorded indices. */
void changeMemory(Changes& changes, test::RecordedMemory& memory,
                  const Subject& subject)
{
    const auto words = subject.guest.memory.addresses();
    if (!words.empty())
    {
        memory.write16(words[changes.byte() % words.size()], changes.number(2));
    }
}

void change(Changes& changes, std::vector<Section>& state,
            test::RecordedMemory& memory, const Subject& subject)
{
    const std::uint8_t what = changes.byte();
    const std::size_t index = what % state.size();
    Section& section = state[index];
    switch (what >> 5)
    {
    case 0:
        changeMemory(changes, memory, subject);
        break;
    case 1:
        std::swap(section.payload,
                  state[changes.byte() % state.size()].payload);
        break;
    default:
        if (!section.payload.empty())
        {
            changeBytes(changes, section.payload, subject.interesting[index]);
        }
    }
}

/** What no rule may ever let through, said without the rules. */
void requireHarmless(const Section& section, const Environment& env)
{
    const Record record = parseSection(section);
    if (section.id.idstr == "cpu")
    {
        constexpr std::uint64_t smmOrGuestOrSvm = 0x380000;
        require(record.number("env.smbase") == 0x30000);
        require((record.number("env.hflags") & smmOrGuestOrSvm) == 0);
        require(record.number("env.vm_vmcb") == 0);
    }
    if (!record.has("vq"))
    {
        return;
    }
    const Rows& queues = record.rows("vq");
    for (std::size_t i = 0; i < queues.size(); ++i)
    {
        const std::uint64_t num = queues.at(i, "vring.num");
        require(num != 0 && num <= 1024);
        require(queues.at(i, "vring.desc") + 16 * num <= env.ramLow);
    }
    const Bytes& table = record.bytes("msix_table");
    for (std::size_t at = 0; at + 16 <= table.size(); at += 16)
    {
        const std::array<std::uint8_t, 8> high{0, 0, 0, 0};
        require(table[at + 3] == 0xfe || table[at + 3] == 0);
        require(std::equal(high.begin(), high.begin() + 4,
                           table.begin() + static_cast<long>(at) + 4));
    }
}

void requireSame(const std::vector<Section>& a, const std::vector<Section>& b)
{
    require(a.size() == b.size());
    for (std::size_t i = 0; i < a.size(); ++i)
    {
        require(a[i].id == b[i].id && a[i].payload == b[i].payload);
    }
}

void check(const std::vector<Section>& state, const Subject& subject,
           const Environment& env)
{
    std::vector<Section> admitted;
    try
    {
        admitted = admit(state, *subject.reference, env);
    }
    catch (const Refused&)
    {
        return;
    }
    for (const Section& section : admitted)
    {
        requireHarmless(section, env);
    }
    requireSame(admit(admitted, *subject.reference, env), admitted);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size)
{
    constexpr std::size_t mostChanges = 64;
    Changes changes({data, size});
    const Subject& subject = subjectFor(changes.byte());
    std::vector<Section> state = subject.guest.candidate;
    test::RecordedMemory memory = subject.guest.memory;
    for (std::size_t i = 0; i < mostChanges && !changes.atEnd(); ++i)
    {
        change(changes, state, memory, subject);
    }
    Environment env = subject.guest.env;
    env.read = [&](std::uint64_t address, std::span<std::uint8_t> out) {
        return memory.read(address, out);
    };
    check(state, subject, env);
    return 0;
}
