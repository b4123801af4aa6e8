/** A libvirt domain that lives on the production machine and reboots through
 * both daemons. */
#include "libvirt_rig.hpp"

#include <gtest/gtest.h>

namespace airlock::test
{
namespace
{

constexpr Milliseconds bootTime = std::chrono::minutes(5);

TEST(Libvirt, StartsRebootsAndStops)
{
    HostRig rig({"cloud", 2, 1ULL << 30, true});
    rig.libvirt().virsh({"start", rig.domain()});
    rig.waitAlive(bootTime);
    std::string first = rig.run("cat /proc/sys/kernel/random/boot_id");
    rig.run("echo kept >/root/kept && sync");

    rig.send("reboot");
    rig.waitPaused(bootTime);
    rig.waitAlive(bootTime);
    EXPECT_NE(rig.run("cat /proc/sys/kernel/random/boot_id"), first);
    EXPECT_EQ(rig.run("cat /root/kept"), "kept\n");

    rig.libvirt().virsh({"reset", rig.domain()});
    rig.waitPaused(bootTime);
    rig.waitAlive(bootTime);
    EXPECT_EQ(rig.run("cat /root/kept"), "kept\n");
    rig.libvirt().virsh({"destroy", rig.domain()});
    EXPECT_EQ(rig.domainState(), "shut off");
}

} // namespace
} // namespace airlock::test
