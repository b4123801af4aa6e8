#include "bootsrv/client.hpp"

#include "common/file.hpp"
#include "common/sha256.hpp"

#include <fmt/format.h>

namespace airlock::boot
{

namespace
{

constexpr std::size_t manifestMax = 1U << 20;
constexpr std::uint64_t digestEntryBytes = 40;
constexpr std::size_t maxJobs = 4096;

std::string jobPath(const std::string& id)
{
    return "/v1/jobs/" + id;
}

std::string diskPath(const std::string& id, std::size_t disk)
{
    return fmt::format("/v1/jobs/{}/disks/{}", id, disk);
}

JobStatus statusOf(const http::Response& response)
{
    Json document = response.json();
    return JobStatus::parse(JsonField(document, "job status"));
}

} // namespace

Client::Client(http::Endpoint endpoint,
               std::shared_ptr<const tls::Context> context,
               const http::ClientLimits& limits)
    : http_(std::move(endpoint), std::move(context), limits)
{}

Health Client::health()
{
    Json document = http_.call("GET", "/v1/health").json();
    return Health::parse(JsonField(document, "health"));
}

JobStatus Client::createJob(const JobRequest& request)
{
    return statusOf(http_.call("POST", "/v1/jobs", request.toJson()));
}

handover::MemoryFigures Client::uploadDisk(const std::string& id,
                                           std::size_t disk,
                                           handover::ImageSource& source,
                                           const OnBytes& onBytes)
{
    handover::MemoryFigures result;
    http_.upload("PUT", diskPath(id, disk), [&](const http::BodySink& sink) {
        std::uint64_t sent = 0;
        result = handover::writeImage(source, [&](ByteView data) {
            sink(data);
            sent += data.size();
            if (onBytes)
            {
                onBytes(sent);
            }
        });
    });
    return result;
}

JobStatus Client::seal(const std::string& id)
{
    return statusOf(http_.call("POST", jobPath(id) + "/seal"));
}

JobStatus Client::status(const std::string& id)
{
    return statusOf(http_.call("GET", jobPath(id)));
}

std::vector<JobStatus> Client::jobs()
{
    Json document = http_.call("GET", "/v1/jobs").json();
    JsonField list = JsonField(document, "jobs").at("jobs");
    std::vector<JobStatus> out;
    std::size_t count = list.arraySize(maxJobs);
    for (std::size_t i = 0; i < count; i++)
    {
        out.push_back(JobStatus::parse(list.element(i)));
    }
    return out;
}

void Client::remove(const std::string& id)
{
    try
    {
        http_.call("DELETE", jobPath(id));
    }
    catch (const http::Problem& problem)
    {
        if (problem.status() != 404 && problem.status() != 410)
        {
            throw;
        }
    }
}

handover::Manifest Client::fetchManifest(const std::string& id)
{
    std::string text;
    http_.download(
        jobPath(id) + "/manifest",
        [&text](ByteView data) { text.append(data.begin(), data.end()); },
        manifestMax);
    return handover::Manifest::parse(text);
}

Bytes Client::fetchState(const std::string& id)
{
    Bytes out;
    http_.download(
        jobPath(id) + "/state",
        [&out](ByteView data) {
            out.insert(out.end(), data.begin(), data.end());
        },
        handover::deviceStateMaxBytes);
    return out;
}

handover::MemoryDigest Client::fetchDigests(const std::string& id,
                                            std::uint64_t memoryBytes)
{
    handover::requireMemorySize(memoryBytes, "memory");
    std::uint64_t chunks = memoryBytes / handover::memoryChunkBytes + 1;
    Bytes list;
    http_.download(
        jobPath(id) + "/digests",
        [&list](ByteView data) {
            list.insert(list.end(), data.begin(), data.end());
        },
        chunks * digestEntryBytes);
    return handover::MemoryDigest::decode(list, memoryBytes);
}

void Client::fetchMemory(const std::string& id, int fd,
                         std::uint64_t memoryBytes, const OnBytes& onBytes)
{
    handover::ImageFile file(fd, memoryBytes);
    handover::ImageStreamReader reader(
        memoryBytes,
        [&file](const handover::ImageChunk& chunk) { file.write(chunk); });
    std::uint64_t received = 0;
    http_.download(
        jobPath(id) + "/memory",
        [&](ByteView data) {
            reader.feed(data);
            received += data.size();
            if (onBytes)
            {
                onBytes(received);
            }
        },
        handover::imageStreamMaxBytes(memoryBytes));
    reader.finish();
}

handover::Bundle Client::fetchBundle(const std::string& id,
                                     const CheckManifest& check,
                                     const OnBytes& onBytes)
{
    handover::Manifest manifest = fetchManifest(id);
    check(manifest);
    std::uint64_t bytes = manifest.guest.memoryBytes;
    Bytes state = fetchState(id);
    handover::MemoryDigest digest = fetchDigests(id, bytes);
    if (!equalConstantTime(sha256(state), manifest.deviceStateSha256) ||
        !equalConstantTime(digest.root(), manifest.memoryRoot))
    {
        throw Refused("manifest", "is not that of the state and digests that "
                                  "came with it");
    }
    UniqueFd memory = createMemfd("received-memory", bytes);
    fetchMemory(id, memory.get(), bytes, onBytes);
    return {std::move(manifest), std::move(state), std::move(digest),
            std::move(memory)};
}

void Client::fetchDisk(const std::string& id, std::size_t disk,
                       const DeltaFile& expected, const http::BodySink& sink)
{
    Sha256 hash;
    std::uint64_t received = http_.download(
        diskPath(id, disk),
        [&](ByteView data) {
            hash.update(data);
            sink(data);
        },
        expected.bytes);
    if (received != expected.bytes ||
        !equalConstantTime(hash.finish(), expected.sha256))
    {
        throw Refused(fmt::format("delta of disk {}", disk),
                      "is not the one that the boot server announced");
    }
}

} // namespace airlock::boot
