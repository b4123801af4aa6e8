#pragma once

#include "common/deadline.hpp"
#include "common/http.hpp"
#include "common/tls.hpp"

#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace airlock::http
{

/** Where a server is and who it has to be. */
struct Endpoint
{
    std::string host; ///< name or address; its certificate has to be for it
    std::uint16_t port = 7420;
    std::string role = tls::bootRole;
};

/** What the server may make us wait and hold. */
struct ClientLimits
{
    Milliseconds connect = std::chrono::seconds(10); ///< with TLS handshake
    Milliseconds call = std::chrono::seconds(30);    ///< a call without stream
    /** No progress of a stream for so long ends it. */
    Milliseconds stall = std::chrono::seconds(30);
    std::size_t bodyBytes = 16U << 20; ///< of an answer that is not streamed
    /** Called before each piece of a stream, so at least once in the time of a
     * stall while the peer sends or takes anything; may throw, which ends the
     * stream. A peer that is slow enough would never end it otherwise. */
    std::function<void()> tick;
};

struct Response
{
    unsigned status = 0; ///< 200..299
    std::string type;    ///< content type
    std::string body;

    /** The body as JSON; Refused if it is none. */
    Json json() const;
};

/** Takes a piece of a body; may throw, which ends the transfer. */
using BodySink = std::function<void(ByteView)>;
/** Writes a body by calling the sink as often as it likes. */
using BodyProducer = std::function<void(const BodySink&)>;

/** A blocking client with one connection to one server.
 *
 * The connection is made by the first call, kept for the next ones, and made
 * anew when it was lost. An idle connection that the server has closed in the
 * meantime is noticed before anything is sent; apart from that nothing is sent
 * twice: trying again is the caller's decision. Not shared between threads.
 *
 * All calls throw Problem for an answer other than 2xx, TimedOut, Refused for
 * a peer that is not who it should be or does not speak HTTP, and Error when
 * the connection cannot be made or breaks.
 */
class Client
{
  public:
    Client(Endpoint endpoint, std::shared_ptr<const tls::Context> context,
           const ClientLimits& limits = {});
    ~Client();
    Client(Client&&) noexcept;
    Client& operator=(Client&&) noexcept;

    /** `path` is sent as it is; a body that is null: none. */
    Response call(std::string_view method, const std::string& path,
                  const Json& body = nullptr);

    /** Sends what the producer writes (chunked). An early answer of the server
     * ends the sending: then this throws it as Problem. */
    Response upload(std::string_view method, const std::string& path,
                    const BodyProducer& producer);

    /** Fetches a body of at most maxBytes bytes. Returns its size, which was
     * exactly what the server announced. */
    std::uint64_t download(const std::string& path, const BodySink& sink,
                           std::uint64_t maxBytes);

    /** Ends the connection, for example because another thread's shutdown
     * should not have to wait for the idle time-out of the server. */
    void close();

    const Endpoint& endpoint() const;
    /** Who the server was when a connection was made last, if one was. */
    std::optional<tls::Peer> peer() const;

  private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace airlock::http
