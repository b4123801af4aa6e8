#include "hostagent/adopt/rewrite.hpp"
#include "hostagent/domain/domain_spec.hpp"

#include <fmt/format.h>

/** Serial lines, consoles and channels. */
namespace airlock::host::adoption
{

namespace
{

bool isVirtio(const pugi::xml_node& node)
{
    return xml::attribute(node.child("target"), "type") == "virtio";
}

/** Of a serial line, what says where it goes on the host. */
pugi::xml_node consoleFrom(pugi::xml_node devices, const pugi::xml_node& serial)
{
    pugi::xml_node console =
        serial ? devices.insert_child_before("console", serial)
               : ensureChild(devices, "console",
                             {"interface", "controller", "disk", "emulator"});
    setAttribute(console, "type",
                 serial ? xml::attribute(serial, "type") : "pty");
    for (const char* name : {"source", "protocol", "log"})
    {
        for (const pugi::xml_node& node : serial.children(name))
        {
            console.append_copy(node);
        }
    }
    return console;
}

pugi::xml_node chooseConsole(Rewrite& rewrite, pugi::xml_node devices)
{
    for (const pugi::xml_node& node : devices.children("console"))
    {
        if (isVirtio(node))
        {
            return node;
        }
    }
    pugi::xml_node serial = devices.child("serial");
    if (!serial)
    {
        serial = devices.child("console");
    }
    pugi::xml_node console = consoleFrom(devices, serial);
    rewrite.note("devices/console",
                 serial ? "the serial line becomes a virtio console: let the "
                          "guest run a getty on hvc0 (Linux: console=hvc0); "
                          "ttyS0 is only there while it boots"
                        : "added: a virtio console (hvc0), for virsh console");
    return console;
}

void adoptConsole(Rewrite& rewrite, pugi::xml_node devices)
{
    pugi::xml_node console = chooseConsole(rewrite, devices);
    std::size_t more = 0;
    for (const char* name : {"serial", "console"})
    {
        for (pugi::xml_node node : childrenOf(devices, name))
        {
            if (node != console)
            {
                more += isVirtio(node) || std::string_view(name) == "serial";
                rewrite.drop(node, "");
            }
        }
    }
    if (more > 1)
    {
        rewrite.note("devices/console",
                     "dropped: other serial lines; the machine has one "
                     "console");
    }
    rewrite.dropAttribute(console, "tty");
    pugi::xml_node target = ensureChild(console, "target", {"source"});
    setAttribute(target, "type", "virtio");
    setAttribute(target, "port", std::to_string(consolePort));
    // libvirt takes an address with port 0 for one that it has to choose.
    console.remove_child("address");
}

void setPort(pugi::xml_node device, unsigned port)
{
    pugi::xml_node address = ensureChild(device, "address", {"target"});
    setAttribute(address, "type", "virtio-serial");
    setAttribute(address, "controller", "0");
    setAttribute(address, "bus", "0");
    setAttribute(address, "port", std::to_string(port));
}

} // namespace

void adoptSerial(Rewrite& rewrite, pugi::xml_node devices)
{
    adoptConsole(rewrite, devices);
    bool agent = false;
    for (pugi::xml_node node : childrenOf(devices, "channel"))
    {
        std::string name = xml::attribute(node.child("target"), "name");
        if (isVirtio(node) && name == agentChannelName && !agent)
        {
            agent = true;
            rewrite.dropAttribute(node.child("target"), "state");
            setPort(node, agentPort);
        }
        else
        {
            rewrite.drop(node, fmt::format("the machine has a channel for {} "
                                           "only",
                                           agentChannelName));
        }
    }
}

} // namespace airlock::host::adoption
