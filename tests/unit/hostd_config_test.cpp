#include "config_case.hpp"
#include "hostagent/daemon/config.hpp"
#include "manual_page.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace airlock::host
{
namespace
{

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* server = "[[server]]\nname = 'a'\nhost = 'h'\n";

class HostdConfig : public test::ConfigCase<readConfig>
{
  protected:
    HostdConfig() : ConfigCase("hostd.toml") {}
};

TEST_F(HostdConfig, AServerIsEnough)
{
    Config config = read(server);
    EXPECT_EQ(config.uri, "qemu:///system");
    EXPECT_EQ(config.metrics, "");
    EXPECT_EQ(config.alerts.command, "");
    EXPECT_FALSE(config.alerts.webhook);
    EXPECT_EQ(config.reboot.attempts, 3U);
    ASSERT_EQ(config.servers.size(), 1U);
    EXPECT_EQ(config.servers[0].endpoint.port, 7420);
    EXPECT_THAT(refusal(""), HasSubstr("no [[server]]"));
}

TEST_F(HostdConfig, ValuesArriveWhereTheyBelong)
{
    Config config = read("history-days = 7\n"
                         "[alert]\ncommand = '/c'\ntime = 3\n"
                         "webhook = 'https://w.example:1/x'\n"
                         "webhook-authorities = '/w.pem'\n"
                         "[metrics]\nlisten = '127.0.0.1:9557'\n" +
                         std::string(server));
    EXPECT_EQ(config.history, std::chrono::hours(24 * 7));
    EXPECT_EQ(config.alerts.command, "/c");
    EXPECT_EQ(config.alerts.time, std::chrono::seconds(3));
    EXPECT_EQ(config.alerts.webhook,
              (http::WebAddress{true, "w.example", 1, "/x"}));
    EXPECT_EQ(config.alerts.webhookAuthorities, "/w.pem");
    EXPECT_EQ(config.metrics, "127.0.0.1:9557");
}

TEST_F(HostdConfig, WhatCannotBeIsSaidWithItsLine)
{
    std::string tail = std::string("\n") + server;
    EXPECT_THAT(refusal("colour = 1" + tail),
                HasSubstr("hostd.toml: line 1: colour is not known"));
    EXPECT_THAT(refusal("[reboot]\nlimit = 0" + tail),
                HasSubstr("line 2: reboot.limit has to be a number"));
    EXPECT_THAT(refusal("[alert]\ncommand = 7" + tail),
                HasSubstr("line 2: alert.command has to be a text"));
    EXPECT_THAT(refusal("[alert]\nwebhook = 'ftp://x'" + tail),
                HasSubstr("webhook: is no URL"));
    EXPECT_THAT(refusal("metrics = 1" + tail), HasSubstr("be a table"));
    EXPECT_THAT(refusal(std::string(server) + server),
                HasSubstr("line 4: there are two servers a"));
    EXPECT_THAT(refusal("[[server]]\nname = 'a'"),
                HasSubstr("needs a name and a host"));
}

/** Every key is in the manual, and every key of the manual is read. */
TEST_F(HostdConfig, TheManualHasTheSameKeys)
{
    test::ManualPage page("airlock-hostd.toml.5.rst");
    EXPECT_EQ(page.keys(), configKeys());
    EXPECT_THAT(configKeys(), Contains("reboot.limit"));
    EXPECT_THAT(configKeys(), Contains("server.weight"));
    Config config = read(page.example());
    EXPECT_GE(config.servers.size(), 2U);
    EXPECT_TRUE(config.alerts.webhook);
}

/** The defaults of the manual are those of the program. */
TEST_F(HostdConfig, TheManualHasTheSameDefaults)
{
    test::ManualPage page("airlock-hostd.toml.5.rst");
    Config config = read(page.defaults() + server);
    Config plain = read(server);
    EXPECT_EQ(config.uri, plain.uri);
    EXPECT_EQ(config.state, plain.state);
    EXPECT_EQ(config.socket, plain.socket);
    EXPECT_EQ(config.socketGroup, plain.socketGroup);
    EXPECT_EQ(config.history, plain.history);
    EXPECT_EQ(config.metrics, plain.metrics);
    EXPECT_EQ(config.identity.certificate, plain.identity.certificate);
    EXPECT_EQ(config.identity.key, plain.identity.key);
    EXPECT_EQ(config.identity.authorities, plain.identity.authorities);
    EXPECT_EQ(config.alerts.command, plain.alerts.command);
    EXPECT_EQ(config.alerts.webhook, plain.alerts.webhook);
    EXPECT_EQ(config.alerts.time, plain.alerts.time);
    EXPECT_EQ(config.reboot.booted, plain.reboot.booted);
    EXPECT_EQ(config.reboot.limit, plain.reboot.limit);
    EXPECT_EQ(config.reboot.uploadTime, plain.reboot.uploadTime);
    EXPECT_EQ(config.reboot.serverTime, plain.reboot.serverTime);
    EXPECT_EQ(config.reboot.returnTime, plain.reboot.returnTime);
    EXPECT_EQ(config.reboot.retryDelay, plain.reboot.retryDelay);
    EXPECT_EQ(config.reboot.attempts, plain.reboot.attempts);
    EXPECT_EQ(config.reboot.jobs, plain.reboot.jobs);
    EXPECT_EQ(config.reboot.diskBytes, plain.reboot.diskBytes);
}

} // namespace
} // namespace airlock::host
