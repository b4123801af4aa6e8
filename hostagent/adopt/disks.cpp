#include "common/json.hpp"
#include "hostagent/adopt/rewrite.hpp"
#include "hostagent/domain/domain_spec.hpp"
#include "hostagent/domain/rules.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <set>

/** Disks and CD-ROMs. */
namespace airlock::host::adoption
{

namespace
{

bool hasMedium(const pugi::xml_node& disk)
{
    pugi::xml_node source = disk.child("source");
    for (const char* name : {"file", "dev", "name", "volume", "dir"})
    {
        if (source.attribute(name))
        {
            return true;
        }
    }
    return false;
}

/** Names of disks as libvirt counts them: vda, vdb... */
class Targets
{
  public:
    explicit Targets(const std::vector<pugi::xml_node>& disks)
    {
        for (const pugi::xml_node& disk : disks)
        {
            taken_.insert(xml::attribute(disk.child("target"), "dev"));
        }
    }

    std::string next()
    {
        for (char letter = 'a'; letter <= 'z'; letter++)
        {
            std::string name = std::string("vd") + letter;
            if (taken_.insert(name).second)
            {
                return name;
            }
        }
        return "vdz";
    }

  private:
    std::set<std::string> taken_;
};

/** Whether a disk can stay; says why not. */
bool acceptable(Rewrite& rewrite, const pugi::xml_node& disk)
{
    std::string device = xml::attribute(disk, "device");
    std::string type = xml::attribute(disk, "type");
    std::string bus = xml::attribute(disk.child("target"), "bus");
    std::string format = xml::attribute(disk.child("driver"), "type");
    auto refuse = [&](std::string reason, std::string advice) {
        rewrite.refuse(disk, std::move(reason), std::move(advice));
        return false;
    };
    if (device == "lun")
    {
        return refuse("gives the guest a SCSI device of the host",
                      "use device='disk' with bus='virtio'");
    }
    if (!xml::isOneOf(type, {"file", "block", "network", "volume"}))
    {
        return refuse("type " + printable(type) +
                          " is not opened by QEMU's block layer",
                      "use a file, a block device or a network disk");
    }
    if (!format.empty() && format != "raw" && format != "qcow2")
    {
        return refuse("its format is " + printable(format),
                      "convert it: qemu-img convert -O qcow2 ...");
    }
    if (disk.child("shareable"))
    {
        return refuse("is shared with other guests, and only one may write "
                      "while this one boots elsewhere",
                      "remove <shareable/>");
    }
    if (disk.child("transient"))
    {
        return refuse("loses its changes at each stop of the guest",
                      "remove <transient/>");
    }
    if (disk.child("mirror"))
    {
        return refuse("a block job copies it",
                      "finish it: virsh blockjob --pivot or --abort");
    }
    std::string sector =
        xml::attribute(disk.child("blockio"), "logical_block_size");
    if (!sector.empty() && sector != "512")
    {
        return refuse("its sectors have " + printable(sector) + " bytes",
                      "boots are from disks with sectors of 512 bytes: copy "
                      "the guest to one");
    }
    if (bus != "virtio" && device != "cdrom" && !rewrite.options().forceVirtio)
    {
        return refuse("is on the " + (bus.empty() ? "ide" : bus) +
                          " bus, the machine has virtio disks only",
                      "see that the guest has virtio drivers in its initrd "
                      "(Linux has; Windows needs virtio-win) and mounts by "
                      "UUID or label, then use --force-virtio");
    }
    return true;
}

/** What the guest would see in one machine only. */
void plain(Rewrite& rewrite, pugi::xml_node disk)
{
    pugi::xml_node driver = disk.child("driver");
    for (std::string_view name : rules::driverAttributes)
    {
        if (rewrite.dropAttribute(driver, name))
        {
            rewrite.note(driver, fmt::format("{} dropped: disks are as QEMU "
                                             "makes them",
                                             name));
        }
    }
    driver.remove_child("metadata_cache");
    std::string cache = xml::attribute(driver, "cache");
    if (rules::contains(rules::diskCaches, cache))
    {
        // With or without the host's page cache, as before.
        const char* instead = cache == "directsync" ? "none" : "writeback";
        setAttribute(driver, "cache", instead);
        rewrite.note(driver, fmt::format("cache {} becomes {}: the guest "
                                         "flushes its writes itself",
                                         cache, instead));
    }
    for (std::string_view name : rules::diskElements)
    {
        if (pugi::xml_node node = disk.child(std::string(name).c_str()))
        {
            rewrite.drop(node, "the boot machine does not show it to the "
                               "guest");
        }
    }
    disk.remove_child("boot");
    rewrite.dropAttribute(disk, "model");
    rewrite.dropAttribute(disk, "sgio");
    rewrite.dropAttribute(disk, "rawio");
}

void convert(Rewrite& rewrite, pugi::xml_node disk, Targets& targets)
{
    pugi::xml_node target = ensureChild(disk, "target");
    std::string bus = xml::attribute(target, "bus");
    bool cdrom = xml::attribute(disk, "device") == "cdrom";
    setAttribute(disk, "device", "disk");
    if (bus != "virtio" || cdrom)
    {
        std::string before = xml::attribute(target, "dev");
        std::string after = targets.next();
        setAttribute(target, "dev", after);
        setAttribute(target, "bus", "virtio");
        rewrite.note(disk, fmt::format("{} {} becomes the {}virtio disk {}",
                                       cdrom ? "CD-ROM" : bus + " disk", before,
                                       cdrom ? "read-only " : "", after));
    }
    for (const char* name : {"tray", "removable", "rotation_rate"})
    {
        rewrite.dropAttribute(target, name);
    }
    if (cdrom)
    {
        ensureChild(disk, "readonly", {"target"});
    }
    pugi::xml_node driver = disk.child("driver");
    if (!driver)
    {
        driver = disk.prepend_child("driver");
    }
    setAttribute(driver, "name", "qemu");
    if (!driver.attribute("type"))
    {
        setAttribute(driver, "type", "raw");
    }
    plain(rewrite, disk);
}

/** Disks as the guest shall see them: the one it boots from first, CD-ROMs
 * last, the others as they were. */
std::vector<pugi::xml_node> inOrder(const std::vector<pugi::xml_node>& disks)
{
    auto rank = [](const pugi::xml_node& disk) {
        std::uint64_t order =
            xml::number(xml::attribute(disk.child("boot"), "order"), 1000)
                .value_or(1001);
        std::uint64_t slot =
            xml::attribute(disk.child("target"), "bus") == "virtio"
                ? xml::number(xml::attribute(disk.child("address"), "slot"), 31)
                      .value_or(32)
                : 32;
        return std::tuple(xml::attribute(disk, "device") == "cdrom", order,
                          xml::airlockMetadata(disk.root().first_child()) ? slot
                                                                          : 0);
    };
    std::vector<pugi::xml_node> sorted = disks;
    std::stable_sort(
        sorted.begin(), sorted.end(),
        [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
    return sorted;
}

} // namespace

void adoptDisks(Rewrite& rewrite, pugi::xml_node devices)
{
    for (pugi::xml_node disk : childrenOf(devices, "disk"))
    {
        std::string device = xml::attribute(disk, "device");
        if (device == "floppy")
        {
            rewrite.drop(disk, "the machine has no floppy disks");
        }
        else if (device == "cdrom" && !hasMedium(disk))
        {
            rewrite.drop(disk, "the CD-ROM drive is empty, and discs cannot "
                               "be changed");
        }
    }
    std::vector<pugi::xml_node> disks = inOrder(childrenOf(devices, "disk"));
    if (disks.size() > vm::maxDisks)
    {
        rewrite.refuse(devices, fmt::format("has {} disks", disks.size()),
                       fmt::format("Airlock has at most {}", vm::maxDisks));
        return;
    }
    Targets targets(disks);
    for (std::size_t i = 0; i < disks.size(); i++)
    {
        if (acceptable(rewrite, disks[i]))
        {
            convert(rewrite, disks[i], targets);
            setSlot(disks[i], vm::firstDiskSlot + static_cast<unsigned>(i));
        }
    }
}

} // namespace airlock::host::adoption
