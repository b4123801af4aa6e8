#include "common/http_client.hpp"

#include "common/error.hpp"
#include "common/fd.hpp"
#include "common/secret.hpp"
#include "common/socket.hpp"

#include <boost/asio/buffer.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

namespace airlock::http
{

namespace
{

namespace beast = boost::beast::http;
using Parser = beast::response_parser<beast::buffer_body>;

constexpr std::size_t headerMax = 16U << 10;
constexpr std::size_t receiveStep = 64U << 10;
/** What an upload collects before it is sent as one chunk. */
constexpr std::size_t chunkSize = 256U << 10;
/** But it is sent at least so often, while the producer writes. */
constexpr Milliseconds flushEvery{500};

/** Thrown through a producer when the server has answered already. */
struct AnsweredEarly
{};

void tick(const ClientLimits& limits)
{
    if (limits.tick)
    {
        limits.tick();
    }
}

/** Collects what a producer writes and sends it in chunks. */
class ChunkedBody
{
  public:
    ChunkedBody(tls::Stream& stream, const ClientLimits& limits)
        : stream_(stream), limits_(limits)
    {
        pending_.reserve(chunkSize);
    }

    void write(ByteView data)
    {
        while (!data.empty())
        {
            std::size_t some =
                std::min(data.size(), chunkSize - pending_.size());
            pending_.insert(pending_.end(), data.begin(),
                            data.begin() + static_cast<std::ptrdiff_t>(some));
            data = data.subspan(some);
            if (pending_.size() == chunkSize || flushed_.passed())
            {
                flush();
            }
        }
    }

    void finish()
    {
        flush();
        stream_.send(asBytes("0\r\n\r\n"), Deadline(limits_.stall));
    }

  private:
    void flush()
    {
        if (pending_.empty())
        {
            return;
        }
        tick(limits_);
        if (stream_.readable())
        {
            throw AnsweredEarly();
        }
        Deadline deadline(limits_.stall);
        stream_.send(asBytes(fmt::format("{:x}\r\n", pending_.size())),
                     deadline);
        pending_.push_back('\r');
        pending_.push_back('\n');
        stream_.send(pending_, deadline);
        pending_.clear();
        flushed_ = Deadline(flushEvery);
    }

    tls::Stream& stream_;
    const ClientLimits& limits_;
    Bytes pending_;
    Deadline flushed_{flushEvery};
};

[[noreturn]] void throwProblem(unsigned status, const std::string& body)
{
    std::string code = "unknown";
    std::string message = fmt::format("answered with HTTP status {}", status);
    try
    {
        Json document = parseJson(body, "answer", {64U << 10, 8});
        JsonField error = JsonField(document, "answer").at("error");
        code = plainText(error.at("code").string(64));
        message = plainText(error.at("message").string());
    }
    catch (const Refused&)
    {
        // Not one of our servers, or cut short: the status has to do.
    }
    throw Problem(status, code, message);
}

} // namespace

Json Response::json() const
{
    return parseJson(body, "answer");
}

class Client::Impl
{
  private:
    /** A connection in an unknown state is not used again. */
    template <typename Function>
    auto guarded(const Function& function)
    {
        try
        {
            keep_ = false;
            broken_ = false;
            auto result = function();
            if (!keep_ || broken_)
            {
                close();
            }
            return result;
        }
        catch (...)
        {
            if (!keep_ || broken_)
            {
                close();
            }
            throw;
        }
    }

  public:
    Impl(Endpoint endpoint, std::shared_ptr<const tls::Context> context,
         const ClientLimits& limits)
        : endpoint_(std::move(endpoint)), context_(std::move(context)),
          limits_(limits), received_(receiveStep)
    {}

    const Endpoint& endpoint() const { return endpoint_; }
    const std::optional<tls::Peer>& peer() const { return peer_; }

