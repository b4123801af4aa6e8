#include "bootsrv/service.hpp"

#include <charconv>
#include <functional>
#include <utility>

namespace airlock::boot
{

namespace
{

using http::Answer;
using http::Exchange;
using http::Problem;
using http::Request;

/** A call without a body. */
class Call : public Exchange
{
  public:
    explicit Call(std::function<Answer()> action) : action_(std::move(action))
    {}
    Answer finish() override { return action_(); }

  private:
    std::function<Answer()> action_;
};

class JsonCall : public Exchange
{
  public:
    explicit JsonCall(std::function<Answer(const std::string&)> action)
        : action_(std::move(action))
    {}
    Body body() const override { return Body::json; }
    void receive(ByteView data) override
    {
        text_.append(data.begin(), data.end());
    }
    Answer finish() override { return action_(text_); }

  private:
    std::function<Answer(const std::string&)> action_;
    std::string text_;
};

class DiskUpload : public Exchange
{
  public:
    explicit DiskUpload(std::unique_ptr<Jobs::Upload> upload)
        : upload_(std::move(upload))
    {}
    Body body() const override { return Body::stream; }
    std::uint64_t maxBytes() const override { return upload_->maxBytes(); }
    void receive(ByteView data) override { upload_->feed(data); }
    std::uint64_t progress() const override { return upload_->position(); }
    Answer finish() override
    {
        return Answer::json(upload_->finish().toJson());
    }

  private:
    std::unique_ptr<Jobs::Upload> upload_;
};

Answer sendResult(std::unique_ptr<http::BodySource> source, const char* type)
{
    Answer out;
    out.type = type;
    out.stream = std::move(source);
    return out;
}

/** A decimal number in its one way of writing. */
std::size_t diskNumber(const std::string& text)
{
    std::size_t out = 0;
    const char* end = text.data() + text.size();
    auto parsed = std::from_chars(text.data(), end, out);
    if (parsed.ec != std::errc() || parsed.ptr != end ||
        std::to_string(out) != text)
    {
        throw Problem(404, "not-found", "there is no such disk");
    }
    return out;
}

class Service
{
  public:
    Service(Jobs& store, ServiceFacts facts)
        : store_(store), facts_(std::move(facts))
    {}

    std::unique_ptr<Exchange> route(const Request& request) const
    {
        const auto& path = request.path;
        if (path[0] != "v1" || path.size() < 2)
        {
            throw Problem(404, "not-found", "there is nothing at this path");
        }
        if (path.size() == 2 && path[1] == "health")
        {
            requireMethod(request, {"GET"});
            return call([this] { return health(); });
        }
        if (path[1] != "jobs" || path.size() > 5)
        {
            throw Problem(404, "not-found", "there is nothing at this path");
        }
        switch (path.size())
        {
        case 2:
            return jobs(request);
        case 3:
            return job(request);
        case 4:
            return jobPart(request);
        default:
            return jobDisk(request);
        }
    }

  private:
    static void requireMethod(const Request& request,
                              std::initializer_list<std::string_view> methods)
    {
        for (std::string_view method : methods)
        {
            if (request.method == method)
            {
                return;
            }
        }
        throw Problem(405, "bad-method",
                      request.method + " is not for this path");
    }

    static std::unique_ptr<Exchange> call(std::function<Answer()> action)
    {
        return std::make_unique<Call>(std::move(action));
    }

    Answer health() const
    {
        Health out = store_.health();
        out.version = facts_.version;
        out.bootsMax = facts_.parallelBoots;
        out.qemu = facts_.qemu;
        return Answer::json(out.toJson());
    }

    std::unique_ptr<Exchange> jobs(const Request& request) const
    {
        requireMethod(request, {"GET", "POST"});
        std::string owner = request.peer.name;
        if (request.method == "POST")
        {
            return std::make_unique<JsonCall>(
                [this, owner](const std::string& text) {
                    auto made = store_.create(owner, JobRequest::parse(text));
                    return Answer::json(made.status.toJson(),
                                        made.fresh ? 201 : 200);
                });
        }
        return call([this, owner] {
            Json list = Json::array();
            for (const JobStatus& status : store_.list(owner))
            {
                list.push_back(status.toJson());
            }
            return Answer::json({{"jobs", list}});
        });
    }

    std::unique_ptr<Exchange> job(const Request& request) const
    {
        requireMethod(request, {"GET", "DELETE"});
        bool remove = request.method == "DELETE";
        return call([this, remove, owner = request.peer.name,
                     id = request.path[2]] {
            return Answer::json(
                (remove ? store_.remove(owner, id) : store_.status(owner, id))
                    .toJson());
        });
    }

    std::unique_ptr<Exchange> jobPart(const Request& request) const
    {
        const std::string& part = request.path[3];
        std::string owner = request.peer.name;
        std::string id = request.path[2];
        if (part == "seal")
        {
            requireMethod(request, {"POST"});
            return call([this, owner, id] {
                return Answer::json(store_.seal(owner, id).toJson());
            });
        }
        static const std::map<std::string, std::pair<ResultFile, const char*>>
            files = {
                {"manifest", {ResultFile::manifest, http::jsonType}},
                {"state", {ResultFile::state, http::octetsType}},
                {"digests", {ResultFile::digests, http::octetsType}},
                {"memory", {ResultFile::memory, http::octetsType}},
            };
        auto found = files.find(part);
        if (found == files.end())
        {
            throw Problem(404, "not-found", "there is nothing at this path");
        }
        requireMethod(request, {"GET"});
        return call([this, owner, id, file = found->second] {
            return sendResult(store_.result(owner, id, file.first),
                              file.second);
        });
    }

    std::unique_ptr<Exchange> jobDisk(const Request& request) const
    {
        if (request.path[3] != "disks")
        {
            throw Problem(404, "not-found", "there is nothing at this path");
        }
        requireMethod(request, {"GET", "PUT"});
        std::size_t disk = diskNumber(request.path[4]);
        std::string owner = request.peer.name;
        std::string id = request.path[2];
        if (request.method == "PUT")
        {
            return std::make_unique<DiskUpload>(store_.upload(owner, id, disk));
        }
        return call([this, owner, id, disk] {
            return sendResult(store_.result(owner, id, ResultFile::disk, disk),
                              http::octetsType);
        });
    }

    Jobs& store_;
    ServiceFacts facts_;
};

} // namespace

http::Handler makeHandler(Jobs& store, ServiceFacts facts)
{
    auto service = std::make_shared<Service>(store, std::move(facts));
    return
        [service](const Request& request) { return service->route(request); };
}

} // namespace airlock::boot
