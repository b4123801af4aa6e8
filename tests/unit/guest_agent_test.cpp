#include "common/error.hpp"
#include "common/json.hpp"
#include "common/socket.hpp"
#include "devmodel/vm/guest_agent.hpp"

#include <gtest/gtest.h>

#include <string>

namespace airlock::vm
{
namespace
{

/** The guest's end of an agent's port. */
class Port
{
  public:
    Port() : Port(socketPair()) {}

    GuestAgent& agent() { return agent_; }

    void say(const std::string& text)
    {
        sendAll(guest_.get(), text, Deadline(std::chrono::seconds(1)));
    }

    /** What the agent was asked last. */
    std::uint64_t question()
    {
        std::string heard;
        receiveSome(guest_.get(), heard, 4096,
                    Deadline(std::chrono::seconds(1)));
        EXPECT_EQ(heard.at(0), '\xff');
        Json json = parseJson(heard.substr(1), "question");
        EXPECT_EQ(json.at("execute"), "guest-sync-delimited");
        return json.at("arguments").at("id").get<std::uint64_t>();
    }

  private:
    explicit Port(std::pair<UniqueFd, UniqueFd> ends)
        : agent_(std::move(ends.first)), guest_(std::move(ends.second))
    {}

    GuestAgent agent_;
    UniqueFd guest_;
};

TEST(GuestAgent, AnswersWithTheNumberItWasAsked)
{
    Port port;
    EXPECT_FALSE(port.agent().answered());
    std::uint64_t number = port.question();
    EXPECT_FALSE(port.agent().answered());
    port.say("\xff{\"return\": " + std::to_string(number) + "}\n");
    EXPECT_TRUE(port.agent().answered());
    EXPECT_TRUE(port.agent().answered());
}

TEST(GuestAgent, AnAnswerMayComeInPieces)
{
    Port port;
    EXPECT_FALSE(port.agent().answered());
    std::uint64_t number = port.question();
    port.say("\xff{\"return\"");
    EXPECT_FALSE(port.agent().answered());
    port.say(": " + std::to_string(number) + "}");
    EXPECT_FALSE(port.agent().answered());
    port.say("\n");
    EXPECT_TRUE(port.agent().answered());
}

TEST(GuestAgent, NothingElseIsAnAnswer)
{
    Port port;
    EXPECT_FALSE(port.agent().answered());
    std::uint64_t number = port.question();
    for (const std::string& text :
         {std::string("\n"), std::string("{}\n"),
          std::string("{\"return\": \"yes\"}\n"), std::string("[1, 2\n"),
          std::string("{\"return\": -1}\n"),
          "{\"return\": " + std::to_string(number ^ 1U) + "}\n",
          "{\"error\": {\"id\": " + std::to_string(number) + "}}\n",
          std::string(1000, '[') + "\n"})
    {
        port.say(text);
        EXPECT_FALSE(port.agent().answered()) << text;
    }
    port.say("{\"return\": " + std::to_string(number) + "}\n");
    EXPECT_TRUE(port.agent().answered());
}

TEST(GuestAgent, EndlessLinesAreForgotten)
{
    Port port;
    EXPECT_FALSE(port.agent().answered());
    std::uint64_t number = port.question();
    for (int i = 0; i < 64; i++)
    {
        port.say(std::string(4096, 'x'));
        EXPECT_FALSE(port.agent().answered());
    }
    port.say("\n\xff{\"return\": " + std::to_string(number) + "}\n");
    while (!port.agent().answered())
    {}
}

TEST(GuestAgent, APortThatIsClosedIsAnError)
{
    auto [ours, guests] = socketPair();
    GuestAgent agent(std::move(ours));
    guests.reset();
    EXPECT_THROW(agent.answered(), Error);
}

} // namespace
} // namespace airlock::vm
