#include "common/file.hpp"
#include "common/socket.hpp"
#include "hostagent/daemon/alerts.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

namespace airlock::host
{
namespace
{

using ::testing::HasSubstr;
using namespace std::chrono_literals;

class AlertsTest : public ::testing::Test
{
  protected:
    /** A program that appends its arguments to a file, a line each. */
    std::string command()
    {
        std::string file = directory.path() / "command";
        writeFileAtomic(file,
                        "#!/bin/sh\nprintf '%s\\n' \"$@\" end >>'" +
                            said().string() + "'\n",
                        0755);
        return file;
    }

    std::filesystem::path said() { return directory.path() / "said"; }

    /** The file of the command, once it ends so. */
    std::string waitSaid(const std::string& ending)
    {
        Deadline deadline(20s);
        std::string text;
        while (!text.ends_with(ending) && !deadline.passed())
        {
            if (std::filesystem::exists(said()))
            {
                text = readTextFile(said(), 1U << 20);
            }
            std::this_thread::sleep_for(5ms);
        }
        return text;
    }

    Alert alert(const std::string& what)
    {
        return {"uuid-1", "web 1", what, "it's \"late\"; rm -rf /"};
    }

    TempDirectory directory;
};

TEST_F(AlertsTest, TheCommandGetsWordsNotAShellLine)
{
    Alerts alerts({.command = command()});
    alerts.raise(alert("retrying"));
    alerts.raise(alert("held"));
    EXPECT_EQ(waitSaid("held\nuuid-1\nweb 1\nit's \"late\"; rm -rf /\nend\n"),
              "retrying\nuuid-1\nweb 1\nit's \"late\"; rm -rf /\nend\n"
              "held\nuuid-1\nweb 1\nit's \"late\"; rm -rf /\nend\n");
}

/** A webhook that takes the connection and never answers holds up the later
 * alerts, but never who raises them. */
TEST_F(AlertsTest, ASilentWebhookHoldsUpNobody)
{
    UniqueFd listener = listenTcp("127.0.0.1:0");
    AlertSettings settings;
    settings.command = command();
    settings.webhook = {false, "127.0.0.1", localPort(listener.get()), "/"};
    settings.time = std::chrono::hours(1);
    Alerts alerts(settings);
    for (std::size_t i = 0; i < AlertDelivery::maxWaiting + 5; i++)
    {
        EXPECT_TRUE(alerts.raise(alert("retrying")));
        alerts.changed("uuid-1");
    }
    // With its listener the connection goes, and the next ones are refused.
    listener.reset();
    EXPECT_THAT(waitSaid("end\n"), HasSubstr("retrying\n"));
}

/** What is tried again and again is told once. */
TEST_F(AlertsTest, TheSameIsNotSaidTwice)
{
    Alerts alerts({});
    EXPECT_TRUE(alerts.raise(alert("applying")));
    EXPECT_FALSE(alerts.raise(alert("applying")));
    Alert other = alert("applying");
    other.why = "the disk is full";
    EXPECT_TRUE(alerts.raise(other));
    EXPECT_FALSE(alerts.raise(other));
    other.uuid = "uuid-2";
    EXPECT_TRUE(alerts.raise(other));
    alerts.changed("uuid-1");
    EXPECT_TRUE(alerts.raise(alert("applying")));
    EXPECT_FALSE(alerts.raise(other));
}

TEST_F(AlertsTest, WhatAWebhookGets)
{
    Json json = Alerts::toJson(alert("held"), "2026-11-21T16:30:05.000Z");
    EXPECT_EQ(json["what"], "held");
    EXPECT_EQ(json["domain"], "web 1");
    EXPECT_EQ(json["uuid"], "uuid-1");
    EXPECT_EQ(json["reason"], "it's \"late\"; rm -rf /");
    EXPECT_EQ(json["time"], "2026-11-21T16:30:05.000Z");
    EXPECT_TRUE(json["host"].is_string());
}

} // namespace
} // namespace airlock::host
