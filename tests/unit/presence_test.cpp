#include "bootsrv/machine/presence.hpp"
#include "common/error.hpp"
#include "common/http_server.hpp"
#include "test_pki.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>
#include <optional>

// What a boot host asks its switch over the network; the ports themselves are
// in the suite "machine".

namespace airlock::machine
{
namespace
{

using std::chrono::hours;
using testing::AllOf;
using testing::HasSubstr;

class SwitchCallsTest : public testing::Test
{
  protected:
    class State : public http::Exchange
    {
      public:
        explicit State(std::string state) : state_(std::move(state)) {}
        http::Answer finish() override
        {
            return http::Answer::json({{"state", state_}});
        }

      private:
        std::string state_;
    };

    void answer(const std::string& state)
    {
        std::lock_guard lock(mutex);
        says = state;
    }

    SwitchCalls calls(const pki::Validity& validity = {})
    {
        http::Server::Options options;
        options.address = "127.0.0.1";
        options.role = tls::bootRole;
        server.emplace(options,
                       std::make_shared<tls::Context>(
                           pki.identity("switch1", tls::switchRole,
                                        pki.authority(), validity),
                           tls::Context::Side::server),
                       [this](const http::Request&) {
                           std::lock_guard lock(mutex);
                           return std::make_unique<State>(says);
                       });
        Site::Switch site;
        site.host = "127.0.0.1";
        site.port = server->port();
        return {site, std::make_shared<tls::Context>(
                          pki.identity("boot1", tls::bootRole),
                          tls::Context::Side::client)};
    }

    test::TestPki pki;
    std::mutex mutex;
    std::string says = "open";
    std::optional<http::Server> server;
};

TEST_F(SwitchCallsTest, ReasonIsKeptAndToldOnceForEachChange)
{
    SwitchCalls port = calls();
    EXPECT_TRUE(port.isOpen());
    EXPECT_EQ(port.reason(), "");
    EXPECT_EQ(port.news(), "");
    answer("cut-off");
    EXPECT_FALSE(port.isOpen());
    EXPECT_THAT(port.reason(), HasSubstr("cut-off"));
    EXPECT_EQ(port.news(), port.reason());
    EXPECT_FALSE(port.isOpen());
    EXPECT_EQ(port.news(), "");
    server.reset();
    EXPECT_FALSE(port.isOpen());
    EXPECT_THAT(port.news(),
                AllOf(testing::Not(""), testing::Not(HasSubstr("cut-off"))));
}

TEST_F(SwitchCallsTest, WrongClockIsNamed)
{
    // To a clock that is days behind, all certificates are of the future.
    SwitchCalls port = calls({hours(24), hours(48)});
    EXPECT_FALSE(port.isOpen());
    EXPECT_THAT(port.reason(), HasSubstr("not yet valid"));
}

} // namespace
} // namespace airlock::machine
