#include "hostagent/domain/domain_spec.hpp"

#include "common/error.hpp"
#include "common/json.hpp"
#include "hostagent/domain/rules.hpp"
#include "hostagent/domain/xml.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <map>

namespace airlock::host
{

using xml::attribute;
using xml::refuse;

namespace
{

/** CPUID bits that QEMU sets for every guest, and for every guest with several
 * vCPUs, whatever its model; libvirt lists them for running domains. */
bool isImpliedFeature(const pugi::xml_node& node)
{
    return node.name() == std::string_view("feature") &&
           node.attribute("policy").value() == std::string_view("require") &&
           xml::isOneOf(node.attribute("name").value(), {"hypervisor", "ht"});
}

constexpr unsigned maxSeconds = 24 * 3600;
constexpr std::size_t maxPolicy = 512;

void require(const pugi::xml_node& node, const char* name,
             std::string_view wanted)
{
    if (attribute(node, name) != wanted)
    {
        refuse(node, fmt::format("{} has to be '{}', it is {}", name, wanted,
                                 printable(attribute(node, name))));
    }
}

/** Slot of a device of ours: on the root bus, function 0. */
unsigned slotOf(const pugi::xml_node& device)
{
    pugi::xml_node address = device.child("address");
    if (attribute(address, "type") != "pci")
    {
        refuse(device, "has no PCI address; run airlockctl adopt");
    }
    for (const char* part : {"domain", "bus", "function"})
    {
        std::string value = attribute(address, part);
        if (!value.empty() && xml::number(value, 0) != 0U)
        {
            refuse(address, fmt::format("{} has to be 0", part));
        }
    }
    std::optional<std::uint64_t> slot =
        xml::number(attribute(address, "slot"), 31);
    if (!slot)
    {
        refuse(address, "has no valid slot");
    }
    return static_cast<unsigned>(*slot);
}

void requireSlot(const pugi::xml_node& device, unsigned wanted)
{
    unsigned slot = slotOf(device);
    if (slot != wanted)
    {
        refuse(device, fmt::format("is in PCI slot {:#04x}, on the boot "
                                   "machine it is in {:#04x}",
                                   slot, wanted));
    }
}

std::string aliasOf(const pugi::xml_node& device)
{
    return attribute(device.child("alias"), "name");
}

/** Reads one domain; each function takes one part of it. */
class Reader
{
  public:
    explicit Reader(const pugi::xml_node& domain) : domain_(domain) {}

    DomainSpec read()
    {
        identity();
        machine();
        cpu();
        memory();
        for (const pugi::xml_node& device : domain_.child("devices").children())
        {
            readDevice(device);
        }
        bySlot(disks_, spec_.disks, vm::firstDiskSlot, vm::maxDisks);
        bySlot(nics_, spec_.nics, vm::firstNicSlot, vm::maxNics);
        devicesTogether();
        settings();
        validate();
        return spec_;
    }

  private:
    void identity()
    {
        spec_.name = xml::childText(domain_, "name");
        spec_.uuid = xml::childText(domain_, "uuid");
        std::string type = attribute(domain_, "type");
        if (type != "kvm" && type != "qemu")
        {
            refuse(domain_,
                   "type has to be 'kvm' or 'qemu', it is " + printable(type));
        }
        spec_.accelerator =
            type == "kvm" ? vm::Accelerator::kvm : vm::Accelerator::tcg;
        for (const pugi::xml_node& node : domain_.children())
        {
            if (std::string_view(node.name()).starts_with("qemu:"))
            {
                refuse(node, "options beside libvirt's can change the machine");
            }
        }
    }

    void machine()
    {
        pugi::xml_node os = domain_.child("os");
        pugi::xml_node type = os.child("type");
        require(type, "arch", "x86_64");
        require(type, "machine", productionMachine);
        for (const char* name : {"loader", "nvram", "kernel", "initrd"})
        {
            if (pugi::xml_node node = os.child(name))
            {
                refuse(node, "the production machine has no firmware and loads "
                             "no kernel");
            }
        }
        pugi::xml_node features = domain_.child("features");
        for (const pugi::xml_node& node : features.children())
        {
            if (!xml::isOneOf(node.name(), {"acpi", "apic"}))
            {
                refuse(node, "the machine has ACPI and APIC and nothing else");
            }
        }
        std::string reboot = xml::childText(domain_, "on_reboot");
        if (!reboot.empty() && reboot != "restart")
        {
            refuse(domain_.child("on_reboot"), "has to be 'restart'");
        }
    }

