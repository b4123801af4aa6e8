#include "devmodel/vm/guest_spec.hpp"

#include "common/error.hpp"
#include "common/json.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

namespace airlock::vm
{

bool isLabel(std::string_view text, std::size_t max)
{
    return !text.empty() && text.size() <= max &&
           std::ranges::all_of(text,
                               [](char c) { return c >= ' ' && c <= '~'; });
}

namespace
{

constexpr std::uint64_t mib = 1U << 20;
/** Below this no kernel of today starts; above, the address width of the
 * smallest CPU models ends (40 bits, less the PCI hole). */
constexpr std::uint64_t minMemory = 16 * mib;
constexpr std::uint64_t maxMemory = 512ULL << 30;

constexpr std::string_view letters =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
constexpr std::string_view digits = "0123456789";
constexpr std::string_view hexDigits = "0123456789abcdefABCDEF";

/** Whether text is not empty and made of these characters only; QEMU's option
 * syntax gives a meaning to the comma and '='. */
bool madeOf(std::string_view text, const std::string& allowed)
{
    return !text.empty() &&
           text.find_first_not_of(allowed) == std::string_view::npos;
}

/** Whether text looks like the pattern, in which 'x' is a hex digit. */
bool looksLike(std::string_view text, std::string_view pattern)
{
    return std::equal(text.begin(), text.end(), pattern.begin(), pattern.end(),
                      [](char c, char p) {
                          return p == 'x' ? hexDigits.find(c) !=
                                                std::string_view::npos
                                          : c == p;
                      });
}

[[noreturn]] void refuse(std::string_view what, const std::string& value,
                         std::string_view want)
{
    throw Error(fmt::format("guest: {} {} cannot be used, it has to be {}",
                            what, printable(value), want));
}

} // namespace

void validate(const GuestSpec& spec)
{
    std::string word = std::string(letters) + std::string(digits);
    if (!madeOf(spec.name, word + "-_.") || spec.name.size() > 64)
    {
        refuse("name", spec.name, "1 to 64 letters, digits, '-', '_' or '.'");
    }
    if (!spec.uuid.empty() &&
        !looksLike(spec.uuid, "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"))
    {
        refuse("UUID", spec.uuid, "as RFC 4122 writes it");
    }
    if (spec.vcpus == 0 || spec.vcpus > maxVcpus)
    {
        refuse("number of vCPUs", std::to_string(spec.vcpus),
               fmt::format("1 to {}", maxVcpus));
    }
    if (spec.memory < minMemory || spec.memory > maxMemory ||
        spec.memory % mib != 0)
    {
        refuse("memory", std::to_string(spec.memory),
               "whole MiB, 16 MiB to 512 GiB");
    }
    if (!madeOf(spec.cpuModel, word + "-_.") || spec.cpuModel == "host" ||
        spec.cpuModel == "max")
    {
        refuse("CPU model", spec.cpuModel,
               "a named model: the guest keeps it when it moves");
    }
    if (spec.disks.size() > maxDisks || spec.nics.size() > maxNics)
    {
        throw Error(fmt::format("guest: at most {} disks and {} NICs", maxDisks,
                                maxNics));
    }
    if (spec.agent && !spec.console)
    {
        throw Error("guest: the guest agent's port needs the console beside "
                    "it");
    }
    for (const Nic& nic : spec.nics)
    {
        if (!looksLike(nic.mac, "xx:xx:xx:xx:xx:xx"))
        {
            refuse("MAC address", nic.mac, "six hexadecimal pairs with ':'");
        }
    }
}

std::vector<std::string> deviceList(const GuestSpec& spec)
{
    std::vector<std::string> out;
    auto add = [&out](std::string_view type, std::size_t slot) {
        out.push_back(fmt::format("{}@00:{:02x}.0", type, slot));
    };
    if (spec.console)
    {
        add("virtio-serial-pci", consoleSlot);
    }
    if (spec.rng)
    {
        add("virtio-rng-pci", rngSlot);
    }
    for (std::size_t i = 0; i < spec.nics.size(); i++)
    {
        add("virtio-net-pci", firstNicSlot + i);
    }
    for (std::size_t i = 0; i < spec.disks.size(); i++)
    {
        add("virtio-blk-pci", firstDiskSlot + i);
    }
    return out;
}

std::string diskNode(std::size_t index)
{
    return "disk" + std::to_string(index);
}

std::string nicId(std::size_t index)
{
    return "net" + std::to_string(index);
}

} // namespace airlock::vm
