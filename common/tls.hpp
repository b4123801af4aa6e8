#pragma once

#include "common/bytes.hpp"
#include "common/deadline.hpp"
#include "common/fd.hpp"

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

struct ssl_st;
struct ssl_ctx_st;

namespace airlock::tls
{

/** Roles: the organizational unit (OU) of a certificate's subject. */
inline constexpr const char* hostRole = "airlock-hostd";
inline constexpr const char* bootRole = "airlock-bootd";
inline constexpr const char* switchRole = "airlock-switchd";

/** PEM files of one end of the connections. */
struct Identity
{
    std::filesystem::path certificate; ///< may be followed by intermediates
    std::filesystem::path key;
    std::filesystem::path authorities; ///< whose certificates are accepted
};

/** What a checked certificate says about the peer. */
struct Peer
{
    std::string name; ///< common name, printable ASCII, 1 to 64 characters
    std::string role; ///< its one OU
    int daysLeft = 0; ///< until it ends, whole ones
};

/** Frees what OpenSSL made. */
struct Free
{
    void operator()(ssl_st* connection) const;
    void operator()(ssl_ctx_st* context) const;
};

/** Settings that many connections share: TLS 1.3 only, both sides have to show
 * a certificate that one of the authorities issued and that is valid now.
 *
 * No session tickets: each connection is authenticated by itself. Safe to
 * share between threads.
 */
class Context
{
  public:
    enum class Side
    {
        client,
        server,
    };

    /** Reads the files. Throws Error naming the one that cannot be used:
     * missing, no PEM, a key of another certificate, expired. */
    Context(const Identity& identity, Side side);

    /** For servers that are not ours, such as those of webhooks: TLS 1.2 or
     * newer, no certificate of our own; theirs has to come from one of
     * `authorities` (PEM; empty: those that the system trusts). */
    static Context forWeb(const std::filesystem::path& authorities = {});

    ssl_ctx_st* native() const { return context_.get(); }

  private:
    explicit Context(std::unique_ptr<ssl_ctx_st, Free> context)
        : context_(std::move(context))
    {}

    std::unique_ptr<ssl_ctx_st, Free> context_;
};

/** The peer of a connection whose handshake is done. Throws Refused when its
 * certificate has no common name or not exactly one OU. */
Peer peerOf(ssl_st* connection);

/** Throws Refused naming both roles when the peer has another one. */
void requireRole(const Peer& peer, std::string_view role);

/** Keying material that both ends derive from this very connection (RFC 5705,
 * RFC 9266), to tie an attestation to it. */
Bytes exportKey(ssl_st* connection, std::string_view label, std::size_t size);

/** What OpenSSL complained about last in this thread, for error messages. */
std::string lastErrors();

/** A blocking TLS connection whose every call ends at a deadline.
 *
 * Not shared between threads; move only. After an exception the connection is
 * of no further use.
 */
class Stream
{
  public:
    /** The client's end over a connected socket. Does the handshake and checks
     * that the certificate is for `host` (a name or an IP address) and has the
     * role. Throws TimedOut, Refused. */
    static Stream connect(const Context& context, UniqueFd socket,
                          const std::string& host, std::string_view role,
                          const Deadline& deadline);

    /** The same without a role, for servers that are not ours; peer() is then
     * empty. */
    static Stream connectWeb(const Context& context, UniqueFd socket,
                             const std::string& host, const Deadline& deadline);

    /** Sends all of it. */
    void send(ByteView data, const Deadline& deadline);

    /** What has come, at least a byte; 0 when the peer has ended the
     * connection properly. */
    std::size_t receive(std::span<std::uint8_t> out, const Deadline& deadline);

    /** Whether something can be received without waiting. */
    bool readable();

    /** Tells the peer that this is the end; does not wait. */
    void close() noexcept;

    const Peer& peer() const { return peer_; }
    ssl_st* native() const { return connection_.get(); }

  private:
    Stream(UniqueFd socket, std::unique_ptr<ssl_st, Free> connection);
    void waitFor(int result, const char* doing, const Deadline& deadline);

    UniqueFd socket_;
    std::unique_ptr<ssl_st, Free> connection_;
    Peer peer_;
};

} // namespace airlock::tls
