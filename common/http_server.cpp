#include "common/http_server.hpp"

#include "common/error.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <fmt/format.h>
#include <openssl/ssl.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

namespace airlock::http
{

namespace
{

namespace asio = boost::asio;
namespace beast = boost::beast;
using Tcp = asio::ip::tcp;
using Stream = beast::ssl_stream<beast::tcp_stream>;
using Parser = beast::http::request_parser<beast::http::buffer_body>;
using ErrorCode = boost::system::error_code;
using Clock = std::chrono::steady_clock;
template <typename T = void>
using Task = asio::awaitable<T>;

/** TLS records hold 16 KiB; several of them go to the kernel at once. */
constexpr std::size_t pieceBytes = 128U << 10;
constexpr Milliseconds lingerTime = std::chrono::seconds(2);

/** Completion by error code instead of exception. */
auto result(ErrorCode& error)
{
    return asio::redirect_error(asio::use_awaitable, error);
}

Answer answerTo(const Problem& problem)
{
    return Answer::json(problem.toJson(), problem.status());
}

/** Runs a handler; what it throws becomes the answer. */
template <typename Function>
std::optional<Answer> orProblem(const Function& function)
{
    try
    {
        function();
        return std::nullopt;
    }
    catch (const Problem& problem)
    {
        return answerTo(problem);
    }
    catch (const Refused& refused)
    {
        return answerTo({400, "bad-request", refused.what()});
    }
    catch (const std::exception& error)
    {
        return answerTo({500, "internal", error.what()});
    }
}

/** Keeps a stream at a least rate: so many bytes within each window. Only time
 * spent waiting for the peer counts. */
class RateGuard
{
  public:
    RateGuard(Milliseconds window, std::uint64_t bytesPerSecond)
        : window_(window), left_(window),
          need_(bytesPerSecond * static_cast<std::uint64_t>(window.count()) /
                1000)
    {}

    void before(beast::tcp_stream& stream)
    {
        start_ = Clock::now();
        stream.expires_after(std::max<Clock::duration>(left_, Milliseconds(1)));
    }

    void after(std::uint64_t bytes)
    {
        left_ -= Clock::now() - start_;
        credit(bytes);
    }

    void credit(std::uint64_t bytes)
    {
        bytes_ += bytes;
        if (bytes_ >= need_)
        {
            bytes_ = 0;
            left_ = window_;
        }
    }

  private:
    Clock::duration window_;
    Clock::duration left_;
    std::uint64_t need_;
    std::uint64_t bytes_ = 0;
    Clock::time_point start_;
};

/** Counts connections, all and by address. */
class Places
{
  public:
    Places(std::size_t all, std::size_t each) : all_(all), each_(each) {}

    bool take(const std::string& who)
    {
        std::lock_guard lock(mutex_);
        std::size_t& his = taken_[who];
        if (count_ >= all_ || his >= each_)
        {
            if (his == 0)
            {
                taken_.erase(who);
            }
            return false;
        }
        count_++;
        his++;
        return true;
    }

    void give(const std::string& who)
    {
        std::lock_guard lock(mutex_);
        count_--;
        if (--taken_[who] == 0)
        {
            taken_.erase(who);
        }
    }

    std::size_t count() const
    {
        std::lock_guard lock(mutex_);
        return count_;
    }

  private:
    std::size_t all_;
    std::size_t each_;
    mutable std::mutex mutex_;
    std::size_t count_ = 0;
    std::map<std::string, std::size_t> taken_;
};

/** One of the places, given back at the end. */
class Place
{
  public:
    Place(Places& places, std::string who)
        : places_(&places), who_(std::move(who))
    {}
    Place(Place&& other) noexcept
        : places_(std::exchange(other.places_, nullptr)),
          who_(std::move(other.who_))
    {}
    Place& operator=(Place&&) = delete;
    ~Place()
    {
        if (places_ != nullptr)
        {
            places_->give(who_);
        }
    }

    const std::string& who() const { return who_; }

  private:
    Places* places_;
    std::string who_;
};

/** One connection: requests one after the other, each on the strand of the
 * connection. Lives in the frame of its coroutine.
 *
 * Every coroutine here has a local variable: for one that has parameters and
 * no locals, GCC 12 lays the frame out with the promise eight bytes too far,
 * and the first resumption ends the process (SIGILL). */
class Session
{
  public:
    Session(Tcp::socket socket, asio::ssl::context& tls,
            const Server::Options& options, const Handler& handler, Place place)
        : stream_(beast::tcp_stream(std::move(socket)), tls), options_(options),
          limits_(options.limits), handler_(handler), place_(std::move(place)),
          piece_(pieceBytes)
    {}

