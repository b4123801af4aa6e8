/** Kernels that are started without a reset (kexec, kdump) on the production
 * machine: they find no interval timer, panic, and with panic=SECONDS reset the
 * machine, which leads back to the full one (docs/architecture.md). */
#include "guest_rig.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace airlock::test
{
namespace
{

constexpr Milliseconds commandTime = std::chrono::minutes(1);
constexpr Milliseconds panicTime = std::chrono::minutes(3);

/** kexec_file_load(2) for the kernel that runs; a stock guest has Perl, and
 * not kexec-tools. */
std::string load(unsigned flags)
{
    return fmt::format(
        R"(perl -e '$r = `uname -r`; chomp $r;)"
        R"( open K, "<", "/boot/vmlinuz-$r" or die $!;)"
        R"( open I, "<", "/boot/initrd.img-$r" or die $!;)"
        R"( $c = `cat /proc/cmdline`; chomp $c; $c .= " panic=5\0";)"
        R"( syscall(320, fileno(K), fileno(I), length $c, $c, {}) == 0)"
        R"( or die "kexec_file_load: $!";')",
        flags);
}

class Kexec : public testing::Test
{
  protected:
    Kexec() { rig.boot(); }

    std::string run(const std::string& command)
    {
        return vm::GuestShell(rig.production().machine())
            .run(command, commandTime);
    }

    void send(const std::string& command)
    {
        rig.production().machine().console().sendLine(command);
    }

    /** The new kernel has run into the trap; the guest comes back whole. */
    void expectReturn(std::uint64_t count)
    {
        vm::Trap trap = rig.production().waitTrap(panicTime);
        EXPECT_EQ(trap.count, count) << describe(trap);
        EXPECT_NE(trap.cause, "system-reset");
        rig.boot();
        rig.expectWell();
    }

    GuestRig rig{{"cloud", 2, 1ULL << 30, true}};
};

TEST_F(Kexec, EndsInTheTrap)
{
    run(load(0));
    EXPECT_EQ(run("cat /sys/kernel/kexec_loaded"), "1\n");
    // LINUX_REBOOT_CMD_KEXEC
    send("sync; perl -e 'syscall(169, 0xfee1dead, 0x28121969, 0x45584543, 0)'");
    expectReturn(2);
}

TEST_F(Kexec, ACrashKernelEndsInTheTrap)
{
    run("sed -i '/^[[:space:]]*linux/s/$/ crashkernel=160M/' "
        "/boot/grub/grub.cfg && sync");
    rig.rebootFromInside();
    rig.boot();
    run(load(2)); // KEXEC_FILE_ON_CRASH
    EXPECT_EQ(run("cat /sys/kernel/kexec_crash_loaded"), "1\n");
    send("sync; echo c >/proc/sysrq-trigger");
    expectReturn(3);
}

} // namespace
} // namespace airlock::test
