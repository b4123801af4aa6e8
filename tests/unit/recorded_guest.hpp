#pragma once

#include "devmodel/handover/admit.hpp"
#include "devmodel/handover/reduce.hpp"
#include "devmodel/handover/schema.hpp"
#include "devmodel/handover/stream.hpp"
#include "error_of.hpp"
#include "tests/unit/recordings.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

/** A real guest for the admission: a booted Debian, stopped. */
namespace airlock::test
{

/** The bytes of guest memory that admission looks at. */
class RecordedMemory
{
  public:
    /** Lines of "address bytes", both hexadecimal. */
    explicit RecordedMemory(const Bytes& text)
    {
        std::istringstream in(std::string(text.begin(), text.end()));
        std::string address;
        std::string bytes;
        while (in >> address >> bytes)
        {
            std::uint64_t at = std::stoull(address, nullptr, 16);
            for (std::size_t i = 0; i + 1 < bytes.size(); i += 2)
            {
                bytes_[at++] = static_cast<std::uint8_t>(
                    std::stoul(bytes.substr(i, 2), nullptr, 16));
            }
        }
    }

    bool read(std::uint64_t address, std::span<std::uint8_t> out) const
    {
        for (std::uint8_t& byte : out)
        {
            auto found = bytes_.find(address++);
            byte = found == bytes_.end() ? 0 : found->second;
        }
        return true;
    }
    /** Of every word that was recorded. */
    std::vector<std::uint64_t> addresses() const
    {
        std::vector<std::uint64_t> out;
        for (const auto& [address, byte] : bytes_)
        {
            if (address % 2 == 0)
            {
                out.push_back(address);
            }
        }
        return out;
    }
    /** Into a file that holds all of a guest's low memory. */
    void writeTo(int fd) const
    {
        for (const auto& [address, byte] : bytes_)
        {
            if (::pwrite(fd, &byte, 1, static_cast<off_t>(address)) != 1)
            {
                throwErrno("cannot write the guest's memory");
            }
        }
    }
    void write16(std::uint64_t address, std::uint64_t value)
    {
        bytes_[address] = static_cast<std::uint8_t>(value);
        bytes_[address + 1] = static_cast<std::uint8_t>(value >> 8);
    }
    std::uint64_t read16(std::uint64_t address) const
    {
        std::uint8_t bytes[2];
        read(address, bytes);
        return bytes[0] | static_cast<std::uint64_t>(bytes[1]) << 8;
    }

  private:
    std::map<std::uint64_t, std::uint8_t> bytes_;
};

/** The section whose name ends so: "cpu", "virtio-blk". */
inline handover::Section& findSection(std::vector<handover::Section>& sections,
                                      const std::string& name,
                                      std::uint32_t instance = 0)
{
    for (handover::Section& section : sections)
    {
        if (handover::vmstateName(section.id.idstr) == name &&
            section.id.instance == instance)
        {
            return section;
        }
    }
    throw std::logic_error("no section " + name);
}

/** Changes the values of a section. */
template <typename Change>
void changeSection(handover::Section& section, Change&& change)
{
    handover::Record record = handover::parseSection(section);
    change(record);
    section.payload = handover::serialise(record);
}

/** Where a payload starts and where its subsections do, behind their names:
 * what follows is worth changing, the middle of a thousand queues is not. */
inline std::vector<std::size_t> worthChanging(ByteView payload)
{
    std::vector<std::size_t> out{0};
    for (std::size_t at = 0; at + 2 < payload.size(); ++at)
    {
        const std::size_t length = payload[at + 1];
        if (payload[at] == 0x05 && length > 4 && payload[at + 2] >= 'a' &&
            payload[at + 2] <= 'z')
        {
            out.push_back(at + 2 + length);
        }
    }
    return out;
}

/** What the trapped production machine saved. */
inline const std::vector<handover::Section>&
recordedReference(const std::string& name)
{
    static std::map<std::string, std::vector<handover::Section>> known;
    auto [entry, isNew] = known.try_emplace(name);
    if (isNew)
    {
        entry->second =
            handover::parseProductionStream(loadStream(name + "-production"),
                                            handover::sectionSize)
                .sections;
    }
    return entry->second;
}

/** What the boot machine saved, without the devices that were dropped. */
inline const std::vector<handover::Section>&
recordedCandidate(const std::string& name)
{
    static std::map<std::string, std::vector<handover::Section>> known;
    auto [entry, isNew] = known.try_emplace(name);
    if (isNew)
    {
        entry->second =
            handover::reduce(
                handover::parseBootStream(loadStream(name + "-boot")).sections)
                .kept;
    }
    return entry->second;
}

/** A candidate, its reference and its memory; each test spoils one thing. */
class Guest
{
  public:
    explicit Guest(const std::string& name = "guest-2cpu",
                   std::uint64_t ram = 512ULL << 20, unsigned vcpus = 2)
        : memory(loadStream(name + "-memory")),
          env(handover::Environment::forMemory(ram))
    {
        reference = recordedReference(name);
        candidate = recordedCandidate(name);
        env.vcpus = vcpus;
        env.read = [this](std::uint64_t address, std::span<std::uint8_t> out) {
            return memory.read(address, out);
        };
    }
    Guest(const Guest&) = delete;
    Guest& operator=(const Guest&) = delete;

    static handover::Section& find(std::vector<handover::Section>& sections,
                                   const std::string& name,
                                   std::uint32_t instance = 0)
    {
        return findSection(sections, name, instance);
    }

    handover::Record state(const std::string& name, std::uint32_t instance = 0)
    {
        return handover::parseSection(find(candidate, name, instance));
    }

    template <typename Change>
    Guest& change(const std::string& name, Change&& change,
                  std::uint32_t instance = 0)
    {
        changeSection(find(candidate, name, instance),
                      std::forward<Change>(change));
        return *this;
    }

    /** The guest without its other virtio devices: faster. */
    void keepOnly(const std::string& device)
    {
        for (auto* sections : {&candidate, &reference})
        {
            std::erase_if(*sections, [&](const handover::Section& section) {
                const std::string name =
                    handover::vmstateName(section.id.idstr);
                return name.starts_with("virtio-") && name != device;
            });
        }
    }

    std::vector<handover::Section> admit() const
    {
        return handover::admit(candidate, reference, env);
    }
    handover::Record admitted(const std::string& name,
                              std::uint32_t instance = 0) const
    {
        auto sections = admit();
        return handover::parseSection(find(sections, name, instance));
    }
    /** Why it is refused; "" if it is not. */
    std::string refused() const
    {
        return errorOf([&] { admit(); });
    }

    std::vector<handover::Section> candidate;
    std::vector<handover::Section> reference;
    RecordedMemory memory;
    handover::Environment env;
};

/** Adds a subsection where the table has it, all zero, and returns it. */
inline handover::Record& addSubsection(handover::Record& owner,
                                       std::string_view name)
{
    const auto& known = owner.schema().subsections;
    auto rank = [&](std::string_view of) {
        return std::ranges::find(known, of, &handover::Subsection::name) -
               known.begin();
    };
    const Bytes zeros(64U << 10);
    ByteReader reader(zeros, "zeros");
    auto& subs = owner.subsections();
    auto at = std::ranges::find_if(subs, [&](const handover::Record& sub) {
        return rank(sub.schema().name) > rank(name);
    });
    const auto index = static_cast<std::size_t>(rank(name));
    return *subs.insert(at, handover::parse(reader, *known[index].schema));
}

} // namespace airlock::test
