#include "common/error.hpp"
#include "common/file.hpp"
#include "common/socket.hpp"
#include "common/status_server.hpp"
#include "error_of.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <list>

namespace airlock
{
namespace
{

using test::errorOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using namespace std::chrono_literals;

StatusPage pages(const std::string& path)
{
    if (path == "/broken")
    {
        throw Error("broken on purpose");
    }
    if (path == "/large")
    {
        return {200, "text/plain", std::string(5U << 20, 'x')};
    }
    if (path == "/ill")
    {
        return {503, "application/json", "{}"};
    }
    return {path == "/metrics" ? 200U : 404U, "text/plain", "path " + path};
}

/** Sends bytes and reads until the server closes. */
std::string exchange(UniqueFd fd, std::string_view bytes)
{
    sendAll(fd.get(), bytes, Deadline(5s));
    std::string in;
    Deadline deadline(20s);
    try
    {
        while (receiveSome(fd.get(), in, 65536, deadline))
        {}
    }
    catch (const Error&)
    {
        return in;
    }
    return in + "(still open)";
}

class Status : public ::testing::Test
{
  protected:
    std::string ask(std::string_view bytes)
    {
        return exchange(connectTcp("127.0.0.1", server.port(), Deadline(5s)),
                        bytes);
    }

    StatusServer server{"127.0.0.1:0", pages, {4, 500ms}};
};

TEST_F(Status, AnswersGetAndHead)
{
    std::string answer = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
    EXPECT_THAT(answer, HasSubstr("\r\nContent-Length: 13\r\n"));
    EXPECT_THAT(answer, HasSubstr("\r\nConnection: close\r\n"));
    EXPECT_THAT(answer, EndsWith("\r\n\r\npath /metrics"));
    EXPECT_EQ(ask("GET /metrics?a=b HTTP/1.0\r\n\r\n"), answer);
    EXPECT_THAT(ask("HEAD /metrics HTTP/1.1\r\n\r\n"),
                EndsWith("Connection: close\r\n\r\n"));
    EXPECT_THAT(ask("GET / HTTP/1.1\r\n\r\n"), StartsWith("HTTP/1.1 404 "));
    EXPECT_THAT(ask("GET /ill HTTP/1.1\r\n\r\n"),
                StartsWith("HTTP/1.1 503 Service Unavailable\r\n"));
}

TEST_F(Status, SaysWhatIsWrong)
{
    EXPECT_THAT(ask("POST /metrics HTTP/1.1\r\n\r\n"),
                StartsWith("HTTP/1.1 405 "));
    for (const char* junk :
         {"junk\r\n\r\n", "GET /metrics\r\n\r\n", "GET\r\n\r\n", "\r\n\r\n",
          "GET /metrics HTTP/2.0\r\n\r\n"})
    {
        EXPECT_THAT(ask(junk), StartsWith("HTTP/1.1 400 ")) << junk;
    }
    EXPECT_THAT(ask("GET /broken HTTP/1.1\r\n\r\n"),
                EndsWith("broken on purpose\n"));
    EXPECT_THAT(ask("GET /metrics HTTP/1.1\r\n" + std::string(20000, 'a')),
                StartsWith("HTTP/1.1 431 "));
}

TEST_F(Status, SendsWhatIsLargerThanASocketTakes)
{
    std::string answer = ask("GET /large HTTP/1.1\r\n\r\n");
    EXPECT_EQ(answer.size() - answer.find("\r\n\r\n") - 4, 5U << 20);
}

/** Peers that say nothing are cut off, and do not keep others out for long. */
TEST_F(Status, SlowPeersAreCutOff)
{
    std::list<UniqueFd> silent;
    for (int i = 0; i < 6; i++)
    {
        silent.push_back(connectTcp("127.0.0.1", server.port(), Deadline(5s)));
    }
    EXPECT_THAT(ask("GET /metrics HTTP/1.1\r\n\r\n"),
                EndsWith("path /metrics"));
    std::string nothing;
    EXPECT_THROW(receiveSome(silent.front().get(), nothing, 1, Deadline(10s)),
                 Error);
}

TEST(StatusUnix, ListensOnASocketThatGoesAwayWithIt)
{
    TempDirectory directory;
    std::string path = directory.path() / "status.sock";
    {
        UniqueFd dead = listenUnix(path);
    }
    {
        StatusServer server(path, pages);
        struct stat info = {};
        ASSERT_EQ(::stat(path.c_str(), &info), 0);
        EXPECT_EQ(info.st_mode & 0777, 0660U);
        EXPECT_THAT(
            exchange(connectUnix(path, 5s), "GET /metrics HTTP/1.1\r\n\r\n"),
            EndsWith("path /metrics"));
        EXPECT_THAT(errorOf<Error>([&] { StatusServer(path, pages); }),
                    HasSubstr("another process listens"));
    }
    EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(StatusUnix, AddressesAreChecked)
{
    for (const char* where :
         {"", "127.0.0.1", ":80", "127.0.0.1:", "127.0.0.1:99999", "::1:80",
          "[::1]", "host name:80", "127.0.0.1:80x"})
    {
        EXPECT_THROW(StatusServer(where, pages), Error) << where;
    }
}

TEST(HealthCheckTest, IsDoneOnceInAWhile)
{
    int done = 0;
    HealthCheck check(
        [&] {
            done++;
            throw Error("ill");
        },
        std::chrono::hours(1));
    EXPECT_EQ(check.trouble(), "ill");
    EXPECT_EQ(check.trouble(), "ill");
    EXPECT_EQ(done, 1);
    HealthCheck always([&] { done++; }, 0ms);
    EXPECT_EQ(always.trouble(), "");
    EXPECT_EQ(always.trouble(), "");
    EXPECT_EQ(done, 3);
}

} // namespace
} // namespace airlock