    Task<> run()
    {
        if (!co_await handshake())
        {
            co_return;
        }
        bool more = true;
        while (more)
        {
            more = co_await serveOne();
        }
        if (lowest().socket().is_open())
        {
            lowest().expires_after(lingerTime);
            ErrorCode ignored;
            co_await stream_.async_shutdown(result(ignored));
        }
    }

  private:
    beast::tcp_stream& lowest() { return beast::get_lowest_layer(stream_); }

    void notice(const std::string& what)
    {
        if (options_.notice)
        {
            options_.notice(peer_.name.empty()
                                ? place_.who()
                                : peer_.name + " at " + place_.who(),
                            what);
        }
    }

    Task<bool> handshake()
    {
        ErrorCode error;
        lowest().expires_after(limits_.handshake);
        co_await stream_.async_handshake(asio::ssl::stream_base::server,
                                         result(error));
        if (error)
        {
            long verdict = SSL_get_verify_result(stream_.native_handle());
            notice("TLS handshake: " +
                   (verdict == X509_V_OK
                        ? error.message()
                        : X509_verify_cert_error_string(verdict)));
            co_await linger();
            co_return false;
        }
        std::optional<Answer> refusal = orProblem([&] {
            try
            {
                peer_ = tls::peerOf(stream_.native_handle());
                tls::requireRole(peer_, options_.role);
            }
            catch (const Refused& refused)
            {
                throw Problem(403, "wrong-role", refused.what());
            }
        });
        if (refusal)
        {
            notice("refused: its certificate has another role");
            co_await answerAndLinger(*refusal);
        }
        co_return !refusal;
    }

    /** Reads what the peer still sends and forgets it, until it closes: what
     * we said last has to arrive before the connection is cut. */
    Task<> linger()
    {
        Deadline deadline(lingerTime);
        ErrorCode error;
        while (!error && !deadline.passed())
        {
            lowest().expires_after(
                std::max<Clock::duration>(deadline.left(), Milliseconds(1)));
            co_await lowest().async_read_some(asio::buffer(piece_),
                                              result(error));
        }
    }

    /** False when the connection is over. */
    Task<bool> serveOne()
    {
        ErrorCode error;
        if (buffer_.size() == 0)
        {
            lowest().expires_after(limits_.idle);
            std::size_t got = co_await stream_.async_read_some(
                buffer_.prepare(limits_.headerBytes), result(error));
            if (error)
            {
                co_return false;
            }
            buffer_.commit(got);
        }
        Parser parser;
        parser.header_limit(static_cast<std::uint32_t>(limits_.headerBytes));
        parser.body_limit(boost::none);
        lowest().expires_after(limits_.header);
        co_await beast::http::async_read_header(stream_, buffer_, parser,
                                                result(error));
        if (error)
        {
            co_await refuseHead(error);
            co_return false;
        }
        co_return co_await serve(parser);
    }

    Task<> refuseHead(ErrorCode error)
    {
        if (error == beast::http::error::end_of_stream ||
            error.category() !=
                beast::http::make_error_code(beast::http::error::bad_value)
                    .category())
        {
            if (error == beast::error::timeout)
            {
                notice("too slow with the header of a request");
            }
            co_return;
        }
        bool large = error == beast::http::error::header_limit;
        notice("no HTTP: " + error.message());
        co_await answerAndLinger(answerTo(
            {large ? 431U : 400U, large ? "header-too-large" : "bad-request",
             "request: is no HTTP: " + error.message()}));
    }

    /** Everything from a parsed head to a sent answer. */
    Task<bool> serve(Parser& parser)
    {
        std::unique_ptr<Exchange> exchange;
        Answer answer;
        std::optional<Answer> problem = orProblem([&] {
            exchange = handler_(toRequest(parser));
            requireBody(parser, *exchange);
        });
        if (!problem && expectsContinue(parser))
        {
            if (!co_await sendContinue())
            {
                co_return false;
            }
        }
        if (!problem)
        {
            bool alive = true;
            problem = co_await readBody(parser, *exchange, alive);
            if (!alive)
            {
                co_return false;
            }
        }
        if (!problem)
        {
            problem = orProblem([&] { answer = exchange->finish(); });
        }
        exchange.reset();
        if (problem)
        {
            answer = std::move(*problem);
        }
        if (!parser.is_done())
        {
            co_await answerAndLinger(answer);
            co_return false;
        }
        bool keep = parser.get().keep_alive();
        co_return co_await send(answer, keep) && keep;
    }

