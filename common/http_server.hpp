#pragma once

#include "common/deadline.hpp"
#include "common/http.hpp"
#include "common/tls.hpp"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace airlock::http
{

/** The head of a request; the path is split at '/', "/v1/jobs" has the parts
 * "v1" and "jobs". Parts are 1 to 128 characters of [A-Za-z0-9._-], and
 * neither "." nor "..": everything else has been refused. */
struct Request
{
    std::string method; ///< "GET"
    std::vector<std::string> path;
    tls::Peer peer;
};

/** The parts of a request's path; Refused when one of them is none. */
std::vector<std::string> splitPath(std::string_view path);

/** Bytes of an answer, pulled when the peer takes them. */
class BodySource
{
  public:
    virtual ~BodySource() = default;
    /** How many there will be. */
    virtual std::uint64_t bytes() const = 0;
    /** Fills a part of `out`; not 0 before all have been delivered. An
     * exception breaks the connection off. */
    virtual std::size_t read(std::span<std::uint8_t> out) = 0;
};

struct Answer
{
    unsigned status = 200;
    std::string type = jsonType;
    std::string body;
    std::unique_ptr<BodySource> stream; ///< instead of body

    static Answer json(const Json& value, unsigned status = 200);
};

/** One request from its head to its answer. Destroyed without finish() when
 * the connection breaks or the body is refused. */
class Exchange
{
  public:
    virtual ~Exchange() = default;

    enum class Body
    {
        none,
        json,   ///< small; the limits for JSON hold
        stream, ///< long; the least rate holds
    };
    virtual Body body() const { return Body::none; }
    /** Most bytes of a streamed body. */
    virtual std::uint64_t maxBytes() const { return 0; }
    /** The next bytes of the body. */
    virtual void receive(ByteView) {}
    /** How far a streamed body has come, of one that says much in few bytes:
     * for the least rate these count like bytes. Never goes back. */
    virtual std::uint64_t progress() const { return 0; }
    /** The whole body has come: the answer. */
    virtual Answer finish() = 0;
};

/** Looks at the head of a request. It, and what it returns, may throw Problem
 * (sent as it is), Refused (400 "bad-request") or any other exception (500
 * "internal"). Called from several threads at once. */
using Handler = std::function<std::unique_ptr<Exchange>(const Request&)>;

struct ServerLimits
{
    std::size_t connections = 64;
    /** From one address: one peer cannot keep all others out. */
    std::size_t connectionsEach = 16;
    unsigned threads = 4;
    std::size_t headerBytes = 16U << 10;
    std::size_t jsonBytes = 1U << 20;
    Milliseconds handshake = std::chrono::seconds(10);
    Milliseconds header = std::chrono::seconds(10); ///< and for a JSON body
    Milliseconds idle = std::chrono::seconds(60);
    /** Streams are looked at once in each window; slower ones are ended. */
    Milliseconds rateWindow = std::chrono::seconds(10);
    std::uint64_t rateBytes = 64U << 10; ///< least bytes a second
};

/** What an operator wants to know about a connection that ended badly. */
using Notice =
    std::function<void(const std::string& peer, const std::string& what)>;

/** HTTP/1.1 over mutual TLS 1.3. Runs in its own threads from construction to
 * destruction. What peers can make it hold is bounded by the limits. */
class Server
{
  public:
    struct Options
    {
        std::string address = "::"; ///< IP address
        std::uint16_t port = 0;     ///< 0: any free one
        std::string role = tls::hostRole;
        ServerLimits limits;
        Notice notice; ///< may be empty; called from several threads
    };

    /** Throws Error when it cannot listen there. */
    Server(const Options& options, std::shared_ptr<const tls::Context> context,
           Handler handler);
    ~Server();
    Server(const Server&) = delete;
    Server& operator=(const Server&) = delete;

    std::uint16_t port() const;
    std::size_t connections() const;

    /** Takes no more connections, ends the ones that are there, waits for the
     * handlers. */
    void stop();

  private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace airlock::http
