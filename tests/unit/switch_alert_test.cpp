#include "common/file.hpp"
#include "config_case.hpp"
#include "manual_page.hpp"
#include "tools/switchd/alert_relay.hpp"
#include "tools/switchd/alert_socket.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>

namespace airlock::sw
{
namespace
{

using test::errorOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using namespace std::chrono_literals;

const AlertLimit::TimePoint start{};

SwitchAlert alert(const std::string& what = "frames",
                  const std::string& port = "boot0")
{
    SwitchAlert out;
    out.level = "warning";
    out.what = what;
    out.port = port;
    return out;
}

TEST(AlertLimit, FirstAtOnceThenTogether)
{
    AlertLimit limit(60s);
    const auto first = limit.take(alert(), start);
    ASSERT_TRUE(first);
    EXPECT_EQ(first->count, 1U);
    SwitchAlert last = alert();
    for (int i = 1; i <= 1000; i++)
    {
        last.reason = std::to_string(i);
        EXPECT_FALSE(limit.take(last, start + 1s));
    }
    EXPECT_THAT(limit.due(start + 59s), IsEmpty());
    EXPECT_EQ(limit.nextDue(), start + 60s);
    const auto together = limit.due(start + 60s);
    ASSERT_EQ(together.size(), 1U);
    EXPECT_EQ(together[0].count, 1000U);
    EXPECT_EQ(together[0].reason, "1000");
    // And again not before the time is over.
    EXPECT_FALSE(limit.take(alert(), start + 61s));
    EXPECT_EQ(limit.due(start + 120s).size(), 1U);
    EXPECT_THAT(limit.due(start + 180s), IsEmpty());
    EXPECT_FALSE(limit.nextDue());
    EXPECT_TRUE(limit.take(alert(), start + 181s));
}

TEST(AlertLimit, OthersAreNotHeldUp)
{
    AlertLimit limit(60s);
    EXPECT_TRUE(limit.take(alert(), start));
    EXPECT_TRUE(limit.take(alert("proof"), start));
    EXPECT_TRUE(limit.take(alert("frames", "boot1"), start));
    EXPECT_FALSE(limit.take(alert("proof"), start));
}

TEST(AlertLimit, KindsAreBounded)
{
    AlertLimit limit(60s);
    std::size_t told = 0;
    for (std::size_t i = 0; i < 10 * AlertLimit::maxKinds; i++)
    {
        told += limit.take(alert(std::to_string(i)), start) ? 1U : 0U;
    }
    EXPECT_EQ(told, AlertLimit::maxKinds + 1);
    const auto rest = limit.due(start + 60s);
    ASSERT_EQ(rest.size(), 1U);
    EXPECT_EQ(rest[0].count, 10 * AlertLimit::maxKinds - told);
}

TEST(SwitchAlertTest, AMessageIsTakenApart)
{
    const auto read = SwitchAlert::parse(
        R"({"level": "warning", "what": "a proof was refused",
            "PORT": "boot0", "BOOT_HOST": "boot1.example",
            "REASON": "forged", "COUNT": "3", "lost": 7})");
    EXPECT_EQ(read.what, "a proof was refused");
    EXPECT_THAT(read.note().words,
                ElementsAre("a proof was refused", "boot0", "boot1.example",
                            "COUNT=3 REASON=forged", "1"));
    EXPECT_EQ(read.note().body["boot-host"], "boot1.example");
    EXPECT_EQ(read.note().body["level"], "warning");
    EXPECT_EQ(read.note().body["lost"], 7U);
}

TEST(SwitchAlertTest, WhatIsNoneIsRefused)
{
    for (const std::string& text : std::vector<std::string>{
             "", "{", "[]", "{}", R"({"level": "warning"})",
             R"({"level": "warning", "what": 3})",
             R"({"level": "warning", "what": "x", "PORT": []})",
             "{\"level\": \"warning\", \"what\": \"" +
                 std::string(AlertSocket::maxMessage, 'x') + "\"}"})
    {
        EXPECT_THROW(SwitchAlert::parse(text), Error) << text;
    }
    // What a boot host may have had a part in does not get to terminals.
    const auto read = SwitchAlert::parse(
        "{\"level\": \"error\", \"what\": \"x\", \"REASON\": \"" +
        std::string(5000, 'y') + "\\u001b[31m\"}");
    EXPECT_LE(read.reason.size(), 1010U);
    EXPECT_EQ(read.reason.find('\x1b'), std::string::npos);
}

/** A datagram socket that is there and whose reader does nothing. */
class AlertSocketTest : public testing::Test
{
  protected:
    std::filesystem::path path() { return directory.path() / "alerts"; }

