#include "common/json.hpp"
#include "hostagent/adopt/rewrite.hpp"
#include "hostagent/domain/domain_spec.hpp"
#include "hostagent/domain/rules.hpp"

#include <fmt/format.h>

#include <algorithm>

/** Controllers and small devices; disks, NICs and serial lines have files of
 * their own. */
namespace airlock::host::adoption
{

namespace
{

constexpr std::string_view noPicture =
    "the machine shows no picture; use virsh console, or a remote desktop "
    "inside the guest";

const std::vector<Rule> deviceRules = {
    {"graphics", Fate::drop, noPicture},
    {"video", Fate::drop, "the machine has no graphics card"},
    {"sound", Fate::drop, "the machine has no sound card"},
    {"redirdev", Fate::drop, "the machine has no USB"},
    {"redirfilter", Fate::drop, ""},
    {"hub", Fate::drop, "the machine has no USB"},
    {"smartcard", Fate::drop, "the machine has no card reader"},
    {"parallel", Fate::drop, "the machine has no parallel port"},
    {"watchdog", Fate::drop,
     "the machine has no watchdog; watch the guest from outside"},
    {"panic", Fate::drop, "the machine has no panic notifier"},
    {"iommu", Fate::drop, "the machine has no IOMMU"},
    {"nvram", Fate::drop, "the machine has no NVRAM"},
    {"crypto", Fate::refuse, "the machine has no crypto device",
     "let the guest's services use the CPU's instructions, remove <crypto>"},
    {"hostdev", Fate::refuse,
     "a device of the host cannot follow the guest to its boot and back",
     "remove <hostdev>; use a virtio device, or keep this guest as it is"},
    {"tpm", Fate::refuse,
     "the machine has no TPM, and what the guest sealed to it would be lost",
     "take disk encryption and keys off the TPM in the guest, then remove "
     "<tpm>"},
    {"filesystem", Fate::refuse,
     "the machine has no shared folders (9p, virtiofs)",
     "use a network file system in the guest, remove <filesystem>"},
    {"shmem", Fate::refuse, "the machine has no memory shared with others",
     "remove <shmem>"},
    {"vsock", Fate::refuse, "the machine has no vsock device",
     "let services in the guest use the network, remove <vsock>"},
    {"memory", Fate::refuse, "no memory can be plugged in",
     "add its size to the domain's <memory>, remove <memory model=...>"},
    {"lease", Fate::refuse, "a lock manager's lease belongs to one host",
     "remove <lease>: QEMU locks the images of its disks"},
    {"pstore", Fate::refuse, "the machine has no pstore device",
     "remove <pstore>"},
};

bool rightController(const pugi::xml_node& node)
{
    std::string type = xml::attribute(node, "type");
    std::string model = xml::attribute(node, "model");
    return (type == "usb" && model == "none") ||
           (type == "pci" && model == "pcie-root") ||
           (type == "virtio-serial" && xml::attribute(node, "index") == "0");
}

pugi::xml_node findController(pugi::xml_node devices, std::string_view type)
{
    for (const pugi::xml_node& node : devices.children("controller"))
    {
        if (xml::attribute(node, "type") == type)
        {
            return node;
        }
    }
    return {};
}

pugi::xml_node ensureController(pugi::xml_node devices, const char* type,
                                const char* model)
{
    pugi::xml_node node = findController(devices, type);
    if (!node)
    {
        pugi::xml_node last;
        for (const pugi::xml_node& other : devices.children())
        {
            if (xml::isOneOf(other.name(), {"emulator", "disk", "controller"}))
            {
                last = other;
            }
        }
        node = devices.insert_child_after("controller", last);
        setAttribute(node, "type", type);
        setAttribute(node, "index", "0");
    }
    if (model != nullptr)
    {
        setAttribute(node, "model", model);
    }
    return node;
}

void adoptControllers(Rewrite& rewrite, pugi::xml_node devices)
{
    std::size_t bridges = 0;
    bool usb = false;
    for (pugi::xml_node node : childrenOf(devices, "controller"))
    {
        std::string type = xml::attribute(node, "type");
        if (rightController(node))
        {
            continue;
        }
        bridges += type == "pci";
        usb |= type == "usb";
        bool said = type == "pci" || type == "usb";
        rewrite.drop(node,
                     said ? "" : "the machine has no " + type + " controller");
    }
    if (bridges > 0)
    {
        rewrite.note("devices/controller",
                     fmt::format("dropped: PCI ports and bridges ({}); all "
                                 "devices are on the root bus",
                                 bridges));
    }
    if (usb)
    {
        rewrite.note("devices/controller", "dropped: the machine has no USB");
    }
    pugi::xml_node root = ensureController(devices, "pci", "pcie-root");
    root.remove_children();
    ensureController(devices, "usb", "none");
    pugi::xml_node serial = ensureController(devices, "virtio-serial", nullptr);
    rewrite.dropAttribute(serial, "vectors");
    rewrite.dropAttribute(serial, "model");
    serial.remove_child("driver");
    setAttribute(serial, "ports", devices.child("channel") ? "2" : "1");
    setSlot(serial, vm::consoleSlot);
}

void adoptRng(Rewrite& rewrite, pugi::xml_node devices)
{
    bool first = true;
    for (pugi::xml_node node : childrenOf(devices, "rng"))
    {
        if (!first)
        {
            rewrite.drop(node, "one entropy source is enough");
            continue;
        }
        first = false;
        setAttribute(node, "model", "virtio");
        node.remove_child("driver");
        pugi::xml_node backend = node.child("backend");
        if (xml::attribute(backend, "model") == "egd")
        {
            rewrite.note(node, "takes its entropy from /dev/urandom instead "
                               "of a daemon");
            node.remove_child("backend");
            backend = node.append_child("backend");
            setAttribute(backend, "model", "random");
            setText(backend, "/dev/urandom");
        }
        setSlot(node, vm::rngSlot);
    }
}

void adoptBalloon(Rewrite& rewrite, pugi::xml_node devices)
{
    pugi::xml_node balloon = devices.child("memballoon");
    bool had = balloon && xml::attribute(balloon, "model") != "none";
    if (had)
    {
        rewrite.note(balloon, "dropped: the guest keeps all of its memory");
    }
    if (had || !balloon)
    {
        devices.remove_child("memballoon");
        setAttribute(devices.append_child("memballoon"), "model", "none");
    }
}

/** Those of PS/2 stay: libvirt adds them to every x86 domain by itself, and
 * the machine has nothing that they would be connected to. */
void adoptInputs(Rewrite& rewrite, pugi::xml_node devices)
{
    for (pugi::xml_node node : childrenOf(devices, "input"))
    {
        if (xml::attribute(node, "bus") != "ps2")
        {
            rewrite.drop(node, "the machine has no keyboard, mouse or tablet");
        }
    }
}

void adoptAudio(Rewrite& rewrite, pugi::xml_node devices)
{
    for (pugi::xml_node node : childrenOf(devices, "audio"))
    {
        if (xml::attribute(node, "type") != "none")
        {
            rewrite.drop(node, "");
        }
    }
}

void adoptEmulator(Rewrite& rewrite, pugi::xml_node devices)
{
    pugi::xml_node emulator = devices.child("emulator");
    bool ours = xml::airlockMetadata(rewrite.domain()) && emulator;
    if (!emulator)
    {
        emulator = devices.prepend_child("emulator");
    }
    std::string wanted = rewrite.options().emulator.value_or(
        ours ? xml::text(emulator) : std::string(defaultEmulator));
    if (setText(emulator, wanted))
    {
        rewrite.note(emulator, "becomes " + wanted);
    }
}

} // namespace

void adoptDevices(Rewrite& rewrite)
{
    pugi::xml_node devices = ensureChild(rewrite.domain(), "devices");
    applyRules(rewrite, devices, deviceRules,
               {"emulator", "disk", "interface", "controller", "console",
                "serial", "channel", "rng", "memballoon", "audio", "input"});
    adoptEmulator(rewrite, devices);
    adoptDisks(rewrite, devices);
    adoptNics(rewrite, devices);
    adoptSerial(rewrite, devices);
    adoptControllers(rewrite, devices);
    adoptRng(rewrite, devices);
    adoptInputs(rewrite, devices);
    adoptAudio(rewrite, devices);
    adoptBalloon(rewrite, devices);
}

} // namespace airlock::host::adoption
