#include "common/file.hpp"
#include "common/qmp.hpp"
#include "common/socket.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <functional>
#include <thread>

using namespace std::chrono_literals;

namespace airlock
{
namespace
{

constexpr const char* greeting =
    R"({"QMP":{"version":{"qemu":{"micro":13,"minor":0,"major":10},)"
    R"("package":""},"capabilities":["oob"]}})"
    "\r\n";

/** The other end of the socket, played by a script in a thread of its own. */
class Peer
{
  public:
    using Script = std::function<void(Peer&)>;

    /** Greets and accepts qmp_capabilities, then plays the script. */
    static Script negotiated(Script script)
    {
        return [script = std::move(script)](Peer& peer) {
            peer.say(greeting);
            peer.answer(peer.hear(), "{}");
            script(peer);
        };
    }

    Peer(UniqueFd socket, Script script)
        : socket_(std::move(socket)),
          thread_([this, script = std::move(script)] {
              try
              {
                  script(*this);
              }
              catch (const Error&)
              {
                  // The client went away in the middle, as some tests want.
              }
              socket_.reset();
          })
    {}
    ~Peer() { thread_.join(); }

    void say(std::string_view text)
    {
        sendAll(socket_.get(), text, Deadline(10s));
    }

    Json hear()
    {
        while (buffer_.find('\n') == std::string::npos)
        {
            receiveSome(socket_.get(), buffer_, 4096, Deadline(10s));
        }
        std::size_t end = buffer_.find('\n');
        Json message = parseJson(buffer_.substr(0, end), "peer");
        buffer_.erase(0, end + 1);
        return message;
    }

    void answer(const Json& request, const std::string& result)
    {
        say("{\"return\": " + result + ", \"id\": " + request["id"].dump() +
            "}\r\n");
    }

    int fd() const { return socket_.get(); }

  private:
    UniqueFd socket_;
    std::string buffer_;
    std::thread thread_;
};

/** A client and its scripted peer. */
struct Session
{
    explicit Session(Peer::Script script)
        : ends(socketPair()), peer(std::move(ends.second), std::move(script))
    {}

    QmpClient client(const QmpLimits& limits = {})
    {
        return QmpClient(std::move(ends.first), 5s, limits);
    }