    void listen()
    {
        reader.reset(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        sockaddr_un at{};
        at.sun_family = AF_UNIX;
        std::strncpy(at.sun_path, path().c_str(), sizeof(at.sun_path) - 1);
        ASSERT_EQ(
            ::bind(reader.get(), reinterpret_cast<sockaddr*>(&at), sizeof(at)),
            0);
    }

    /** The next one; null when there is none. */
    Json next()
    {
        std::string text(AlertSocket::maxMessage, '\0');
        const ssize_t got =
            ::recv(reader.get(), text.data(), text.size(), MSG_DONTWAIT);
        return got < 0 ? Json()
                       : parseJson(std::string_view(text).substr(
                                       0, static_cast<std::size_t>(got)),
                                   "alert");
    }

    TempDirectory directory;
    UniqueFd reader;
};

const Json warning = {{"level", "warning"}, {"what", "frames"}};

TEST_F(AlertSocketTest, WarningsAndErrorsArePassedNewsAreNot)
{
    listen();
    AlertSocket socket(path());
    socket.pass({{"level", "news"}, {"what", "a port was opened"}});
    socket.pass(warning);
    socket.pass({{"level", "error"}, {"what", "a port could not be shut"}});
    EXPECT_EQ(next(), warning);
    EXPECT_EQ(next()["level"], "error");
    EXPECT_TRUE(next().is_null());
}

/** The test would not end if it waited. */
TEST_F(AlertSocketTest, NobodyIsWaitedFor)
{
    AlertSocket socket(path());
    socket.pass(warning); // nobody is there yet
    listen();
    for (int i = 0; i < 10000; i++)
    {
        socket.pass(warning); // there, and reads nothing
    }
    EXPECT_EQ(next()["lost"], 1U);
    std::uint64_t taken = 1;
    while (!next().is_null())
    {
        taken++;
    }
    EXPECT_LT(taken, 10000U);
    socket.pass(warning);
    EXPECT_EQ(next()["lost"], 10000U - taken);
    socket.pass(warning);
    EXPECT_EQ(next(), warning);
    AlertSocket("").pass(warning); // nobody wanted
}

class RelayConfigTest : public test::ConfigCase<readRelayConfig>
{
  protected:
    RelayConfigTest() : ConfigCase("switch-alert.toml") {}
};

TEST_F(RelayConfigTest, TheManualHasEachKeyWithItsDefault)
{
    const test::ManualPage page("airlock-switch-alert.8.rst");
    EXPECT_EQ(page.keys(), relayConfigKeys());
    const RelayConfig fromPage = read(page.defaults());
    const RelayConfig none;
    EXPECT_EQ(fromPage.socket, none.socket);
    EXPECT_EQ(fromPage.every, none.every);
    EXPECT_EQ(fromPage.alerts.time, none.alerts.time);
    EXPECT_FALSE(fromPage.alerts.any());
    const RelayConfig example = read(page.example());
    EXPECT_EQ(example.every, 300s);
    EXPECT_EQ(example.alerts.webhook->host, "alerts.example.org");
}

TEST_F(RelayConfigTest, WhatCannotBeIsSaidWithItsLine)
{
    EXPECT_THAT(refusal("[alert]\nevery = 0\n"), HasSubstr("line 2"));
    EXPECT_THAT(refusal("[alert]\nshell = 'x'\n"), HasSubstr("not known"));
    EXPECT_THAT(refusal("[alert]\nwebhook = 'ftp://x'\n"),
                HasSubstr("webhook"));
}

} // namespace
} // namespace airlock::sw
