#include "common/error.hpp"
#include "common/http_client.hpp"
#include "common/http_server.hpp"
#include "error_of.hpp"
#include "test_pki.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>
#include <thread>

namespace airlock::tls
{
namespace
{

using std::chrono::hours;
using test::errorOf;
using testing::AnyOf;
using testing::HasSubstr;

/** A server that answers everything, and what it said of refused peers. */
class TlsTest : public testing::Test
{
  protected:
    class Fine : public http::Exchange
    {
      public:
        http::Answer finish() override { return http::Answer::json({}); }
    };

    void start(std::shared_ptr<const Context> context)
    {
        http::Server::Options options;
        options.address = "127.0.0.1";
        options.notice = [this](const std::string&, const std::string& what) {
            std::lock_guard lock(mutex);
            notices += what + "\n";
        };
        server.emplace(options, std::move(context), [](const http::Request&) {
            return std::make_unique<Fine>();
        });
    }

    /** The error of a call, "" when it worked. */
    std::string callWith(const Identity& identity)
    {
        auto context =
            std::make_shared<Context>(identity, Context::Side::client);
        http::Client client({"127.0.0.1", server->port(), bootRole}, context);
        return errorOf<Error>([&] { client.call("GET", "/a"); });
    }

    /** Waits for it: the peer may hear of its refusal first. */
    bool serverSays(const std::string& text)
    {
        Deadline deadline(std::chrono::seconds(10));
        for (;;)
        {
            {
                std::lock_guard lock(mutex);
                if (notices.find(text) != std::string::npos)
                {
                    return true;
                }
            }
            if (deadline.passed())
            {
                return false;
            }
            std::this_thread::sleep_for(Milliseconds(10));
        }
    }

    test::TestPki pki;
    std::optional<http::Server> server;
    std::mutex mutex;
    std::string notices;
};

TEST_F(TlsTest, hostAgentsGetIn)
{
    start(pki.server());
    EXPECT_EQ(callWith(pki.identity("host1", hostRole)), "");
    EXPECT_EQ(notices, "");
}

TEST_F(TlsTest, anotherAuthorityIsRefused)
{
    start(pki.server());
    auto other = airlock::pki::makeAuthority("other");
    EXPECT_THAT(callWith(pki.identity("host1", hostRole, other)),
                HasSubstr("it does not accept us: "));
    EXPECT_TRUE(serverSays("unable to get local issuer"));
}

TEST_F(TlsTest, anotherAuthorityOfTheSameNameIsRefused)
{
    start(pki.server());
    auto other = airlock::pki::makeAuthority("test-authority");
    EXPECT_THAT(callWith(pki.identity("host1", hostRole, other)),
                HasSubstr("it does not accept us: "));
}

TEST_F(TlsTest, expiredAndFutureCertificatesAreRefused)
{
    start(pki.server());
    // Made before it expires, used afterwards: the file itself is checked too.
    auto expired = pki.identity("old", hostRole, pki.authority(),
                                {hours(-48), hours(-24)});
    EXPECT_THAT(
        errorOf<Error>([&] { Context(expired, Context::Side::client); }),
        HasSubstr("has expired"));
    auto future =
        pki.identity("new", hostRole, pki.authority(), {hours(24), hours(48)});
    EXPECT_THAT(callWith(future), HasSubstr("it does not accept us: "));
    EXPECT_TRUE(serverSays("not yet valid"));
}

TEST_F(TlsTest, anotherRoleIsRefused)
{
    start(pki.server());
    EXPECT_THAT(callWith(pki.identity("boot2", bootRole)),
                HasSubstr("boot2 has the role airlock-bootd, not "
                          "airlock-hostd"));
    EXPECT_THAT(callWith(pki.identity("x", "airlock-hostd2")),
                HasSubstr("has the role"));
}

TEST_F(TlsTest, aServerOfAnotherAuthorityIsRefused)
{
    auto other = airlock::pki::makeAuthority("other");
    start(std::make_shared<Context>(pki.identity("boot1", bootRole, other),
                                    Context::Side::server));
    EXPECT_THAT(callWith(pki.identity("host1", hostRole)),
                HasSubstr("its certificate is not accepted: "));
}

TEST_F(TlsTest, aKeyOfAnotherCertificateIsRefused)
{
    Identity mixed = pki.identity("a", hostRole);
    auto refusal = [&mixed] {
        return errorOf<Error>([&] { Context(mixed, Context::Side::client); });
    };
    EXPECT_EQ(refusal(), "");
    mixed.key = pki.identity("b", hostRole).key;
    EXPECT_THAT(refusal(), HasSubstr("values mismatch"));
    mixed.key = "/nowhere/key.pem";
    EXPECT_THAT(
        refusal(),
        HasSubstr("cannot use /nowhere/key.pem as the certificate's key"));
}

TEST(Pki, namesThatNoCertificateCanHaveAreRefused)
{
    auto authority = pki::makeAuthority("a");
    EXPECT_THROW(pki::makeAuthority(""), Error);
    EXPECT_THROW(pki::issue(authority, {"a b", hostRole, {}}), Error);
    EXPECT_THROW(pki::issue(authority, {"a", "", {}}), Error);
    EXPECT_THROW(pki::issue(authority, {"a", hostRole, {"a,DNS:b"}}), Error);
    EXPECT_NO_THROW(pki::issue(authority, {"a", hostRole, {"::1", "b.c"}}));
    auto other = pki::makeAuthority("b");
    EXPECT_THROW(
        pki::issue({authority.certificate, other.key}, {"a", hostRole, {}}),
        Error);
}

} // namespace
} // namespace airlock::tls
