#include "bootsrv/job_store.hpp"
#include "bootsrv/service.hpp"
#include "common/error.hpp"
#include "common/file.hpp"

#include <array>
#include <string_view>

namespace
{

using namespace airlock;
using namespace airlock::boot;

/** A boot server that has one job, without its HTTP server. */
class Target
{
  public:
    Target() : store_(directory_.path() / "state", quota())
    {
        JobRequest request;
        request.job = handover::JobTicket{
            "9d1f6a52-7c0e-4a39-8f10-5b7d2c34e601", 1, Digest{}};
        request.guest.uuid = request.job.vm;
        request.guest.memory = 64U << 20;
        request.disks = {{1U << 20, false}, {4096, true}};
        request.timeout = std::chrono::seconds(1);
        request.tenant = "blue";
        id_ = store_.create("host", request).status.id;
        handler_ = makeHandler(store_, {1, "fuzz", std::nullopt});
    }

    const std::string& id() const { return id_; }

    void call(const http::Request& request, ByteView body)
    {
        auto exchange = handler_(request);
        if (exchange->body() != http::Exchange::Body::none)
        {
            // In two pieces, as a network would have it.
            exchange->receive(body.first(body.size() / 2));
            exchange->receive(body.subspan(body.size() / 2));
        }
        http::Answer answer = exchange->finish();
        if (answer.stream)
        {
            std::array<std::uint8_t, 512> piece;
            answer.stream->read(std::span(piece).first(
                std::min<std::uint64_t>(answer.stream->bytes(), 512)));
        }
    }

  private:
    static Quota quota()
    {
        Quota out;
        out.jobs = 4;
        return out;
    }

    TempDirectory directory_;
    JobStore store_;
    std::string id_;
    http::Handler handler_;
};

/** "@" in a path stands for the id of the job that is there. */
std::string withId(std::string_view path, const std::string& id)
{
    std::string out;
    for (char c : path)
    {
        out += c == '@' ? id : std::string(1, c);
    }
    return out;
}

} // namespace

/** "METHOD PATH\nBODY" of any content is answered or refused. */
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data,
                                      std::size_t size)
{
    static Target target;
    std::string_view text(reinterpret_cast<const char*>(data), size);
    std::size_t line = text.find('\n');
    std::string_view head = text.substr(0, line);
    std::size_t space = head.find(' ');
    if (line == std::string_view::npos || space == std::string_view::npos)
    {
        return 0;
    }
    try
    {
        http::Request request;
        request.method = std::string(head.substr(0, space));
        request.path =
            http::splitPath(withId(head.substr(space + 1), target.id()));
        request.peer = {"host", "airlock-hostd"};
        target.call(request, ByteView(data, size).subspan(line + 1));
    }
    catch (const http::Problem&)
    {}
    catch (const Refused&)
    {}
    return 0;
}