    Response call(std::string_view method, const std::string& path,
                  const Json& body)
    {
        return guarded([&] {
            Deadline deadline(limits_.call);
            // There may be a secret in it.
            const WipedText text(body.is_null() ? "" : dumpJson(body));
            std::string head = requestHead(method, path);
            if (!body.is_null())
            {
                head += fmt::format("Content-Type: {}\r\n", jsonType);
            }
            if (method != "GET")
            {
                head += fmt::format("Content-Length: {}\r\n", text.text.size());
            }
            connect();
            const WipedText message((head + "\r\n") + text.text);
            stream_->send(asBytes(message.text), deadline);
            return readResponse(deadline);
        });
    }

    Response upload(std::string_view method, const std::string& path,
                    const BodyProducer& producer)
    {
        return guarded([&] {
            connect();
            std::string head = requestHead(method, path) +
                               fmt::format("Content-Type: {}\r\n", octetsType) +
                               "Transfer-Encoding: chunked\r\n\r\n";
            stream_->send(asBytes(head), Deadline(limits_.stall));
            bool early = sendBody(producer);
            Response response = readResponse(Deadline(limits_.call));
            if (early)
            {
                throw Refused("answer", "the server answered an upload before "
                                        "its end");
            }
            return response;
        });
    }

    std::uint64_t download(const std::string& path, const BodySink& sink,
                           std::uint64_t maxBytes)
    {
        return guarded([&] {
            connect();
            std::string head = requestHead("GET", path) + "\r\n";
            stream_->send(asBytes(head), Deadline(limits_.call));
            Parser parser;
            readHead(parser, Deadline(limits_.call));
            requireSuccess(parser);
            auto announced = parser.content_length();
            if (announced && *announced > maxBytes)
            {
                throw Refused("answer",
                              fmt::format("has {} bytes, at most {} were "
                                          "expected",
                                          *announced, maxBytes));
            }
            return readBody(parser, sink, maxBytes, std::nullopt);
        });
    }

    void close()
    {
        if (stream_)
        {
            stream_->close();
        }
        stream_.reset();
        begin_ = end_ = 0;
    }

  private:
    void connect()
    {
        // Idle, it has nothing to say but that it is closed.
        if (stream_ && (begin_ != end_ || stream_->readable()))
        {
            close();
        }
        if (!stream_)
        {
            Deadline deadline(limits_.connect);
            UniqueFd socket =
                connectTcp(endpoint_.host, endpoint_.port, deadline);
            stream_.emplace(tls::Stream::connect(*context_, std::move(socket),
                                                 endpoint_.host, endpoint_.role,
                                                 deadline));
            peer_ = stream_->peer();
        }
    }

    std::string requestHead(std::string_view method,
                            const std::string& path) const
    {
        bool v6 = endpoint_.host.find(':') != std::string::npos;
        return fmt::format("{} {} HTTP/1.1\r\nHost: {}{}{}:{}\r\n", method,
                           path, v6 ? "[" : "", endpoint_.host, v6 ? "]" : "",
                           endpoint_.port);
    }

    /** True when the server answered before the end. */
    bool sendBody(const BodyProducer& producer)
    {
        ChunkedBody body(*stream_, limits_);
        try
        {
            producer([&body](ByteView data) { body.write(data); });
            body.finish();
            return false;
        }
        catch (const AnsweredEarly&)
        {
            broken_ = true;
            return true;
        }
        catch (const SystemError& error)
        {
            // The answer may have come before the connection was cut.
            if (error.code() != EPIPE && error.code() != ECONNRESET)
            {
                throw;
            }
            broken_ = true;
            readResponse(Deadline(limits_.call));
            throw;
        }
    }

    /** Makes sure that there are bytes that were not parsed yet; false at the
     * end of the connection. */
    bool fill(const Deadline& deadline)
    {
        if (begin_ == end_)
        {
            begin_ = 0;
            end_ = stream_->receive(received_, deadline);
        }
        else
        {
            // An unfinished line: the parser wants it as one piece.
            if (end_ == received_.size())
            {
                std::copy(received_.begin() +
                              static_cast<std::ptrdiff_t>(begin_),
                          received_.begin() + static_cast<std::ptrdiff_t>(end_),
                          received_.begin());
                end_ -= begin_;
                begin_ = 0;
            }
            if (end_ == received_.size())
            {
                throw Refused("answer", "has a line that is too long");
            }
            std::size_t got =
                stream_->receive(std::span(received_).subspan(end_), deadline);
            end_ += got;
            return got > 0;
        }
        return end_ > 0;
    }