    std::pair<UniqueFd, UniqueFd> ends;
    Peer peer;
};

TEST(Qmp, NegotiatesAndExecutes)
{
    Session session(Peer::negotiated([](Peer& peer) {
        Json request = peer.hear();
        EXPECT_EQ(request["execute"], "query-status");
        EXPECT_FALSE(request.contains("arguments"));
        peer.answer(request, R"({"status":"running"})");
        request = peer.hear();
        EXPECT_EQ(request["arguments"], Json({{"name", "x"}}));
        peer.answer(request, "{}");
    }));
    QmpClient qmp = session.client();
    EXPECT_EQ(qmp.version(), "10.0.13");
    EXPECT_EQ(qmp.execute("query-status")["status"], "running");
    EXPECT_EQ(qmp.execute("set_link", {{"name", "x"}}), Json::object());
}

TEST(Qmp, ErrorsCarryClassAndText)
{
    Session session(Peer::negotiated([](Peer& peer) {
        Json request = peer.hear();
        peer.say("{\"id\":" + request["id"].dump() +
                 R"(,"error":{"class":"CommandNotFound","desc":"no such"}})"
                 "\n");
    }));
    QmpClient qmp = session.client();
    try
    {
        qmp.execute("frobnicate");
        FAIL() << "an error was taken for a result";
    }
    catch (const QmpError& error)
    {
        EXPECT_EQ(error.errorClass(), "CommandNotFound");
        EXPECT_EQ(error.description(), "no such");
        EXPECT_THAT(error.what(), testing::HasSubstr("frobnicate"));
    }
}

TEST(Qmp, QueuesEventsThatComeBeforeAnAnswer)
{
    Session session(Peer::negotiated([](Peer& peer) {
        Json request = peer.hear();
        peer.say(R"({"event":"RESUME","timestamp":{}})"
                 "\n"
                 R"({"event":"STOP","data":{"n":1}})"
                 "\n");
        peer.answer(request, "{}");
        peer.hear();
        peer.say(R"({"event":"STOP","data":{"n":2}})"
                 "\n");
        peer.hear(); // until the client is done
    }));
    QmpClient qmp = session.client();
    qmp.execute("stop");
    EXPECT_EQ(qmp.waitEvent("STOP", 5s).data["n"], 1);
    EXPECT_FALSE(qmp.pollEvent("STOP").has_value());
    EXPECT_EQ(qmp.pollEvent("RESUME")->data, Json::object());
    EXPECT_THROW(qmp.execute("again", {}, 50ms), TimedOut);
    EXPECT_EQ(
        qmp.waitEvent([](const QmpEvent& e) { return e.data["n"] == 2; }, 5s)
            .name,
        "STOP");
}

TEST(Qmp, PassesAFileDescriptor)
{
    UniqueFd passed = createMemfd("passed", 123);
    Session session(Peer::negotiated([](Peer& peer) {
        char byte = 0;
        iovec part{&byte, 1};
        alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
        msghdr message = {};
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        ASSERT_EQ(::recvmsg(peer.fd(), &message, 0), 1);
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        ASSERT_NE(header, nullptr);
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(header), sizeof(fd));
        UniqueFd received(fd);
        EXPECT_EQ(fileSize(received.get()), 123U);
        std::string rest;
        receiveSome(peer.fd(), rest, 4096, Deadline(5s));
        Json request = parseJson(byte + rest, "request");
        EXPECT_EQ(request["execute"], "getfd");
        peer.answer(request, "{}");
    }));
    QmpClient qmp = session.client();
    qmp.executeWithFd("getfd", {{"fdname", "state"}}, passed.get());
    EXPECT_EQ(fileSize(passed.get()), 123U) << "ours stays open";
}

TEST(Qmp, IgnoresTheLateAnswerToATimedOutCommand)
{
    Session session(Peer::negotiated([](Peer& peer) {
        Json slow = peer.hear();
        Json next = peer.hear();
        peer.answer(slow, R"("late")");
        peer.answer(next, R"("right")");
    }));
    QmpClient qmp = session.client();
    EXPECT_THROW(qmp.execute("slow", {}, 50ms), TimedOut);
    EXPECT_EQ(qmp.execute("next"), "right");
}

TEST(Qmp, AFloodOfEventsNeitherGrowsNorPushesTheTimeBack)
{
    Session session(Peer::negotiated([](Peer& peer) {
        for (;;)
        {
            peer.say(R"({"event":"NOISE","data":{"x":"yyyyyyyyyyyy"}})"
                     "\n");
        }
    }));
    QmpLimits limits;
    limits.queueEvents = 10;
    auto start = std::chrono::steady_clock::now();
    {
        QmpClient qmp = session.client(limits);
        EXPECT_THROW(qmp.waitEvent("STOP", 100ms), TimedOut);
        EXPECT_GT(qmp.lostEvents(), 0U);
        qmp.clearEvents();
    }
    EXPECT_LT(std::chrono::steady_clock::now() - start, 5s);
}

TEST(Qmp, TheEventQueueIsBoundedInBytesToo)
{
    Session session(Peer::negotiated([](Peer& peer) {
        Json request = peer.hear();
        std::string big(1000, 'a');
        for (int i = 0; i < 5; ++i)
        {
            peer.say("{\"event\":\"E\",\"data\":{\"x\":\"" + big + "\"}}\n");
        }
        peer.answer(request, "{}");
    }));
    QmpLimits limits;
    limits.queueBytes = 2500;
    QmpClient qmp = session.client(limits);
    qmp.execute("x");
    EXPECT_EQ(qmp.lostEvents(), 3U);
}

/** Every one of these has to end in Refused or Error, never in a crash. */
TEST(Qmp, RefusesOddMessages)
{
    for (const char* line :
         {"nonsense", "[]", "7", "\"text\"", "{\"id\":2}",
          "{\"id\":2,\"error\":7}", "{\"id\":2,\"error\":{\"class\":[]}}",
          "{\"event\":5}", "{\"event\":{}}", "\xff\xfe", ""})
    {
        Session session(Peer::negotiated([line](Peer& peer) {
            peer.hear();
            peer.say(std::string(line) + "\n");
        }));
        QmpClient qmp = session.client();
        EXPECT_THROW(qmp.execute("x", {}, 2s), Refused) << line;
    }
}

TEST(Qmp, RefusesDeepNestingAndEndlessLines)
{
    Session deep(Peer::negotiated([](Peer& peer) {
        peer.hear();
        peer.say(std::string(100000, '[') + "\n");
    }));
    QmpClient first = deep.client();
    EXPECT_THROW(first.execute("x", {}, 5s), Refused);

    Session endless(Peer::negotiated([](Peer& peer) {
        peer.hear();
        for (;;)
        {
            peer.say(std::string(4096, ' '));
        }
    }));
    QmpLimits limits;
    limits.lineBytes = 100000;
    {
        QmpClient second = endless.client(limits);
        EXPECT_THROW(second.execute("x", {}, 10s), Refused);
    }
}

TEST(Qmp, RefusesAGreetingThatIsNone)
{
    for (const char* line :
         {"{}", "{\"QMP\":7}", "{\"QMP\":{\"version\":{\"qemu\":{}}}}",
          "{\"QMP\":{\"version\":{\"qemu\":{\"major\":-1}}}}"})
    {
        Session session(
            [line](Peer& peer) { peer.say(std::string(line) + "\n"); });
        EXPECT_THROW(session.client(), Refused) << line;
    }
}

TEST(Qmp, APeerThatGoesAwayIsAnError)
{
    Session session(Peer::negotiated([](Peer& peer) { peer.hear(); }));
    QmpClient qmp = session.client();
    EXPECT_THROW(qmp.execute("x", {}, 10s), Error);
}

TEST(Qmp, ConnectWaitsForTheSocketAndTimesOut)
{
    TempDirectory dir;
    EXPECT_THROW(QmpClient::connect(dir.path() / "qmp", 30ms), TimedOut);
    EXPECT_THROW(QmpClient::connect(std::string(200, 'x'), 30ms), Error);
}

} // namespace
} // namespace airlock