    void cpu()
    {
        std::optional<std::uint64_t> count =
            xml::number(xml::childText(domain_, "vcpu"), vm::maxVcpus);
        if (!count || *count == 0)
        {
            refuse(domain_.child("vcpu"),
                   fmt::format("has to be 1 to {}", vm::maxVcpus));
        }
        spec_.vcpus = static_cast<unsigned>(*count);
        pugi::xml_node node = domain_.child("cpu");
        require(node, "mode", "custom");
        spec_.cpuModel = xml::childText(node, "model");
        pugi::xml_node topology = node.child("topology");
        require(topology, "sockets", "1");
        require(topology, "cores", std::to_string(spec_.vcpus));
        require(topology, "threads", "1");
        for (const pugi::xml_node& child : node.children())
        {
            if (!xml::isOneOf(child.name(), {"model", "topology"}) &&
                !isImpliedFeature(child))
            {
                refuse(child, "the guest gets the named CPU model and nothing "
                              "else");
            }
        }
    }

    void memory()
    {
        spec_.memory = xml::memoryBytes(domain_.child("memory"));
        if (pugi::xml_node current = domain_.child("currentMemory"))
        {
            if (xml::memoryBytes(current) != spec_.memory)
            {
                refuse(current, "is not the whole memory, and there is no "
                                "balloon to take the rest");
            }
        }
        pugi::xml_node backing = domain_.child("memoryBacking");
        require(backing.child("source"), "type", "file");
        require(backing.child("access"), "mode", "shared");
        for (const char* name : {"hugepages", "discard"})
        {
            if (pugi::xml_node node = backing.child(name))
            {
                refuse(node, "guest memory is a file of ordinary pages");
            }
        }
    }

    void readDevice(const pugi::xml_node& device)
    {
        using Handler = void (Reader::*)(const pugi::xml_node&);
        static const std::map<std::string_view, Handler> handlers = {
            {"emulator", &Reader::emulator},
            {"disk", &Reader::disk},
            {"interface", &Reader::nic},
            {"controller", &Reader::controller},
            {"console", &Reader::console},
            {"channel", &Reader::channel},
            {"rng", &Reader::rng},
            {"memballoon", &Reader::absent},
            {"audio", &Reader::audio},
            {"input", &Reader::input},
        };
        auto found = handlers.find(device.name());
        if (found == handlers.end())
        {
            refuse(device, "the production machine has no such device");
        }
        (this->*found->second)(device);
    }

    void emulator(const pugi::xml_node& node)
    {
        spec_.emulator = xml::text(node);
    }

    /** Refuses what the guest would see on this machine only. */
    template <typename Elements>
    static void requirePlain(const pugi::xml_node& device,
                             const Elements& elements)
    {
        pugi::xml_node driver = device.child("driver");
        for (const pugi::xml_attribute& option : driver.attributes())
        {
            if (rules::contains(rules::driverAttributes, option.name()))
            {
                refuse(driver, fmt::format("{} would show in the guest",
                                           option.name()));
            }
        }
        for (const pugi::xml_node& node : device.children())
        {
            if (rules::contains(elements, node.name()))
            {
                refuse(node, "would show in the guest, on this machine only");
            }
        }
    }

    void disk(const pugi::xml_node& node)
    {
        requirePlain(node, rules::diskElements);
        if (rules::contains(rules::diskCaches,
                            attribute(node.child("driver"), "cache")))
        {
            refuse(node.child("driver"),
                   "this cache mode would show in the guest");
        }
        std::string device = attribute(node, "device");
        if (!device.empty() && device != "disk")
        {
            refuse(node, "device has to be 'disk'");
        }
        require(node.child("target"), "bus", "virtio");
        DomainDisk disk;
        disk.target = attribute(node.child("target"), "dev");
        disk.type = attribute(node, "type");
        pugi::xml_node source = node.child("source");
        for (const char* name : {"file", "dev", "name", "volume"})
        {
            if (disk.source.empty())
            {
                disk.source = attribute(source, name);
            }
        }
        disk.format = attribute(node.child("driver"), "type");
        if (disk.format != "raw" && disk.format != "qcow2")
        {
            refuse(node, "its format has to be said: raw or qcow2");
        }
        disk.readOnly = static_cast<bool>(node.child("readonly"));
        disk.alias = aliasOf(node);
        add(disks_, node, std::move(disk));
    }

