#include "common/json.hpp"
#include "hostagent/adopt/rewrite.hpp"
#include "hostagent/domain/domain_spec.hpp"

#include <fmt/format.h>

/** All of a domain but its devices. */
namespace airlock::host::adoption
{

namespace
{

const std::vector<Rule> domainRules = {
    {"name", Fate::keep, ""},
    {"uuid", Fate::keep, ""},
    {"title", Fate::keep, ""},
    {"description", Fate::keep, ""},
    {"metadata", Fate::keep, ""},
    {"memory", Fate::keep, ""},
    {"blkiotune", Fate::keep, ""},
    {"memtune", Fate::keep, ""},
    {"resource", Fate::keep, ""},
    {"seclabel", Fate::keep, ""},
    {"perf", Fate::keep, ""},
    {"on_poweroff", Fate::keep, ""},
    {"on_crash", Fate::keep, ""},
    {"on_lockfailure", Fate::keep, ""},
    {"throttlegroups", Fate::keep, ""},
    {"qemu:deprecation", Fate::keep, ""},
    {"genid", Fate::drop,
     "the machine has no device that tells a VM's generation"},
    {"maxMemory", Fate::drop, "no memory can be plugged in"},
    {"vcpus", Fate::drop, "no CPUs can be plugged in"},
    {"iothreads", Fate::drop, "disks are served by QEMU's main loop"},
    {"iothreadids", Fate::drop, "disks are served by QEMU's main loop"},
    {"defaultiothread", Fate::drop, ""},
    {"pm", Fate::drop, "the machine has no sleep states"},
    {"sysinfo", Fate::drop,
     "the guest finds no SMBIOS strings of the host's; cloud-init that looks "
     "for its cloud there needs a ds=... hint or a config drive"},
    {"launchSecurity", Fate::refuse,
     "encrypted guest memory cannot be booted elsewhere and handed over",
     "run this guest without Airlock, or remove <launchSecurity>"},
    {"bootloader", Fate::refuse, "is no part of a QEMU domain",
     "remove <bootloader>"},
    {"qemu:commandline", Fate::refuse,
     "arguments for QEMU can add any device to the machine",
     "say it in libvirt's own XML, or remove <qemu:commandline>"},
    {"qemu:override", Fate::refuse,
     "device properties would differ from those of the boot machine",
     "remove <qemu:override>"},
    {"qemu:capabilities", Fate::refuse,
     "libvirt has to know what the production QEMU can do",
     "remove <qemu:capabilities>"},
};

const std::vector<Rule> osRules = {
    {"type", Fate::keep, ""},
    {"bootmenu", Fate::drop, ""},
    {"bios", Fate::drop, "the boot machine's BIOS has its own settings"},
    {"smbios", Fate::drop, "the boot machine has its own SMBIOS tables"},
    {"acpi", Fate::drop, "the boot machine has its own ACPI tables"},
    {"loader", Fate::refuse, "the guest boots by UEFI or a firmware of its own",
     "if its disk also boots by BIOS, as Debian's cloud images do, remove "
     "<loader> and <nvram> and the firmware attribute; else keep it as it is"},
    {"nvram", Fate::refuse,
     "firmware variables would be lost: boots are by "
     "BIOS",
     "remove <nvram> when the guest boots without it"},
    {"firmware", Fate::refuse, "the guest boots by UEFI",
     "remove <firmware> when the guest boots by BIOS"},
    {"kernel", Fate::refuse, "the host gives the guest its kernel",
     "install a boot loader in the guest and remove <kernel>, <initrd> and "
     "<cmdline>"},
    {"initrd", Fate::refuse, "the host gives the guest its initrd",
     "see <kernel>"},
    {"cmdline", Fate::refuse, "the host gives the guest its kernel's arguments",
     "see <kernel>"},
    {"dtb", Fate::refuse, "is not for x86", "remove <dtb>"},
};

const std::vector<Rule> backingRules = {
    {"locked", Fate::keep, ""},
    {"allocation", Fate::keep, ""},
    {"hugepages", Fate::drop,
     "guest memory is a file of ordinary shared memory; take the huge pages "
     "back from the host's reservation"},
    {"nosharepages", Fate::drop, ""},
    {"discard", Fate::drop, ""},
};

/** "a, b and c" */
std::string listOf(const std::vector<std::string>& words)
{
    std::string out;
    for (std::size_t i = 0; i < words.size(); i++)
    {
        out += i == 0 ? "" : i + 1 == words.size() ? " and " : ", ";
        out += words[i];
    }
    return out;
}

/** Removes the children that `keep` does not name; returns their names. */
std::vector<std::string> keepOnly(pugi::xml_node parent,
                                  std::initializer_list<const char*> keep)
{
    std::vector<std::string> dropped;
    pugi::xml_node next;
    for (pugi::xml_node node = parent.first_child(); node; node = next)
    {
        next = node.next_sibling();
        if (node.type() == pugi::node_element &&
            !xml::isOneOf(node.name(), keep))
        {
            std::string name = node.name();
            if (name == "feature")
            {
                name += " " + xml::attribute(node, "name");
            }
            dropped.push_back(std::move(name));
            parent.remove_child(node);
        }
    }
    return dropped;
}

void adoptOs(Rewrite& rewrite)
{
    pugi::xml_node os = rewrite.domain().child("os");
    pugi::xml_node type = os.child("type");
    std::string arch = xml::attribute(type, "arch");
    if (xml::text(type) != "hvm" || (!arch.empty() && arch != "x86_64"))
    {
        rewrite.refuse(os,
                       fmt::format("the guest is for {} {}", printable(arch),
                                   printable(xml::text(type))),
                       "Airlock has x86_64 hvm guests only");
        return;
    }
    setAttribute(type, "arch", "x86_64");
    std::string machine = xml::attribute(type, "machine");
    if (setAttribute(type, "machine", productionMachine))
    {
        rewrite.note(
            type, fmt::format("machine {} becomes {}",
                              machine.empty() ? "of the default type" : machine,
                              productionMachine));
    }
    if (xml::attribute(os, "firmware") == "efi")
    {
        rewrite.refuse(os, "the guest boots by UEFI",
                       "if its disk also boots by BIOS, as Debian's cloud "
                       "images do, remove firmware='efi', <loader> and "
                       "<nvram>; else keep it as it is");
    }
    rewrite.dropAttribute(os, "firmware");
    for (pugi::xml_node boot : childrenOf(os, "boot"))
    {
        std::string device = xml::attribute(boot, "dev");
        if (device != "hd")
        {
            rewrite.drop(boot, "the guest boots from its first disk, never "
                               "from " +
                                   device);
        }
    }
    applyRules(rewrite, os, osRules, {"boot"});
}

void adoptMemory(Rewrite& rewrite)
{
    pugi::xml_node memory = rewrite.domain().child("memory");
    pugi::xml_node current = rewrite.domain().child("currentMemory");
    if (memory && current &&
        xml::memoryBytes(current) != xml::memoryBytes(memory))
    {
        rewrite.note(current, "is all of the memory now: there is no balloon "
                              "that takes some of it");
        current.parent().remove_child(current);
    }
    rewrite.dropAttribute(memory, "dumpCore");
    pugi::xml_node backing = ensureChild(rewrite.domain(), "memoryBacking",
                                         {"currentMemory", "memory"});
    applyRules(rewrite, backing, backingRules, {"source", "access"});
    bool changed = setAttribute(ensureChild(backing, "source"), "type", "file");
    changed |= setAttribute(ensureChild(backing, "access"), "mode", "shared");
    if (changed)
    {
        rewrite.note(backing, "guest memory becomes a shared file, into which "
                              "what a boot left is written");
    }
}

/** The CPU model that the guest gets; empty when it cannot be said. */
std::string chooseModel(Rewrite& rewrite, const pugi::xml_node& cpu)
{
    std::string mode = xml::attribute(cpu, "mode");
    std::string model = xml::childText(cpu, "model");
    if (rewrite.options().cpuModel)
    {
        return *rewrite.options().cpuModel;
    }
    if (!cpu || (mode.empty() && model.empty()))
    {
        return vm::GuestSpec{}.cpuModel;
    }
    if (!mode.empty() && mode != "custom")
    {
        rewrite.refuse(cpu,
                       fmt::format("{} is another CPU on each host, and "
                                   "the guest has to find the same one "
                                   "when it comes back from its boot",
                                   mode),
                       "name a model that all hosts have (--cpu Nehalem; "
                       "virsh cpu-models x86_64 lists them)");
        return "";
    }
    return model;
}

void adoptTopology(Rewrite& rewrite, pugi::xml_node cpu)
{
    std::string count = xml::childText(rewrite.domain(), "vcpu");
    pugi::xml_node topology = ensureChild(cpu, "topology", {"model"});
    bool changed = setAttribute(topology, "sockets", "1");
    changed |= setAttribute(topology, "cores", count);
    changed |= setAttribute(topology, "threads", "1");
    for (const char* part : {"dies", "clusters"})
    {
        if (topology.attribute(part))
        {
            changed |= setAttribute(topology, part, "1");
        }
    }
    if (changed)
    {
        rewrite.note(topology, "the guest's CPUs are the cores of one socket");
    }
}

void adoptCpu(Rewrite& rewrite)
{
    pugi::xml_node vcpu = ensureChild(
        rewrite.domain(), "vcpu", {"memoryBacking", "currentMemory", "memory"});
    if (xml::text(vcpu).empty())
    {
        setText(vcpu, "1");
    }
    if (rewrite.dropAttribute(vcpu, "current"))
    {
        rewrite.note(vcpu, "all CPUs are there from the start: none can be "
                           "plugged in");
    }
    std::string model = chooseModel(rewrite, rewrite.domain().child("cpu"));
    if (model.empty())
    {
        return;
    }
    pugi::xml_node cpu =
        ensureChild(rewrite.domain(), "cpu", {"features", "os"});
    std::string before = xml::childText(cpu, "model");
    if (before.empty())
    {
        before = xml::attribute(cpu, "mode");
    }
    bool changed = setAttribute(cpu, "mode", "custom");
    setAttribute(cpu, "match", "exact");
    setAttribute(cpu, "check", "none");
    rewrite.dropAttribute(cpu, "migratable");
    pugi::xml_node name = ensureChild(cpu, "model");
    changed |= setText(name, model);
    setAttribute(name, "fallback", "forbid");
    rewrite.dropAttribute(name, "vendor_id");
    if (changed)
    {
        rewrite.note(cpu,
                     fmt::format("the CPU is {} instead of {}", model,
                                 before.empty() ? "QEMU's default" : before));
    }
    std::vector<std::string> dropped = keepOnly(cpu, {"model", "topology"});
    if (!dropped.empty())
    {
        rewrite.note(cpu, "dropped: " + listOf(dropped) +
                              "; the guest gets the CPU model as it is");
    }
    adoptTopology(rewrite, cpu);
}

void adoptFeatures(Rewrite& rewrite)
{
    pugi::xml_node features = ensureChild(rewrite.domain(), "features", {"os"});
    ensureChild(features, "acpi");
    ensureChild(features, "apic");
    bool hyperv = static_cast<bool>(features.child("hyperv"));
    std::vector<std::string> dropped = keepOnly(features, {"acpi", "apic"});
    if (!dropped.empty())
    {
        rewrite.note(features, "dropped: " + listOf(dropped) +
                                   "; the machine has ACPI and APIC only" +
                                   (hyperv ? ", so Windows runs without its "
                                             "Hyper-V extensions"
                                           : ""));
    }
}

void adoptClock(Rewrite& rewrite)
{
    pugi::xml_node clock =
        ensureChild(rewrite.domain(), "clock", {"cpu", "features"});
    std::string offset = xml::attribute(clock, "offset");
    if (setAttribute(clock, "offset", "utc") && !offset.empty())
    {
        rewrite.note(clock,
                     "the clock is in UTC, not '" + offset + "'" +
                         (offset == "localtime"
                              ? ": a Windows guest needs RealTimeIsUniversal=1"
                              : ""));
    }
    for (const char* name : {"adjustment", "basis", "start", "timezone"})
    {
        rewrite.dropAttribute(clock, name);
    }
    if (!keepOnly(clock, {}).empty())
    {
        rewrite.note(clock, "timers dropped: the machine has the APIC's and "
                            "the ACPI PM timer, no RTC, PIT or HPET");
    }
}

void adoptTuning(Rewrite& rewrite)
{
    pugi::xml_node cputune = rewrite.domain().child("cputune");
    for (const char* name : {"iothreadpin", "iothreadsched"})
    {
        for (pugi::xml_node node : childrenOf(cputune, name))
        {
            rewrite.drop(node, "");
        }
    }
    for (pugi::xml_node node :
         childrenOf(rewrite.domain().child("numatune"), "memnode"))
    {
        rewrite.drop(node, "the guest sees one NUMA node");
    }
}

} // namespace

void adoptMachine(Rewrite& rewrite)
{
    pugi::xml_node domain = rewrite.domain();
    rewrite.dropAttribute(domain, "id");
    std::string type = xml::attribute(domain, "type");
    if (type != "kvm" && type != "qemu")
    {
        rewrite.refuse(domain, "type " + printable(type) + " is not QEMU's",
                       "Airlock has domains of type 'kvm' and 'qemu'");
    }
    applyRules(rewrite, domain, domainRules,
               {"currentMemory", "memoryBacking", "vcpu", "os", "features",
                "cpu", "clock", "on_reboot", "devices", "cputune", "numatune"});
    adoptOs(rewrite);
    adoptMemory(rewrite);
    adoptFeatures(rewrite);
    adoptCpu(rewrite);
    adoptClock(rewrite);
    adoptTuning(rewrite);
    pugi::xml_node reboot = domain.child("on_reboot");
    if (reboot && setText(reboot, "restart"))
    {
        rewrite.note(reboot, "becomes 'restart': reboots are what Airlock is "
                             "for");
    }
}

} // namespace airlock::host::adoption