    Request toRequest(const Parser& parser) const
    {
        const auto& head = parser.get();
        if (head.version() != 11)
        {
            throw Refused("request", "is not HTTP/1.1");
        }
        Request out;
        out.method = std::string(head.method_string());
        out.path = splitPath(head.target());
        out.peer = peer_;
        return out;
    }

    /** The body that was announced has to be one that is wanted. */
    void requireBody(Parser& parser, const Exchange& exchange) const
    {
        bool any = parser.chunked() || parser.content_length().value_or(0) > 0;
        if (exchange.body() == Exchange::Body::none && any)
        {
            throw Refused("request", "has a body, which is not expected here");
        }
        std::uint64_t length = parser.content_length().value_or(0);
        if (length > bodyLimit(exchange))
        {
            throw tooLarge(exchange);
        }
    }

    std::uint64_t bodyLimit(const Exchange& exchange) const
    {
        switch (exchange.body())
        {
        case Exchange::Body::json:
            return limits_.jsonBytes;
        case Exchange::Body::stream:
            return exchange.maxBytes();
        case Exchange::Body::none:
            break;
        }
        return 0;
    }

    Problem tooLarge(const Exchange& exchange) const
    {
        return {413, "too-large",
                fmt::format("the body has more than {} bytes",
                            bodyLimit(exchange))};
    }

    static bool expectsContinue(const Parser& parser)
    {
        return beast::iequals(parser.get()[beast::http::field::expect],
                              "100-continue");
    }

    Task<bool> sendContinue()
    {
        constexpr std::string_view text = "HTTP/1.1 100 Continue\r\n\r\n";
        ErrorCode error;
        lowest().expires_after(limits_.header);
        co_await asio::async_write(
            stream_, asio::buffer(text.data(), text.size()), result(error));
        co_return !error;
    }

    /** What was wrong with the body; `alive` false when the connection is
     * over. */
    Task<std::optional<Answer>> readBody(Parser& parser, Exchange& exchange,
                                         bool& alive)
    {
        bool stream = exchange.body() == Exchange::Body::stream;
        // A JSON body has one window, which is never renewed.
        RateGuard guard = stream
                              ? RateGuard(limits_.rateWindow, limits_.rateBytes)
                              : RateGuard(limits_.header, limits_.jsonBytes);
        std::uint64_t total = 0;
        std::uint64_t progress = 0;
        while (!parser.is_done())
        {
            ErrorCode error;
            auto& body = parser.get().body();
            body.data = piece_.data();
            body.size = piece_.size();
            guard.before(lowest());
            co_await beast::http::async_read_some(stream_, buffer_, parser,
                                                  result(error));
            std::size_t got = piece_.size() - body.size;
            guard.after(got);
            if (error && error != beast::http::error::need_buffer)
            {
                alive = false;
                notice(error == beast::error::timeout
                           ? std::string("too slow with a body")
                           : "a body broke off: " + error.message());
                co_return std::nullopt;
            }
            total += got;
            if (total > bodyLimit(exchange))
            {
                co_return answerTo(tooLarge(exchange));
            }
            std::optional<Answer> problem = orProblem(
                [&] { exchange.receive(ByteView(piece_).first(got)); });
            if (problem)
            {
                co_return problem;
            }
            guard.credit(exchange.progress() - progress);
            progress = exchange.progress();
        }
        co_return std::nullopt;
    }

    Task<bool> send(const Answer& answer, bool keep)
    {
        std::uint64_t length =
            answer.stream ? answer.stream->bytes() : answer.body.size();
        std::string text = fmt::format(
            "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n"
            "Cache-Control: no-store\r\n{}\r\n",
            answer.status,
            std::string_view(beast::http::obsolete_reason(
                beast::http::int_to_status(answer.status))),
            answer.type, length, keep ? "" : "Connection: close\r\n");
        if (!answer.stream)
        {
            text += answer.body;
        }
        ErrorCode error;
        lowest().expires_after(limits_.header);
        co_await asio::async_write(stream_, asio::buffer(text), result(error));
        if (!error && answer.stream)
        {
            co_return co_await sendStream(*answer.stream);
        }
        co_return !error;
    }

    Task<bool> sendStream(BodySource& source)
    {
        RateGuard guard(limits_.rateWindow, limits_.rateBytes);
        for (std::uint64_t left = source.bytes(); left > 0;)
        {
            std::size_t got = 0;
            std::optional<Answer> problem = orProblem([&] {
                std::size_t most = static_cast<std::size_t>(
                    std::min<std::uint64_t>(piece_.size(), left));
                got = source.read(std::span(piece_).first(most));
            });
            if (problem || got == 0)
            {
                notice("an answer broke off: " +
                       (problem ? problem->body : "it is too short"));
                lowest().close();
                co_return false;
            }
            left -= got;
            for (std::size_t done = 0; done < got;)
            {
                ErrorCode error;
                guard.before(lowest());
                std::size_t sent = co_await stream_.async_write_some(
                    asio::buffer(piece_.data() + done, got - done),
                    result(error));
                guard.after(sent);
                done += sent;
                if (error)
                {
                    if (error == beast::error::timeout)
                    {
                        notice("too slow with taking an answer");
                    }
                    co_return false;
                }
            }
        }
        co_return true;
    }

