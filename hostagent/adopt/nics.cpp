#include "common/json.hpp"
#include "hostagent/adopt/rewrite.hpp"
#include "hostagent/domain/domain_spec.hpp"
#include "hostagent/domain/rules.hpp"

#include <fmt/format.h>

/** Network cards, and what hangs on the virtio-serial controller. */
namespace airlock::host::adoption
{

namespace
{

bool acceptable(Rewrite& rewrite, const pugi::xml_node& nic)
{
    std::string type = xml::attribute(nic, "type");
    std::string model = xml::attribute(nic.child("model"), "type");
    if (!rules::contains(rules::nicTypes, type))
    {
        rewrite.refuse(nic,
                       "type " + printable(type) +
                           " is no virtio card of QEMU on a host's "
                           "network",
                       "use a bridge, a libvirt network or macvtap "
                       "(type='direct')");
        return false;
    }
    if (nic.child("teaming"))
    {
        rewrite.refuse(nic, "is paired with a device of the host",
                       "remove <teaming> and its partner");
        return false;
    }
    if (!model.starts_with("virtio") && !rewrite.options().forceVirtio)
    {
        rewrite.refuse(nic,
                       fmt::format("is a card of model {}, the machine "
                                   "has virtio cards only",
                                   model.empty() ? "rtl8139" : model),
                       "see that the guest has the virtio network driver "
                       "(Linux has; Windows needs virtio-win), then use "
                       "--force-virtio; the card has another name in the "
                       "guest");
        return false;
    }
    return true;
}

void convert(Rewrite& rewrite, pugi::xml_node nic)
{
    pugi::xml_node model = ensureChild(nic, "model", {"source", "mac"});
    std::string before = xml::attribute(model, "type");
    setAttribute(model, "type", "virtio");
    if (!before.starts_with("virtio"))
    {
        rewrite.note(nic, fmt::format("a virtio card instead of model {}",
                                      before.empty() ? "rtl8139" : before));
    }
    pugi::xml_node driver = ensureChild(nic, "driver", {"model"});
    bool vhost = setAttribute(driver, "name", "qemu");
    bool options = !driver.first_child().empty();
    driver.remove_children();
    for (std::string_view name : rules::driverAttributes)
    {
        options |= rewrite.dropAttribute(driver, name);
    }
    for (const char* name : {"txmode", "ioeventfd", "rss"})
    {
        options |= rewrite.dropAttribute(driver, name);
    }
    if (vhost)
    {
        rewrite.note(nic, "QEMU moves its packets, not the host kernel's "
                          "vhost, whose rings cannot be checked at a hand-"
                          "over");
    }
    if (options)
    {
        rewrite.note(nic, "queues and offloads dropped: the card has one pair "
                          "of queues");
    }
    for (std::string_view name : rules::nicElements)
    {
        if (pugi::xml_node node = nic.child(std::string(name).c_str()))
        {
            rewrite.drop(node, name == "mtu"
                                   ? "the guest is told no MTU; set it there"
                                   : "");
        }
    }
}

} // namespace

void adoptNics(Rewrite& rewrite, pugi::xml_node devices)
{
    std::vector<pugi::xml_node> nics = childrenOf(devices, "interface");
    if (nics.size() > vm::maxNics)
    {
        rewrite.refuse(devices,
                       fmt::format("has {} network cards", nics.size()),
                       fmt::format("Airlock has at most {}", vm::maxNics));
        return;
    }
    for (std::size_t i = 0; i < nics.size(); i++)
    {
        if (acceptable(rewrite, nics[i]))
        {
            convert(rewrite, nics[i]);
            setSlot(nics[i], vm::firstNicSlot + static_cast<unsigned>(i));
        }
    }
}

} // namespace airlock::host::adoption