    void nic(const pugi::xml_node& node)
    {
        requirePlain(node, rules::nicElements);
        require(node.child("model"), "type", "virtio");
        pugi::xml_node driver = node.child("driver");
        require(driver, "name", "qemu");
        if (driver.first_child())
        {
            refuse(driver, "offloads are as QEMU makes them");
        }
        DomainNic nic;
        nic.mac = attribute(node.child("mac"), "address");
        nic.type = attribute(node, "type");
        if (!rules::contains(rules::nicTypes, nic.type))
        {
            refuse(node, "type " + printable(nic.type) +
                             " is no card of QEMU on a host's network");
        }
        nic.alias = aliasOf(node);
        add(nics_, node, std::move(nic));
    }

    void controller(const pugi::xml_node& node)
    {
        std::string type = attribute(node, "type");
        std::string model = attribute(node, "model");
        if (type == "virtio-serial")
        {
            requireSlot(node, vm::consoleSlot);
            serialPorts_ = attribute(node, "ports");
        }
        else if (!(type == "pci" && model == "pcie-root") &&
                 !(type == "usb" && model == "none"))
        {
            refuse(node, "the production machine has no such controller");
        }
    }

    void serialPort(const pugi::xml_node& node, unsigned wanted)
    {
        std::string port = attribute(node.child("address"), "port");
        if (port.empty())
        {
            port = attribute(node.child("target"), "port");
        }
        if (xml::number(port, 30) != wanted)
        {
            refuse(node,
                   fmt::format("has to be virtio-serial port {}", wanted));
        }
    }

    void console(const pugi::xml_node& node)
    {
        if (spec_.console)
        {
            refuse(node, "there can be only one");
        }
        require(node.child("target"), "type", "virtio");
        serialPort(node, consolePort);
        spec_.console = true;
        spec_.consoleAlias = aliasOf(node);
    }

    void channel(const pugi::xml_node& node)
    {
        if (spec_.agent)
        {
            refuse(node, "there can be only one");
        }
        require(node.child("target"), "type", "virtio");
        require(node.child("target"), "name", agentChannelName);
        serialPort(node, agentPort);
        spec_.agent = true;
        spec_.agentAlias = aliasOf(node);
    }

    void rng(const pugi::xml_node& node)
    {
        if (spec_.rng)
        {
            refuse(node, "there can be only one");
        }
        require(node, "model", "virtio");
        requireSlot(node, vm::rngSlot);
        spec_.rng = true;
    }

    void absent(const pugi::xml_node& node) { require(node, "model", "none"); }

    /** libvirt adds it by itself: no device, only a place for sound to go. */
    /** libvirt lists these for every x86 guest and gives QEMU nothing for
     * them. */
    void input(const pugi::xml_node& node) { require(node, "bus", "ps2"); }

    void audio(const pugi::xml_node& node) { require(node, "type", "none"); }

    template <typename Device>
    void add(std::map<unsigned, Device>& devices, const pugi::xml_node& node,
             Device device)
    {
        if (!devices.emplace(slotOf(node), std::move(device)).second)
        {
            refuse(node, "another device has the same PCI address");
        }
    }

    /** The boot machine counts devices up from the first slot. */
    template <typename Device>
    void bySlot(std::map<unsigned, Device>& devices, std::vector<Device>& out,
                unsigned first, std::size_t max)
    {
        for (auto& [slot, device] : devices)
        {
            if (slot != first + out.size() || out.size() == max)
            {
                throw Refused("devices",
                              fmt::format("PCI slot {:#04x} is taken where "
                                          "{:#04x} would come next (at most "
                                          "{} from {:#04x}); run airlockctl "
                                          "adopt",
                                          slot, first + out.size(), max,
                                          first));
            }
            out.push_back(std::move(device));
        }
    }

    void devicesTogether()
    {
        if (spec_.disks.empty())
        {
            throw Refused("devices", "there is no disk to boot from");
        }
        if (spec_.agent && !spec_.console)
        {
            throw Refused("devices", "a guest agent's channel needs the "
                                     "console beside it, as port 0");
        }
        std::string ports = spec_.agent ? "2" : "1";
        if (spec_.console && serialPorts_ != ports)
        {
            throw Refused("devices/controller",
                          fmt::format("the virtio-serial controller has to "
                                      "have ports='{}'",
                                      ports));
        }
        if (!spec_.console && !serialPorts_.empty())
        {
            throw Refused("devices/controller",
                          "there is a virtio-serial controller without a "
                          "console");
        }
    }

