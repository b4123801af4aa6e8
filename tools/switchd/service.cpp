#include "tools/switchd/service.hpp"

#include "common/sha256.hpp"
#include "tools/switchd/agent.hpp"

#include <utility>

namespace airlock::sw
{

namespace
{

using http::Answer;
using http::Exchange;
using http::Problem;
using http::Request;

constexpr JsonLimits bodyLimits{4096, 4};

class Call : public Exchange
{
  public:
    using Action = std::function<Json(const JsonField& body)>;

    Call(Body body, Action action) : body_(body), action_(std::move(action)) {}
    ~Call() override { wipe(text_); } // a root may be in there

    Body body() const override { return body_; }
    void receive(ByteView data) override
    {
        // It does not move: what TLS and HTTP had of it is all that is left.
        text_.reserve(bodyLimits.bytes + 1);
        std::size_t room = bodyLimits.bytes + 1 - text_.size();
        text_.append(data.begin(),
                     data.begin() + static_cast<std::ptrdiff_t>(
                                        std::min(room, data.size())));
    }
    Answer finish() override
    try
    {
        WipedJson request(body_ == Body::none
                              ? Json::object()
                              : parseJson(text_, "request", bodyLimits));
        return Answer::json(action_(JsonField(request.json, "request")));
    }
    catch (const NoSuchPort& error)
    {
        throw Problem(404, "not-found", error.what());
    }

  private:
    Body body_;
    Action action_;
    std::string text_;
};

/** What the answer to "cut" has to say, no more. */
Json cutAnswer(const Json& status, const std::string& nonce)
{
    return {{"nonce", nonce},
            {"port", status.at("port")},
            {"state", status.at("state")},
            {"epoch", status.at("epoch")}};
}

Json cut(const HostCalls& calls, const std::string& host, const JsonField& body)
{
    body.onlyKeys({"nonce"});
    std::string nonce = body.at("nonce").string(64);
    if (!digestFromHex(nonce))
    {
        body.at("nonce").refuse("is not 64 hexadecimal digits");
    }
    return cutAnswer(calls.cut(host), nonce);
}

Json rotate(const HostCalls& calls, const std::string& host,
            const JsonField& body)
{
    body.onlyKeys({"root"});
    Secret root = Secret::key(body.at("root"));
    try
    {
        return calls.rotate(host, root);
    }
    catch (const Refused& error)
    {
        throw Problem(409, error.where(), error.reason());
    }
}

void requireMethod(const Request& request, std::string_view method)
{
    if (request.method != method)
    {
        throw Problem(405, "bad-method",
                      request.method + " is not for this path");
    }
}

std::unique_ptr<Exchange> route(const HostCalls& calls,
                                const std::string& version,
                                const Request& request)
{
    auto call = [](Exchange::Body body, Call::Action action) {
        return std::make_unique<Call>(body, std::move(action));
    };
    std::string host = request.peer.name;
    if (request.path.size() != 2 || request.path[0] != "v1")
    {
        throw Problem(404, "not-found", "there is nothing at this path");
    }
    const std::string& what = request.path[1];
    if (what == "cut")
    {
        requireMethod(request, "POST");
        return call(Exchange::Body::json,
                    [&calls, host](const JsonField& body) {
                        return cut(calls, host, body);
                    });
    }
    if (what == "rotate")
    {
        requireMethod(request, "POST");
        return call(Exchange::Body::json,
                    [&calls, host](const JsonField& body) {
                        return rotate(calls, host, body);
                    });
    }
    if (what == "port" || what == "health")
    {
        requireMethod(request, "GET");
        bool port = what == "port";
        return call(Exchange::Body::none, [&calls, &version, host,
                                           port](const JsonField&) {
            return port ? calls.status(host) : Json{{"version", version}};
        });
    }
    throw Problem(404, "not-found", "there is nothing at this path");
}

} // namespace

http::Handler makeHandler(HostCalls calls, const std::string& version)
{
    auto shared = std::make_shared<std::pair<HostCalls, std::string>>(
        std::move(calls), version);
    return [shared](const Request& request) {
        return route(shared->first, shared->second, request);
    };
}

} // namespace airlock::sw
