#include "common/control.hpp"
#include "common/file.hpp"
#include "error_of.hpp"
#include "tools/airlock-rig/pcapng.hpp"
#include "tools/airlock-rig/state.hpp"
#include "tools/rigs/frame_watch.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

namespace airlock::rig
{
namespace
{

using ::testing::ElementsAre;

TEST(PortEvents, TimesAreThoseThatTheControlSocketWrites)
{
    const auto time = std::chrono::time_point_cast<Milliseconds>(
        std::chrono::system_clock::now());
    EXPECT_EQ(parseTime(control::timeText(time)), time);
    for (const char* text : {"", "now", "2026-11-21", "2026-11-21T16:30:05",
                             "2026-11-21T16:30:05.000Zx"})
    {
        EXPECT_THROW(parseTime(text), Refused) << text;
    }
}

TEST(PortEvents, OpeningsAndCutsOfThatPortCount)
{
    const std::string time = "2026-11-21T16:30:05.250Z";
    const Json events = Json::array(
        {{{"what", "a port was opened"}, {"PORT", "boot0"}, {"time", time}},
         {{"what", "a port was opened"}, {"PORT", "boot1"}, {"time", time}},
         {{"what", "frames"}, {"PORT", "boot0"}, {"time", time}},
         {{"what", "a port was cut off"},
          {"PORT", "boot0"},
          {"REASON", "why"},
          {"time", time}}});
    const auto read = portEvents(events, "boot0");
    ASSERT_EQ(read.size(), 2U);
    EXPECT_TRUE(read[0].open);
    EXPECT_FALSE(read[1].open);
    EXPECT_EQ(read[1].why, "why");
    // Not before it was told.
    EXPECT_GT(read[0].time, parseTime(time));
    EXPECT_LE(read[0].time, parseTime(time) + Milliseconds(1));
}

/** Block types, in order; each length is there twice. */
std::vector<std::uint32_t> typesIn(const Bytes& file)
{
    std::vector<std::uint32_t> out;
    for (std::size_t at = 0; at < file.size();)
    {
        ByteReader block(ByteView(file).subspan(at), "block");
        out.push_back(block.be32());
        const std::uint32_t length = block.be32();
        EXPECT_EQ(length % 4, 0U);
        ByteReader end(ByteView(file).subspan(at + length - 4), "end");
        EXPECT_EQ(end.be32(), length);
        at += length;
    }
    return out;
}

Caught caught(std::size_t size)
{
    Caught out;
    for (std::size_t i = 0; i < size; i++)
    {
        out.bytes.push_back(static_cast<std::uint8_t>(i));
    }
    out.time = std::chrono::system_clock::now();
    return out;
}

TEST(Pcapng, BlocksAreWellFormed)
{
    Bytes file = pcapng::header();
    auto add = [&](const Bytes& more) {
        file.insert(file.end(), more.begin(), more.end());
    };
    add(pcapng::interface("boot0"));
    add(pcapng::frame(0, caught(61)));
    add(pcapng::mark(0, caught(1).time, "cut off"));
    EXPECT_THAT(typesIn(file), ElementsAre(0x0A0D0D0AU, 1U, 6U, 6U));
}

TEST(Pcapng, ATagIsPutBackWhereItWas)
{
    Caught tagged = caught(60);
    tagged.vlan = 0x0064;
    tagged.vlanType = 0x8100;
    const Bytes block = pcapng::frame(3, tagged);
    constexpr std::size_t packet = 28; // behind type, length and times
    Bytes wanted(tagged.bytes.begin(), tagged.bytes.begin() + 12);
    wanted.insert(wanted.end(), {0x81, 0x00, 0x00, 0x64});
    wanted.insert(wanted.end(), tagged.bytes.begin() + 12, tagged.bytes.end());
    ASSERT_GT(block.size(), packet + wanted.size());
    EXPECT_EQ(Bytes(block.begin() + packet,
                    block.begin() + packet +
                        static_cast<std::ptrdiff_t>(wanted.size())),
              wanted);
}

TEST(KnownProcess, ANumberThatIsSomebodyElsesNowIsNotIt)
{
    const UniqueFd proc(::open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    auto self = KnownProcess::of(::getpid(), proc.get());
    ASSERT_TRUE(self);
    EXPECT_TRUE(self->alive());
    self->start++;
    EXPECT_FALSE(self->alive());
    const pid_t child = ::fork();
    if (child == 0)
    {
        ::_exit(0);
    }
    siginfo_t info{};
    ::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT);
    EXPECT_FALSE(KnownProcess::of(child, proc.get())); // waits to be asked
    ::waitpid(child, nullptr, 0);
    EXPECT_FALSE(KnownProcess::of(child, proc.get()));
}

TEST(RigState, WhatNobodyHoldsIsTakenDown)
{
    const TempDirectory build;
    RigState state(build.path());
    EXPECT_FALSE(state.takeDown());
    std::filesystem::create_directory(state.directory());
    state.note("starting", "x");
    EXPECT_EQ(state.status()["state"], "starting");
    EXPECT_FALSE(state.init());
    EXPECT_TRUE(state.takeDown());
    EXPECT_FALSE(state.exists());
    EXPECT_THROW(RigState(build.path() / std::string(100, 'x')), Error);
}

} // namespace
} // namespace airlock::rig