    void settings()
    {
        pugi::xml_node metadata = xml::airlockMetadata(domain_);
        DomainSettings& out = spec_.settings;
        if (pugi::xml_node node = xml::airlockChild(metadata, "booted"))
        {
            out.booted = attribute(node, "policy");
            checkBootedPolicy(*out.booted);
        }
        if (pugi::xml_node node = xml::airlockChild(metadata, "limit"))
        {
            auto seconds = xml::number(attribute(node, "seconds"), maxSeconds);
            if (!seconds || *seconds == 0)
            {
                refuse(node,
                       fmt::format("seconds has to be 1 to {}", maxSeconds));
            }
            out.limit = std::chrono::seconds(*seconds);
        }
        out.tenant = attribute(xml::airlockChild(metadata, "tenant"), "name");
        if (out.tenant.size() > 64)
        {
            throw Refused("metadata: tenant", "is longer than 64 bytes");
        }
        for (const pugi::xml_node& node : metadata.children())
        {
            if (xml::localName(node) == "server")
            {
                server(node);
            }
        }
    }

    void server(const pugi::xml_node& node)
    {
        std::string weight = attribute(node, "weight");
        auto value = xml::number(weight.empty() ? "1" : weight, 1000);
        std::string name = attribute(node, "name");
        if (!value || name.empty() || name.size() > 255)
        {
            refuse(node, "needs a name and a weight of 0 to 1000");
        }
        spec_.settings.servers.push_back(
            {std::move(name), static_cast<unsigned>(*value)});
    }

    void validate() const
    {
        if (spec_.uuid.empty())
        {
            refuse(domain_, "has no <uuid>");
        }
        try
        {
            vm::validate(spec_.guest());
        }
        catch (const Refused&)
        {
            throw;
        }
        catch (const Error& e)
        {
            throw Refused("domain", e.what());
        }
    }

    pugi::xml_node domain_;
    DomainSpec spec_;
    std::map<unsigned, DomainDisk> disks_;
    std::map<unsigned, DomainNic> nics_;
    std::string serialPorts_;
};

} // namespace

vm::GuestSpec DomainSpec::guest() const
{
    vm::GuestSpec out;
    out.name = name;
    out.uuid = uuid;
    out.vcpus = vcpus;
    out.memory = memory;
    out.cpuModel = cpuModel;
    out.accelerator = accelerator;
    for (const DomainDisk& disk : disks)
    {
        out.disks.push_back({disk.source, disk.readOnly});
    }
    for (const DomainNic& nic : nics)
    {
        out.nics.push_back({nic.mac});
    }
    out.console = console;
    out.agent = agent;
    out.rng = rng;
    return out;
}

bool isAirlockDomain(std::string_view xml)
{
    pugi::xml_document document = xml::parseDomainDocument(xml);
    return attribute(document.document_element().child("os").child("type"),
                     "machine")
        .starts_with("airlock-");
}

std::string domainName(std::string_view xml)
{
    pugi::xml_document document = xml::parseDomainDocument(xml);
    std::string quoted =
        printable(xml::childText(document.document_element(), "name"));
    return quoted.substr(1, quoted.size() - 2);
}

DomainSpec parseDomain(std::string_view xml)
{
    pugi::xml_document document = xml::parseDomainDocument(xml);
    return Reader(document.document_element()).read();
}

std::set<std::string> nicsWithoutLink(std::string_view xml)
{
    pugi::xml_document document = xml::parseDomainDocument(xml);
    std::set<std::string> out;
    for (const pugi::xml_node& node :
         document.document_element().child("devices").children("interface"))
    {
        if (attribute(node.child("link"), "state") == "down")
        {
            out.insert(aliasOf(node));
        }
    }
    return out;
}

void checkBootedPolicy(std::string_view policy)
{
    auto refusePolicy = [&](std::string_view why) {
        throw Refused("metadata: booted",
                      fmt::format("policy {} {}", printable(policy), why));
    };
    if (policy.size() > maxPolicy)
    {
        refusePolicy("is too long");
    }
    if (policy == "auto" || policy == "guest-agent" || policy == "shell")
    {
        return;
    }
    std::size_t colon = policy.find(':');
    std::string_view kind = policy.substr(0, colon);
    std::string_view value =
        colon == std::string_view::npos ? "" : policy.substr(colon + 1);
    if (kind == "idle" || kind == "after")
    {
        if (xml::number(value, maxSeconds).value_or(0) == 0)
        {
            refusePolicy("needs a number of seconds");
        }
    }
    else if (kind != "serial" || value.empty())
    {
        refusePolicy("is none of auto, guest-agent, shell, serial:REGEX, "
                     "idle:SECONDS, after:SECONDS");
    }
}

} // namespace airlock::host
