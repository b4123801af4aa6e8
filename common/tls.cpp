#include "common/tls.hpp"

#include "common/error.hpp"
#include "common/json.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

namespace airlock::tls
{

namespace
{

constexpr std::size_t maxName = 64;
constexpr int maxChain = 4;

[[noreturn]] void refuseFile(const char* what,
                             const std::filesystem::path& path)
{
    throw Error(fmt::format("cannot use {} as {}: {}", path.string(), what,
                            lastErrors()));
}

void loadIdentity(SSL_CTX* context, const Identity& identity)
{
    ERR_clear_error();
    if (SSL_CTX_use_certificate_chain_file(context,
                                           identity.certificate.c_str()) != 1)
    {
        refuseFile("the certificate", identity.certificate);
    }
    if (SSL_CTX_use_PrivateKey_file(context, identity.key.c_str(),
                                    SSL_FILETYPE_PEM) != 1)
    {
        refuseFile("the certificate's key", identity.key);
    }
    if (X509_cmp_current_time(
            X509_get0_notAfter(SSL_CTX_get0_certificate(context))) < 0)
    {
        throw Error("the certificate " + identity.certificate.string() +
                    " has expired; issue a new one");
    }
    if (SSL_CTX_load_verify_file(context, identity.authorities.c_str()) != 1)
    {
        refuseFile("the list of authorities", identity.authorities);
    }
}

/** The one entry of this kind; Refused when there are none or several. */
std::string oneEntry(X509_NAME* subject, int nid, const char* what)
{
    int at = X509_NAME_get_index_by_NID(subject, nid, -1);
    if (at < 0 || X509_NAME_get_index_by_NID(subject, nid, at) >= 0)
    {
        throw Refused("certificate",
                      fmt::format("its subject has not exactly one {}", what));
    }
    const ASN1_STRING* value =
        X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at));
    std::string text(
        reinterpret_cast<const char*>(ASN1_STRING_get0_data(value)),
        static_cast<std::size_t>(ASN1_STRING_length(value)));
    if (text.empty() || text.size() > maxName ||
        !std::all_of(text.begin(), text.end(),
                     [](char c) { return c > ' ' && c <= '~'; }))
    {
        throw Refused("certificate",
                      fmt::format("its subject's {} {} is not 1 to {} "
                                  "characters of printable ASCII",
                                  what, printable(text), maxName));
    }
    return text;
}

/** A socket BIO that never raises SIGPIPE. */
struct QuietSocket
{
    static int fd(BIO* bio)
    {
        return static_cast<int>(
            reinterpret_cast<std::intptr_t>(BIO_get_data(bio)));
    }

    static int done(BIO* bio, ssize_t result)
    {
        BIO_clear_retry_flags(bio);
        if (result < 0 && (errno == EAGAIN || errno == EINTR))
        {
            BIO_set_retry_special(bio);
        }
        return static_cast<int>(result);
    }

    static int write(BIO* bio, const char* data, int size)
    {
        ssize_t result =
            ::send(fd(bio), data, static_cast<std::size_t>(size), MSG_NOSIGNAL);
        int out = done(bio, result);
        if (BIO_should_retry(bio))
        {
            BIO_set_retry_write(bio);
        }
        return out;
    }

    static int read(BIO* bio, char* data, int size)
    {
        ssize_t result =
            ::recv(fd(bio), data, static_cast<std::size_t>(size), 0);
        int out = done(bio, result);
        if (BIO_should_retry(bio))
        {
            BIO_set_retry_read(bio);
        }
        if (result == 0)
        {
            BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
        }
        return out;
    }

    static long control(BIO* bio, int command, long, void*)
    {
        if (command == BIO_CTRL_EOF)
        {
            return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0 ? 1 : 0;
        }
        return command == BIO_CTRL_FLUSH ? 1 : 0;
    }

    static BIO* make(int socket)
    {
        static const std::unique_ptr<BIO_METHOD, void (*)(BIO_METHOD*)> method =
            [] {
                BIO_METHOD* made =
                    BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK,
                                 "socket without signals");
                BIO_meth_set_write(made, write);
                BIO_meth_set_read(made, read);
                BIO_meth_set_ctrl(made, control);
                return std::unique_ptr<BIO_METHOD, void (*)(BIO_METHOD*)>(
                    made, BIO_meth_free);
            }();
        BIO* bio = BIO_new(method.get());
        if (bio != nullptr)
        {
            BIO_set_data(bio, reinterpret_cast<void*>(
                                  static_cast<std::intptr_t>(socket)));
            BIO_set_init(bio, 1);
        }
        return bio;
    }
};

