/** The reset trap of the production machine, with a guest in real mode, under
 * TCG and under KVM. */
#include "tests/payload/payload_guest.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <memory>

namespace airlock::test
{
namespace
{

constexpr Milliseconds trapTime = std::chrono::seconds(60);
constexpr std::uint16_t kbd = 0x64;
constexpr std::uint16_t resetControl = 0xcf9;
constexpr std::uint16_t freePort = 0x3f8;

class Trap : public testing::TestWithParam<vm::Accelerator>
{
  protected:
    Trap() : guest(makeGuest(GetParam(), 2)) {}

    /** The guest is in the trap, with this cause and number; a load brings it
     * back to life in the same process. */
    void expectTrap(const std::string& cause, std::uint64_t count,
                    unsigned vcpu = 0)
    {
        trap = guest->production().waitTrap(trapTime);
        EXPECT_EQ(trap.cause, cause);
        EXPECT_EQ(trap.count, count);
        EXPECT_EQ(trap.vcpu, vcpu);
        EXPECT_FALSE(guest->machine().running());
    }

    void expectPort(std::uint16_t port, std::uint8_t value)
    {
        EXPECT_EQ(trap.port, port);
        EXPECT_EQ(trap.value, value);
    }

    void expectNoPort()
    {
        EXPECT_FALSE(trap.port);
        EXPECT_FALSE(trap.value);
    }

    Payload liveAgain()
    {
        guest->start();
        EXPECT_FALSE(guest->production().trap());
        Payload payload = guest->payload();
        EXPECT_EQ(payload.in(kbd, 1), 0x00U);
        EXPECT_EQ(payload.in(freePort, 1), 0xffU);
        return payload;
    }

    std::unique_ptr<PayloadGuest> guest;
    vm::Trap trap;
};

TEST_P(Trap, EveryWayToReset)
{
    expectTrap("cold-start", 1);
    expectNoPort();

    liveAgain().startOut(kbd, 1, 0xfe);
    expectTrap("port", 2);
    expectPort(kbd, 0xfe);

    liveAgain().startOut(resetControl, 1, 0x06);
    expectTrap("port", 3);
    expectPort(resetControl, 0x06);

    // The low byte of a wider access is for the door.
    liveAgain().startOut(kbd, 2, 0x55f0);
    expectTrap("port", 4);
    expectPort(kbd, 0xf0);

    liveAgain().startTripleFault();
    expectTrap("triple-fault", 5);
    expectNoPort();

    liveAgain();
    guest->machine().qmp().execute("system_reset");
    expectTrap("system-reset", 6);
    expectNoPort();

    liveAgain();
}

/** The vCPU that wrote is named, in the event as in the query; the next trap
 * does not remember it. */
TEST_P(Trap, ByTheOtherVcpu)
{
    std::uint64_t count = 1;
    expectTrap("cold-start", count);
    for (auto [port, value] :
         {std::pair{kbd, std::uint8_t{0xfe}}, {resetControl, 0x06}})
    {
        liveAgain().startOutByVcpu1(port, 1, value);
        const QmpEvent event = guest->machine().qmp().waitEvent(
            "__internal.airlock_TRAP", trapTime);
        EXPECT_EQ(event.data.value("vcpu", -1), 1);
        EXPECT_EQ(event.data.value("port", 0U), port);
        expectTrap("port", ++count, 1);
        expectPort(port, value);
        EXPECT_EQ(vm::describe(trap),
                  fmt::format("port {:#x} <- {:#04x} by vCPU 1", port, value));
    }
    liveAgain().startOut(kbd, 1, 0xfe);
    expectTrap("port", ++count, 0);

    liveAgain();
    guest->machine().qmp().execute("system_reset");
    expectTrap("system-reset", ++count, 0);
}

/** The stub runs the VM into the trap that it is in, which is no new one. */
TEST_P(Trap, ContinuedWithoutState)
{
    liveAgain().startOut(resetControl, 1, 0x0e);
    expectTrap("port", 2);
    for (int i = 0; i < 3; i++)
    {
        guest->machine().resume();
        guest->machine().qmp().waitEvent("__internal.airlock_TRAP", trapTime);
        expectTrap("port", 2);
        expectPort(resetControl, 0x0e);
    }
    liveAgain();
}

INSTANTIATE_TEST_SUITE_P(
    RealMode, Trap, testing::Values(vm::Accelerator::tcg, vm::Accelerator::kvm),
    [](const auto& accelerator) { return acceleratorName(accelerator.param); });

} // namespace
} // namespace airlock::test
