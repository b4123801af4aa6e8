#include "common/error.hpp"
#include "common/http_client.hpp"
#include "common/http_server.hpp"
#include "error_of.hpp"
#include "test_pki.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <thread>

namespace airlock::http
{
namespace
{

using test::errorOf;
using testing::ElementsAre;
using testing::HasSubstr;

/** Bytes that can be checked without keeping them. */
std::uint8_t byteAt(std::uint64_t offset)
{
    return static_cast<std::uint8_t>(offset * 7 + (offset >> 12));
}

class Pattern : public BodySource
{
  public:
    explicit Pattern(std::uint64_t bytes) : bytes_(bytes) {}
    std::uint64_t bytes() const override { return bytes_; }
    std::size_t read(std::span<std::uint8_t> out) override
    {
        for (std::uint8_t& byte : out)
        {
            byte = byteAt(at_++);
        }
        return out.size();
    }

  private:
    std::uint64_t bytes_;
    std::uint64_t at_ = 0;
};

/** What the test's server got. */
struct Seen
{
    std::mutex mutex;
    std::vector<std::string> path;
    tls::Peer peer;
    std::string body;
    std::uint64_t streamed = 0;
    bool streamRight = true;
    std::vector<std::string> notices;
    std::uint64_t worth = 0; ///< progress for each byte
};

class Echo : public Exchange
{
  public:
    Echo(Seen& seen, Body body, std::uint64_t answerBytes)
        : seen_(seen), body_(body), answerBytes_(answerBytes)
    {}

    Body body() const override { return body_; }
    std::uint64_t maxBytes() const override { return 8U << 20; }
    std::uint64_t progress() const override { return progress_; }
    void receive(ByteView data) override
    {
        std::lock_guard lock(seen_.mutex);
        progress_ += data.size() * seen_.worth;
        if (body_ == Body::json)
        {
            seen_.body.append(data.begin(), data.end());
            return;
        }
        for (std::uint8_t byte : data)
        {
            seen_.streamRight &= byte == byteAt(seen_.streamed++);
        }
    }
    Answer finish() override
    {
        if (answerBytes_ > 0)
        {
            Answer answer;
            answer.type = octetsType;
            answer.stream = std::make_unique<Pattern>(answerBytes_);
            return answer;
        }
        return Answer::json({{"ok", true}});
    }

  private:
    Seen& seen_;
    Body body_;
    std::uint64_t answerBytes_;
    std::uint64_t progress_ = 0;
};

class HttpTest : public testing::Test
{
  protected:
    void start(const ServerLimits& limits = {})
    {
        Server::Options options;
        options.address = "127.0.0.1";
        options.limits = limits;
        options.notice = [this](const std::string&, const std::string& what) {
            std::lock_guard lock(seen.mutex);
            seen.notices.push_back(what);
        };
        server.emplace(options, pki.server(),
                       [this](const Request& request) { return on(request); });
    }

    std::unique_ptr<Exchange> on(const Request& request)
    {
        std::lock_guard lock(seen.mutex);
        seen.path = request.path;
        seen.peer = request.peer;
        const std::string& last = request.path.back();
        if (last == "problem")
        {
            throw Problem(409, "not-now", "this cannot be done now");
        }
        if (last == "refused")
        {
            throw Refused("here", "is wrong");
        }
        if (last == "broken")
        {
            throw Error("a disk is full");
        }
        using Body = Exchange::Body;
        Body body = last == "json"     ? Body::json
                    : last == "stream" ? Body::stream
                                       : Body::none;
        return std::make_unique<Echo>(seen, body, last == "big" ? 5000001 : 0);
    }

    Endpoint endpoint(const std::string& host = "127.0.0.1")
    {
        return {host, server->port(), tls::bootRole};
    }
    Client client() { return {endpoint(), pki.client()}; }