void expectHost(SSL* connection, const std::string& host)
{
    X509_VERIFY_PARAM* parameters = SSL_get0_param(connection);
    std::array<std::uint8_t, 16> address{};
    bool isAddress = ::inet_pton(AF_INET, host.c_str(), address.data()) == 1 ||
                     ::inet_pton(AF_INET6, host.c_str(), address.data()) == 1;
    bool ok = isAddress
                  ? X509_VERIFY_PARAM_set1_ip_asc(parameters, host.c_str()) == 1
                  : SSL_set1_host(connection, host.c_str()) == 1 &&
                        SSL_set_tlsext_host_name(connection, host.c_str()) == 1;
    if (!ok)
    {
        throw Error(printable(host) + " is no host name");
    }
}

/** Why the handshake, or a read after it, was ended. */
std::string refusal(SSL* connection)
{
    long verdict = SSL_get_verify_result(connection);
    std::string errors = lastErrors();
    if (verdict != X509_V_OK)
    {
        return std::string("its certificate is not accepted: ") +
               X509_verify_cert_error_string(verdict);
    }
    if (errors.find("alert") != std::string::npos)
    {
        return "it does not accept us: " + errors;
    }
    return errors;
}

} // namespace

void Free::operator()(ssl_st* connection) const
{
    SSL_free(connection);
}

void Free::operator()(ssl_ctx_st* context) const
{
    SSL_CTX_free(context);
}

std::string lastErrors()
{
    std::string out;
    while (unsigned long code = ERR_get_error())
    {
        const char* reason = ERR_reason_error_string(code);
        std::string text = reason != nullptr
                               ? reason
                               : fmt::format("OpenSSL error {:#x}", code);
        if (out.find(text) == std::string::npos)
        {
            out += (out.empty() ? "" : ", ") + text;
        }
    }
    return out.empty() ? "no reason given" : out;
}

