#include "common/webhook.hpp"

#include "common/error.hpp"
#include "common/socket.hpp"
#include "common/tls.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

namespace airlock::http
{

namespace
{

constexpr std::size_t maxUrl = 2048;
constexpr std::size_t maxStatusLine = 1024;

[[noreturn]] void refuse(const char* why)
{
    // Without the URL: a webhook's path often is its secret.
    throw Refused("webhook", why);
}

std::uint16_t parsePort(std::string_view text)
{
    std::uint16_t port = 0;
    auto parsed = std::from_chars(text.data(), text.data() + text.size(), port);
    if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() ||
        port == 0)
    {
        refuse("has a port that is none");
    }
    return port;
}

void parseAuthority(std::string_view text, WebAddress& out)
{
    std::string_view port;
    if (text.starts_with('['))
    {
        std::size_t end = text.find(']');
        if (end == std::string_view::npos)
        {
            refuse("has no ']' after its address");
        }
        out.host = text.substr(1, end - 1);
        port = text.substr(end + 1);
    }
    else
    {
        std::size_t end = std::min(text.find(':'), text.size());
        out.host = text.substr(0, end);
        port = text.substr(end);
    }
    if (!port.empty() && port.front() != ':')
    {
        refuse("has something between its address and its port");
    }
    out.port = !port.empty() ? parsePort(port.substr(1)) : out.tls ? 443 : 80;
    bool plain = std::all_of(out.host.begin(), out.host.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
               (c >= '0' && c <= '9') || c == '.' || c == '-' || c == ':';
    });
    if (out.host.empty() || !plain)
    {
        refuse("has no host name or address");
    }
}

std::string requestText(const WebAddress& address, const std::string& body)
{
    bool v6 = address.host.find(':') != std::string::npos;
    return fmt::format("POST {} HTTP/1.1\r\nHost: {}{}{}:{}\r\n"
                       "User-Agent: airlock\r\n"
                       "Content-Type: application/json\r\n"
                       "Content-Length: {}\r\nConnection: close\r\n\r\n{}",
                       address.target, v6 ? "[" : "", address.host,
                       v6 ? "]" : "", address.port, body.size(), body);
}

/** Reads with `more`, which appends bytes or returns false at the end, up to
 * the end of the first line. */
template <typename More>
void requireSuccess(const More& more)
{
    std::string line;
    while (line.find('\n') == std::string::npos && line.size() < maxStatusLine)
    {
        if (!more(line))
        {
            break;
        }
    }
    // "HTTP/1.1 204 No Content"
    constexpr std::size_t statusAt = 9;
    if (!line.starts_with("HTTP/1.") || line.size() < statusAt + 3)
    {
        throw Error("the webhook's server does not speak HTTP");
    }
    if (line[statusAt] != '2')
    {
        throw Error("the webhook's server answered " +
                    plainText(line.substr(statusAt, 3)));
    }
}

void exchangeTls(const WebAddress& address, const std::string& request,
                 UniqueFd socket, const std::filesystem::path& authorities,
                 const Deadline& deadline)
{
    tls::Context context = tls::Context::forWeb(authorities);
    tls::Stream stream = tls::Stream::connectWeb(context, std::move(socket),
                                                 address.host, deadline);
    stream.send(asBytes(request), deadline);
    requireSuccess([&](std::string& line) {
        std::array<std::uint8_t, 512> piece;
        std::size_t got = stream.receive(piece, deadline);
        line.append(piece.begin(), piece.begin() + got);
        return got > 0;
    });
    stream.close();
}

void exchangePlain(const std::string& request, const UniqueFd& socket,
                   const Deadline& deadline)
{
    sendAll(socket.get(), request, deadline);
    requireSuccess([&](std::string& line) {
        if (!receiveSome(socket.get(), line, 512, deadline))
        {
            throw TimedOut("the webhook's server does not answer in time");
        }
        return true;
    });
}

} // namespace

WebAddress parseWebAddress(std::string_view url)
{
    WebAddress out;
    out.tls = url.starts_with("https://");
    if (!out.tls && !url.starts_with("http://"))
    {
        refuse("is no URL with http:// or https://");
    }
    bool printable = std::all_of(url.begin(), url.end(),
                                 [](char c) { return c > ' ' && c <= '~'; });
    if (url.size() > maxUrl || !printable)
    {
        refuse("is too long, or has characters that a URL cannot have");
    }
    std::string_view rest = url.substr(url.find("//") + 2);
    std::size_t end = std::min(rest.find_first_of("/?"), rest.size());
    parseAuthority(rest.substr(0, end), out);
    out.target = rest.substr(end);
    if (!out.target.starts_with('/'))
    {
        out.target = "/" + out.target;
    }
    if (out.target.find('#') != std::string::npos)
    {
        refuse("has a fragment (#)");
    }
    return out;
}

void postJson(const WebAddress& address, const Json& body, Milliseconds timeout,
              const std::filesystem::path& authorities)
{
    Deadline deadline(timeout);
    std::string request = requestText(address, dumpJson(body));
    UniqueFd socket = connectTcp(address.host, address.port, deadline);
    if (address.tls)
    {
        exchangeTls(address, request, std::move(socket), authorities, deadline);
    }
    else
    {
        exchangePlain(request, socket, deadline);
    }
}

} // namespace airlock::http