    test::TestPki pki;
    Seen seen;
    std::optional<Server> server;
};

void sendPattern(const BodySink& sink, std::uint64_t bytes)
{
    Pattern source(bytes);
    Bytes piece(100000);
    while (bytes > 0)
    {
        std::size_t some =
            static_cast<std::size_t>(std::min<std::uint64_t>(bytes, 100000));
        source.read(std::span(piece).first(some));
        sink(ByteView(piece).first(some));
        bytes -= some;
    }
}

Problem problemOf(const std::function<void()>& call)
{
    try
    {
        call();
    }
    catch (const Problem& problem)
    {
        return problem;
    }
    throw Error("there was no problem");
}

TEST_F(HttpTest, clientsKnowWhoTheServerIs)
{
    start();
    Client one = client();
    EXPECT_FALSE(one.peer());
    one.call("GET", "/v1/x");
    ASSERT_TRUE(one.peer());
    EXPECT_EQ(one.peer()->name, "boot1");
    EXPECT_EQ(one.peer()->role, tls::bootRole);
    // As long as certificates are made to last here.
    int days = static_cast<int>(
        std::chrono::floor<std::chrono::days>(pki::Validity().end).count());
    EXPECT_GE(one.peer()->daysLeft, days - 1);
    EXPECT_LE(one.peer()->daysLeft, days);
    one.close();
    EXPECT_TRUE(one.peer());
}

TEST_F(HttpTest, callsOneAfterTheOtherOnOneConnection)
{
    start();
    Client it = client();
    for (int i = 0; i < 3; i++)
    {
        Response response = it.call("GET", "/v1/a/b-c.d");
        EXPECT_EQ(response.status, 200U);
        EXPECT_EQ(response.json(), Json({{"ok", true}}));
    }
    EXPECT_THAT(seen.path, ElementsAre("v1", "a", "b-c.d"));
    EXPECT_EQ(seen.peer.name, "host1");
    EXPECT_EQ(seen.peer.role, tls::hostRole);
    EXPECT_EQ(server->connections(), 1U);
}

TEST_F(HttpTest, sendsJson)
{
    start();
    client().call("POST", "/json", Json{{"text", "ä\n"}});
    EXPECT_EQ(parseJson(seen.body, "body"), Json({{"text", "ä\n"}}));
}

TEST_F(HttpTest, streamsBothWays)
{
    start();
    Client it = client();
    it.upload("PUT", "/stream",
              [](const BodySink& sink) { sendPattern(sink, 3000001); });
    EXPECT_EQ(seen.streamed, 3000001U);
    EXPECT_TRUE(seen.streamRight);

    std::uint64_t received = 0;
    bool right = true;
    auto check = [&](ByteView data) {
        for (std::uint8_t byte : data)
        {
            right &= byte == byteAt(received++);
        }
    };
    EXPECT_EQ(it.download("/big", check, 6000000), 5000001U);
    EXPECT_EQ(received, 5000001U);
    EXPECT_TRUE(right);
    EXPECT_THROW(it.download("/big", check, 5000000), Refused);
}

TEST_F(HttpTest, problemsOfHandlersReachTheClient)
{
    start();
    Client it = client();
    Problem problem = problemOf([&] { it.call("GET", "/problem"); });
    EXPECT_EQ(problem.status(), 409U);
    EXPECT_EQ(problem.code(), "not-now");
    EXPECT_STREQ(problem.what(), "this cannot be done now");
    problem = problemOf([&] { it.call("GET", "/refused"); });
    EXPECT_EQ(problem.status(), 400U);
    EXPECT_STREQ(problem.what(), "here: is wrong");
    problem = problemOf([&] { it.call("GET", "/broken"); });
    EXPECT_EQ(problem.status(), 500U);
    EXPECT_EQ(server->connections(), 1U);
}

TEST_F(HttpTest, tooLongUploadsGetTheirAnswer)
{
    start();
    Client it = client();
    Problem problem = problemOf([&] {
        it.upload("PUT", "/stream",
                  [](const BodySink& sink) { sendPattern(sink, 1U << 30); });
    });
    EXPECT_EQ(problem.status(), 413U);
    EXPECT_LT(seen.streamed, 9U << 20);
    // The next call makes a new connection.
    EXPECT_EQ(it.call("GET", "/a").status, 200U);
}

TEST_F(HttpTest, uploadsToAProblemEndEarly)
{
    start();
    std::uint64_t sent = 0;
    Problem problem = problemOf([&] {
        client().upload("PUT", "/problem", [&](const BodySink& sink) {
            Bytes piece(1U << 20);
            for (int i = 0; i < 4096; i++)
            {
                sink(piece);
                sent += piece.size();
            }
        });
    });
    EXPECT_EQ(problem.code(), "not-now");
    EXPECT_LT(sent, 1U << 30);
}

TEST_F(HttpTest, aProducersExceptionPassesAndNothingIsFinished)
{
    start();
    Client it = client();
    EXPECT_THROW(it.upload("PUT", "/stream",
                           [](const BodySink& sink) {
                               sendPattern(sink, 300000);
                               throw Refused("source", "cannot be read");
                           }),
                 Refused);
    EXPECT_EQ(it.call("GET", "/a").status, 200U);
}

TEST_F(HttpTest, aCallerMayEndAStreamThatGoesOn)
{
    start();
    int pieces = 0;
    ClientLimits limits;
    limits.tick = [&pieces] {
        if (++pieces == 5)
        {
            throw TimedOut("long enough");
        }
    };
    Client it(endpoint(), pki.client(), limits);
    EXPECT_THROW(it.upload("PUT", "/stream",
                           [](const BodySink& sink) {
                               for (;;)
                               {
                                   sendPattern(sink, 100000);
                               }
                           }),
                 TimedOut);
    pieces = 0;
    std::uint64_t received = 0;
    EXPECT_THROW(
        it.download(
            "/big", [&](ByteView data) { received += data.size(); }, 6000000),
        TimedOut);
    EXPECT_GT(received, 0U);
    EXPECT_LT(received, 5000001U);
    // Calls that are not streams have a time of their own.
    pieces = 4;
    EXPECT_EQ(it.call("GET", "/a").status, 200U);
}

TEST_F(HttpTest, pathsWithTricksAreRefused)
{
    start();
    Client it = client();
    for (const char* path :
         {"/..", "/v1/../../etc/passwd", "/v1/%2e%2e", "//", "/v1//x", "/v1/",
          "/v1?x=1", "/v1/a%00b", "/v1/a\\b", "/."})
    {
        Problem problem = problemOf([&] { it.call("GET", path); });
        EXPECT_EQ(problem.status(), 400U) << path;
    }
    EXPECT_TRUE(seen.path.empty());
}

TEST_F(HttpTest, bodiesThatAreNotWantedAreRefused)
{
    start();
    Problem problem = problemOf([&] {
        client().call("POST", "/a", Json{{"a", 1}});
    });
    EXPECT_EQ(problem.status(), 400U);
    problem = problemOf([&] {
        client().call("POST", "/json", Json(std::string(2U << 20, 'x')));
    });
    EXPECT_EQ(problem.status(), 413U);
}

TEST_F(HttpTest, aServerOfAnotherRoleIsRefused)
{
    start();
    Endpoint wrong = endpoint();
    wrong.role = tls::hostRole;
    EXPECT_THROW(Client(wrong, pki.client()).call("GET", "/a"), Refused);
}

TEST_F(HttpTest, aServerWithAnotherNameIsRefused)
{
    start();
    Endpoint other = endpoint("127.0.0.3");
    other.port = server->port();
    Server::Options options;
    options.address = "127.0.0.3";
    Server second(options, pki.server(),
                  [this](const Request& request) { return on(request); });
    other.port = second.port();
    EXPECT_THAT(errorOf([&] { Client(other, pki.client()).call("GET", "/a"); }),
                HasSubstr("IP address mismatch"));
}

TEST_F(HttpTest, aSlowBodyIsEnded)
{
    ServerLimits limits;
    limits.rateWindow = Milliseconds(300);
    limits.rateBytes = 10000000;
    start(limits);
    EXPECT_THROW(client().upload("PUT", "/stream",
                                 [](const BodySink& sink) {
                                     for (int i = 0; i < 20; i++)
                                     {
                                         sendPattern(sink, 262144);
                                         std::this_thread::sleep_for(
                                             Milliseconds(250));
                                     }
                                 }),
                 Error);
    std::lock_guard lock(seen.mutex);
    EXPECT_THAT(seen.notices, testing::Contains("too slow with a body"));
}

TEST_F(HttpTest, aSlowBodyThatSaysMuchIsNot)
{
    ServerLimits limits;
    limits.rateWindow = Milliseconds(2000);
    limits.rateBytes = 10000000;
    start(limits);
    seen.worth = 10000000;
    client().upload("PUT", "/stream", [](const BodySink& sink) {
        for (int i = 0; i < 6; i++) // three windows
        {
            sendPattern(sink, 10);
            std::this_thread::sleep_for(Milliseconds(1000));
        }
    });
    EXPECT_EQ(seen.streamed, 60U);
}

TEST_F(HttpTest, oneAddressCannotTakeAllConnections)
{
    ServerLimits limits;
    limits.connections = 4;
    limits.connectionsEach = 2;
    start(limits);
    std::vector<Client> clients;
    for (int i = 0; i < 2; i++)
    {
        clients.push_back(client());
        clients.back().call("GET", "/a");
    }
    EXPECT_THROW(client().call("GET", "/a"), Error);
    {
        std::lock_guard lock(seen.mutex);
        EXPECT_THAT(seen.notices,
                    testing::Contains("refused: too many connections"));
    }
    clients.pop_back();
    for (int i = 0; server->connections() > 1 && i < 100; i++)
    {
        std::this_thread::sleep_for(Milliseconds(20));
    }
    EXPECT_EQ(client().call("GET", "/a").status, 200U);
}

TEST_F(HttpTest, stoppingEndsConnections)
{
    start();
    Client it = client();
    it.call("GET", "/a");
    server.reset();
    EXPECT_THROW(it.call("GET", "/a"), Error);
}

} // namespace
} // namespace airlock::http