Context Context::forWeb(const std::filesystem::path& authorities)
{
    ERR_clear_error();
    std::unique_ptr<ssl_ctx_st, Free> context(SSL_CTX_new(TLS_client_method()));
    if (!context)
    {
        throw Error("cannot set up TLS: " + lastErrors());
    }
    bool loaded =
        authorities.empty()
            ? SSL_CTX_set_default_verify_paths(context.get()) == 1
            : SSL_CTX_load_verify_file(context.get(), authorities.c_str()) == 1;
    if (!loaded)
    {
        refuseFile("the list of authorities", authorities);
    }
    SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
    SSL_CTX_set_options(context.get(), SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_mode(context.get(), SSL_MODE_ENABLE_PARTIAL_WRITE |
                                        SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    return Context(std::move(context));
}

Context::Context(const Identity& identity, Side side)
    : context_(SSL_CTX_new(side == Side::server ? TLS_server_method()
                                                : TLS_client_method()))
{
    if (!context_)
    {
        throw Error("cannot set up TLS: " + lastErrors());
    }
    SSL_CTX* context = context_.get();
    loadIdentity(context, identity);
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_verify(
        context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
    SSL_CTX_set_verify_depth(context, maxChain);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(context,
                        SSL_OP_NO_TICKET | SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_num_tickets(context, 0);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                  SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
}

Peer peerOf(ssl_st* connection)
{
    X509* certificate = SSL_get0_peer_certificate(connection);
    if (certificate == nullptr)
    {
        throw Refused("certificate", "the peer showed none");
    }
    X509_NAME* subject = X509_get_subject_name(certificate);
    Peer peer;
    peer.name = oneEntry(subject, NID_commonName, "common name");
    peer.role = oneEntry(subject, NID_organizationalUnitName,
                         "organizational unit (its role)");
    int seconds = 0;
    if (ASN1_TIME_diff(&peer.daysLeft, &seconds, nullptr,
                       X509_get0_notAfter(certificate)) != 1)
    {
        throw Refused("certificate", "has no valid end of its time");
    }
    return peer;
}

void requireRole(const Peer& peer, std::string_view role)
{
    if (peer.role != role)
    {
        throw Refused("certificate", fmt::format("{} has the role {}, not {}",
                                                 peer.name, peer.role, role));
    }
}

Bytes exportKey(ssl_st* connection, std::string_view label, std::size_t size)
{
    Bytes out(size);
    if (SSL_export_keying_material(connection, out.data(), out.size(),
                                   label.data(), label.size(), nullptr, 0,
                                   0) != 1)
    {
        throw Error("cannot derive a key from a TLS connection: " +
                    lastErrors());
    }
    return out;
}

Stream::Stream(UniqueFd socket, std::unique_ptr<ssl_st, Free> connection)
    : socket_(std::move(socket)), connection_(std::move(connection))
{}

Stream Stream::connect(const Context& context, UniqueFd socket,
                       const std::string& host, std::string_view role,
                       const Deadline& deadline)
{
    Stream out = connectWeb(context, std::move(socket), host, deadline);
    out.peer_ = peerOf(out.native());
    requireRole(out.peer_, role);
    return out;
}

Stream Stream::connectWeb(const Context& context, UniqueFd socket,
                          const std::string& host, const Deadline& deadline)
{
    int flags = ::fcntl(socket.get(), F_GETFL);
    if (flags < 0 || ::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) != 0)
    {
        throwErrno("cannot use a socket");
    }
    std::unique_ptr<ssl_st, Free> connection(SSL_new(context.native()));
    BIO* bio = connection ? QuietSocket::make(socket.get()) : nullptr;
    if (bio == nullptr)
    {
        throw Error("cannot set up a TLS connection: " + lastErrors());
    }
    SSL_set_bio(connection.get(), bio, bio);
    expectHost(connection.get(), host);
    Stream out(std::move(socket), std::move(connection));
    for (;;)
    {
        ERR_clear_error();
        int result = SSL_connect(out.native());
        if (result == 1)
        {
            break;
        }
        out.waitFor(result, "TLS handshake", deadline);
    }
    return out;
}

void Stream::waitFor(int result, const char* doing, const Deadline& deadline)
{
    int savedErrno = errno;
    short events = 0;
    switch (SSL_get_error(connection_.get(), result))
    {
    case SSL_ERROR_WANT_READ:
        events = POLLIN;
        break;
    case SSL_ERROR_WANT_WRITE:
        events = POLLOUT;
        break;
    case SSL_ERROR_SSL:
        throw Refused(std::string("peer: ") + doing,
                      refusal(connection_.get()));
    case SSL_ERROR_SYSCALL:
        if (savedErrno != 0)
        {
            throw SystemError(std::string("connection lost: ") + doing,
                              savedErrno);
        }
        [[fallthrough]];
    default:
        throw Error(std::string("connection closed by the peer: ") + doing);
    }
    pollfd poll = {socket_.get(), events, 0};
    int ready = ::poll(&poll, 1, deadline.pollTimeout());
    if (ready < 0 && errno != EINTR)
    {
        throwErrno("cannot wait for a connection");
    }
    if (ready <= 0 && deadline.passed())
    {
        throw TimedOut(std::string("the peer does not answer in time: ") +
                       doing);
    }
}

void Stream::send(ByteView data, const Deadline& deadline)
{
    while (!data.empty())
    {
        std::size_t sent = 0;
        ERR_clear_error();
        errno = 0;
        int result =
            SSL_write_ex(connection_.get(), data.data(), data.size(), &sent);
        if (result == 1)
        {
            data = data.subspan(sent);
        }
        else
        {
            waitFor(result, "sending", deadline);
        }
    }
}

std::size_t Stream::receive(std::span<std::uint8_t> out,
                            const Deadline& deadline)
{
    for (;;)
    {
        std::size_t got = 0;
        ERR_clear_error();
        errno = 0;
        int result =
            SSL_read_ex(connection_.get(), out.data(), out.size(), &got);
        if (result == 1)
        {
            return got;
        }
        if (SSL_get_error(connection_.get(), result) == SSL_ERROR_ZERO_RETURN)
        {
            return 0;
        }
        waitFor(result, "receiving", deadline);
    }
}

bool Stream::readable()
{
    std::uint8_t byte = 0;
    std::size_t got = 0;
    ERR_clear_error();
    int result = SSL_peek_ex(connection_.get(), &byte, 1, &got);
    return result == 1 ||
           SSL_get_error(connection_.get(), result) != SSL_ERROR_WANT_READ;
}

void Stream::close() noexcept
{
    ERR_clear_error();
    SSL_shutdown(connection_.get());
    ERR_clear_error();
}

} // namespace airlock::tls