    /** Gives the parser what is there, and more if it needs more. */
    void advance(Parser& parser, const Deadline& deadline)
    {
        bool more = begin_ == end_;
        for (;;)
        {
            if (more && !fill(deadline))
            {
                throw Error("the server closed the connection within an "
                            "answer");
            }
            boost::system::error_code error;
            begin_ += parser.put(
                boost::asio::const_buffer(&received_[begin_], end_ - begin_),
                error);
            if (!error || error == beast::error::need_buffer)
            {
                return;
            }
            if (error != beast::error::need_more)
            {
                throw Refused("answer", "is no HTTP: " + error.message());
            }
            more = true;
        }
    }

    void readHead(Parser& parser, const Deadline& deadline)
    {
        parser.header_limit(headerMax);
        parser.body_limit(boost::none);
        while (!parser.is_header_done())
        {
            advance(parser, deadline);
        }
    }

    /** With a deadline for the whole body, or the stall limit for each piece.
     */
    std::uint64_t readBody(Parser& parser, const BodySink& sink,
                           std::uint64_t maxBytes,
                           const std::optional<Deadline>& deadline)
    {
        std::array<std::uint8_t, receiveStep> piece;
        std::uint64_t total = 0;
        while (!parser.is_done())
        {
            if (!deadline)
            {
                tick(limits_);
            }
            auto& body = parser.get().body();
            body.data = piece.data();
            body.size = piece.size();
            advance(parser, deadline.value_or(Deadline(limits_.stall)));
            std::size_t got = piece.size() - body.size;
            total += got;
            if (total > maxBytes)
            {
                throw Refused("answer",
                              fmt::format("is longer than {} bytes", maxBytes));
            }
            if (got > 0)
            {
                sink(ByteView(piece).first(got));
            }
        }
        keep_ = parser.get().keep_alive();
        return total;
    }

    std::string readText(Parser& parser, const Deadline& deadline)
    {
        std::string out;
        readBody(
            parser,
            [&out](ByteView data) { out.append(data.begin(), data.end()); },
            limits_.bodyBytes, deadline);
        return out;
    }

    void requireSuccess(Parser& parser)
    {
        unsigned status = parser.get().result_int();
        if (status < 200 || status > 299)
        {
            throwProblem(status, readText(parser, Deadline(limits_.call)));
        }
    }

    Response readResponse(const Deadline& deadline)
    {
        Parser parser;
        readHead(parser, deadline);
        requireSuccess(parser);
        Response out;
        out.status = parser.get().result_int();
        out.type = std::string(parser.get()[beast::field::content_type]);
        out.body = readText(parser, deadline);
        return out;
    }

    Endpoint endpoint_;
    std::shared_ptr<const tls::Context> context_;
    ClientLimits limits_;
    std::optional<tls::Stream> stream_;
    std::optional<tls::Peer> peer_;
    Bytes received_; ///< begin_..end_ were not parsed yet
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
    bool keep_ = false;   ///< the answer was read to its end
    bool broken_ = false; ///< the request was not sent to its end
};

Client::Client(Endpoint endpoint, std::shared_ptr<const tls::Context> context,
               const ClientLimits& limits)
    : impl_(std::make_unique<Impl>(std::move(endpoint), std::move(context),
                                   limits))
{}

Client::~Client() = default;
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;

Response Client::call(std::string_view method, const std::string& path,
                      const Json& body)
{
    return impl_->call(method, path, body);
}

Response Client::upload(std::string_view method, const std::string& path,
                        const BodyProducer& producer)
{
    return impl_->upload(method, path, producer);
}

std::uint64_t Client::download(const std::string& path, const BodySink& sink,
                               std::uint64_t maxBytes)
{
    return impl_->download(path, sink, maxBytes);
}

void Client::close()
{
    impl_->close();
}

std::optional<tls::Peer> Client::peer() const
{
    return impl_->peer();
}

const Endpoint& Client::endpoint() const
{
    return impl_->endpoint();
}

} // namespace airlock::http