    /** An answer that comes before the end of the request: if the connection
     * were closed at once, what the peer still sends would make its kernel
     * drop our answer. */
    Task<> answerAndLinger(const Answer& answer)
    {
        if (!co_await send(answer, false))
        {
            co_return;
        }
        ErrorCode ignored;
        lowest().expires_after(lingerTime);
        co_await stream_.async_shutdown(result(ignored));
        co_await linger();
    }

    Stream stream_;
    const Server::Options& options_;
    const ServerLimits& limits_;
    const Handler& handler_;
    Place place_;
    tls::Peer peer_;
    beast::flat_buffer buffer_;
    Bytes piece_;
};

asio::ssl::context shareContext(const tls::Context& context)
{
    SSL_CTX_up_ref(context.native());
    return asio::ssl::context(context.native());
}

} // namespace

class Server::Impl
{
  public:
    Impl(const Options& options, std::shared_ptr<const tls::Context> context,
         Handler handler)
        : options_(options), context_(std::move(context)),
          tls_(shareContext(*context_)), handler_(std::move(handler)),
          places_(options_.limits.connections, options_.limits.connectionsEach),
          acceptor_(asio::make_strand(io_))
    {
        try
        {
            Tcp::endpoint endpoint(asio::ip::make_address(options_.address),
                                   options_.port);
            acceptor_.open(endpoint.protocol());
            acceptor_.set_option(Tcp::acceptor::reuse_address(true));
            acceptor_.bind(endpoint);
            acceptor_.listen();
            port_ = acceptor_.local_endpoint().port();
        }
        catch (const boost::system::system_error& error)
        {
            throw Error(fmt::format("cannot listen at {} port {}: {}",
                                    options_.address, options_.port,
                                    error.code().message()));
        }
        asio::co_spawn(acceptor_.get_executor(), accept(), asio::detached);
        for (unsigned i = 0; i < std::max(1U, options_.limits.threads); i++)
        {
            threads_.emplace_back([this] { io_.run(); });
        }
    }

    ~Impl() { stop(); }

    void stop()
    {
        io_.stop();
        threads_.clear();
    }

    std::uint16_t port() const { return port_; }
    std::size_t connections() const { return places_.count(); }

  private:
    Task<> accept()
    {
        for (;;)
        {
            ErrorCode error;
            Tcp::socket socket = co_await acceptor_.async_accept(
                asio::make_strand(io_), result(error));
            if (!error)
            {
                start(std::move(socket));
            }
            else
            {
                // Out of descriptors, or the peer has gone already.
                asio::steady_timer pause(acceptor_.get_executor(),
                                         Milliseconds(100));
                co_await pause.async_wait(result(error));
            }
        }
    }

    void start(Tcp::socket socket)
    {
        ErrorCode error;
        Tcp::endpoint from = socket.remote_endpoint(error);
        std::string who = from.address().to_string();
        if (error || !places_.take(who))
        {
            if (!error && options_.notice)
            {
                options_.notice(who, "refused: too many connections");
            }
            return;
        }
        socket.set_option(Tcp::no_delay(true), error);
        auto executor = socket.get_executor();
        asio::co_spawn(executor, serve(std::move(socket), Place(places_, who)),
                       asio::detached);
    }

    Task<> serve(Tcp::socket socket, Place place)
    {
        Session session(std::move(socket), tls_, options_, handler_,
                        std::move(place));
        co_await session.run();
    }

    Options options_;
    std::shared_ptr<const tls::Context> context_;
    asio::ssl::context tls_;
    Handler handler_;
    Places places_;
    asio::io_context io_;
    Tcp::acceptor acceptor_;
    std::uint16_t port_ = 0;
    std::vector<std::jthread> threads_;
};

Server::Server(const Options& options,
               std::shared_ptr<const tls::Context> context, Handler handler)
    : impl_(std::make_unique<Impl>(options, std::move(context),
                                   std::move(handler)))
{}

Server::~Server() = default;

std::uint16_t Server::port() const
{
    return impl_->port();
}

std::size_t Server::connections() const
{
    return impl_->connections();
}

void Server::stop()
{
    impl_->stop();
}

} // namespace airlock::http
