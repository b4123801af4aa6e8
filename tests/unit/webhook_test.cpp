#include "common/error.hpp"
#include "common/http_server.hpp"
#include "common/socket.hpp"
#include "common/webhook.hpp"
#include "error_of.hpp"
#include "test_pki.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>

#include <future>
#include <memory>
#include <thread>

namespace airlock::http
{
namespace
{

using test::errorOf;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using ::testing::ThrowsMessage;
using namespace std::chrono_literals;

TEST(WebAddresses, AreTakenApart)
{
    EXPECT_EQ(parseWebAddress("http://h"), (WebAddress{false, "h", 80, "/"}));
    EXPECT_EQ(parseWebAddress("https://h.example/a/b?c=d"),
              (WebAddress{true, "h.example", 443, "/a/b?c=d"}));
    EXPECT_EQ(parseWebAddress("https://h:8443?x"),
              (WebAddress{true, "h", 8443, "/?x"}));
    EXPECT_EQ(parseWebAddress("http://[::1]:81/"),
              (WebAddress{false, "::1", 81, "/"}));
    EXPECT_EQ(parseWebAddress("http://127.0.0.1"),
              (WebAddress{false, "127.0.0.1", 80, "/"}));
}

TEST(WebAddresses, OthersAreRefused)
{
    for (const char* url :
         {"", "h", "ftp://h/", "http:/h", "http://", "http:///x", "http://h:/",
          "http://h:0/", "http://h:65536/", "http://h:8o/", "http://[::1",
          "http://[::1]x/", "http://user@h/", "http://user:pw@h/",
          "http://h/#part", "http://h/a b", "http://h/\r\nX: y",
          "http://h\r\n/", "http://h\x7f/"})
    {
        EXPECT_THROW(parseWebAddress(url), Refused) << url;
    }
    EXPECT_THROW(parseWebAddress("http://h/" + std::string(3000, 'x')),
                 Refused);
}

/** A server on loopback that answers one request with these bytes. */
class OneAnswer
{
  public:
    explicit OneAnswer(std::string answer)
        : listener_(listenTcp("127.0.0.1:0")),
          thread_([this, answer] { serve(answer); })
    {}

    WebAddress address() const
    {
        return {false, "127.0.0.1", localPort(listener_.get()), "/hook?k=v"};
    }

    /** What was asked, when it has been answered. */
    std::string request()
    {
        thread_.join();
        return request_;
    }

  private:
    void serve(const std::string& answer)
    try
    {
        std::string ready;
        pollfd entry{listener_.get(), POLLIN, 0};
        ::poll(&entry, 1, 10000);
        UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        Deadline deadline(10s);
        while (!request_.ends_with("}") &&
               receiveSome(fd.get(), request_, 4096, deadline))
        {}
        if (!answer.empty())
        {
            sendAll(fd.get(), answer, deadline);
        }
        else
        {
            // Silent until the other end has had enough.
            receiveSome(fd.get(), ready, 1, deadline);
        }
    }
    catch (const Error&)
    {
        // The other end went away.
    }

    UniqueFd listener_;
    std::string request_;
    std::jthread thread_;
};

TEST(Webhook, PostsJson)
{
    OneAnswer server("HTTP/1.1 204 No Content\r\n\r\n");
    postJson(server.address(), {{"what", "held"}}, 10s);
    std::string request = server.request();
    EXPECT_THAT(request, StartsWith("POST /hook?k=v HTTP/1.1\r\n"));
    EXPECT_THAT(request, HasSubstr("\r\nContent-Type: application/json\r\n"));
    EXPECT_THAT(request, HasSubstr("\r\nContent-Length: 15\r\n"));
    EXPECT_THAT(request, EndsWith("\r\n\r\n{\"what\":\"held\"}"));
}

TEST(Webhook, SaysWhatTheServerAnswered)
{
    auto failure = [](const std::string& answer, Milliseconds time) {
        OneAnswer server(answer);
        return errorOf<Error>([&] {
            postJson(server.address(), {{"a", 1}}, time);
        });
    };
    EXPECT_THAT(failure("HTTP/1.1 500 Oh\r\n\r\n", 10s), HasSubstr("500"));
    EXPECT_THAT(failure("HTTP/1.1 302 Found\r\n\r\n", 10s), HasSubstr("302"));
    EXPECT_THAT(failure("SSH-2.0-x\r\n", 10s), HasSubstr("HTTP"));
    EXPECT_THAT(failure(std::string(4096, 'x'), 10s), HasSubstr("HTTP"));
    EXPECT_THAT(failure("", 200ms), HasSubstr("in time"));
}

/** Such a server with TLS, as on the web: it wants no certificate. Answers one
 * request with 204; what was asked. */
std::string serveTls(int listener, const tls::Identity& identity)
{
    std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(
        SSL_CTX_new(TLS_server_method()), SSL_CTX_free);
    SSL_CTX_use_certificate_chain_file(context.get(),
                                       identity.certificate.c_str());
    SSL_CTX_use_PrivateKey_file(context.get(), identity.key.c_str(),
                                SSL_FILETYPE_PEM);
    pollfd entry{listener, POLLIN, 0};
    ::poll(&entry, 1, 10000);
    UniqueFd fd(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    std::unique_ptr<SSL, decltype(&SSL_free)> stream(SSL_new(context.get()),
                                                     SSL_free);
    SSL_set_fd(stream.get(), fd.get());
    std::string request;
    char piece[512];
    int got = SSL_accept(stream.get());
    while (got > 0 && !request.ends_with("}"))
    {
        got = SSL_read(stream.get(), piece, sizeof(piece));
        request.append(piece, got > 0 ? static_cast<std::size_t>(got) : 0);
    }
    constexpr std::string_view answer = "HTTP/1.1 204 No Content\r\n\r\n";
    SSL_write(stream.get(), answer.data(), answer.size());
    return request;
}

TEST(Webhook, PostsToAnHttpsServer)
{
    test::TestPki pki;
    const tls::Identity identity = pki.identity("hooks", tls::bootRole);
    UniqueFd listener = listenTcp("127.0.0.1:0");
    std::future<std::string> request =
        std::async(std::launch::async, serveTls, listener.get(), identity);
    postJson({true, "127.0.0.1", localPort(listener.get()), "/hook"},
             {{"what", "held"}}, 10s, identity.authorities);
    EXPECT_THAT(request.get(), AllOf(StartsWith("POST /hook HTTP/1.1\r\n"),
                                     EndsWith("{\"what\":\"held\"}")));
}

TEST(Webhook, AnHttpsServerHasToBeTheRightOne)
{
    test::TestPki pki;
    // A server that wants no certificate of its clients is not among what we
    // have; one that does ends the connection after its own was accepted.
    Server server({"127.0.0.1", 0}, pki.server(),
                  [](const Request&) -> std::unique_ptr<Exchange> {
                      throw Problem(404, "not-found", "nothing here");
                  });
    WebAddress address{true, "127.0.0.1", server.port(), "/"};
    std::filesystem::path ca = pki.identity("x", "y").authorities;
    EXPECT_THAT([&] { postJson(address, {}, 10s, ca); },
                ThrowsMessage<Error>(HasSubstr("certificate required")));
    EXPECT_THAT([&] { postJson(address, {}, 10s); },
                ThrowsMessage<Refused>(HasSubstr("is not accepted")));
    address.host = "127.0.0.3";
    Server other({"127.0.0.3", 0}, pki.server(), nullptr);
    address.port = other.port();
    EXPECT_THAT([&] { postJson(address, {}, 10s, ca); },
                ThrowsMessage<Refused>(HasSubstr("is not accepted")));
}

} // namespace
} // namespace airlock::http
