#include "bootsrv/machine/collect.hpp"

#include "common/error.hpp"
#include "devmodel/handover/image_stream.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

namespace airlock::machine
{

namespace
{

constexpr JsonLimits limits = {resultMaxBytes, 4};
constexpr std::size_t maxMessage = 1000;
constexpr double maxSeconds = 1e7;
constexpr std::array<std::string_view, 5> codes = {
    "done", "timeout", "boot-failed", "no-space", "internal"};
/** Stages of a dirty run; others are not repeated to anybody. */
constexpr std::array<std::string_view, 6> stages = {"unpack", "start",  "boot",
                                                    "save",   "memory", "pack"};

template <std::size_t size>
bool isOneOf(const std::array<std::string_view, size>& words,
             std::string_view word)
{
    return std::find(words.begin(), words.end(), word) != words.end();
}

RecordHead require(const CryptArea& out, const Slot& slot, const char* what)
{
    std::optional<RecordHead> head = findRecord(out, slot);
    if (!head)
    {
        throw Refused(what, "is not there");
    }
    return *head;
}

/** The memory image's digests, made while its form is checked. */
handover::MemoryDigest readMemory(const CryptArea& out, const Slot& slot,
                                  const RecordHead& head, std::uint64_t bytes)
{
    handover::MemoryDigest digest;
    digest.bytes = bytes;
    handover::ImageStreamReader reader(
        bytes, [&digest](const handover::ImageChunk& chunk) {
            if (chunk.mask == 0)
            {
                throw Refused("memory image", "has a chunk without pages");
            }
            digest.chunks.push_back({chunk.index, chunkDigest(chunk)});
        });
    readRecord(out, slot, head,
               [&reader](ByteView data) { reader.feed(data); });
    reader.finish();
    return digest;
}

boot::DeltaFile readDelta(const CryptArea& out, const Slot& slot,
                          const RecordHead& head, std::uint64_t bytes)
{
    handover::ImageStreamReader reader(bytes,
                                       [](const handover::ImageChunk&) {});
    readRecord(out, slot, head,
               [&reader](ByteView data) { reader.feed(data); });
    reader.finish();
    return {head.bytes, head.sha256};
}

} // namespace

std::string RunReport::toText() const
{
    return dumpJson(
        {{"code", code}, {"message", message}, {"seconds", seconds}});
}

RunReport RunReport::parse(std::string_view text)
{
    Json json = parseJson(text, "report", limits);
    JsonField root(json, "report");
    root.onlyKeys({"code", "message", "seconds"});
    RunReport out;
    out.code = root.at("code").string(32);
    if (!isOneOf(codes, out.code))
    {
        root.at("code").refuse("is none that is known");
    }
    out.message =
        plainText(root.at("message").string(resultMaxBytes), maxMessage);
    JsonField seconds = root.at("seconds");
    if (!seconds.json().is_object())
    {
        seconds.refuse("is no object");
    }
    for (const auto& [stage, value] : seconds.json().items())
    {
        double time = JsonField(value, "report: seconds").number();
        if (isOneOf(stages, stage) && std::isfinite(time) && time >= 0 &&
            time < maxSeconds)
        {
            out.seconds[stage] = time;
        }
    }
    return out;
}

std::optional<RunReport> readReport(const CryptArea& out, const Layout& layout)
{
    std::optional<RecordHead> head = findRecord(out, layout.result);
    if (!head)
    {
        return std::nullopt;
    }
    Bytes text = readRecord(out, layout.result, *head);
    return RunReport::parse(asText(text));
}

Collected collectResult(const CryptArea& out, const Layout& layout,
                        const boot::JobRequest& request,
                        const std::map<std::string, double>& seconds)
{
    Collected made;
    handover::Manifest manifest;
    manifest.job = request.job;
    manifest.guest = boot::shapeOf(request);
    manifest.seconds = seconds;

    RecordHead state = require(out, layout.state, "device state");
    readRecord(out, layout.state, state, [](ByteView) {});
    made.stateBytes = state.bytes;
    manifest.deviceStateBytes = state.bytes;
    manifest.deviceStateSha256 = state.sha256;

    RecordHead memory = require(out, layout.memory, "memory image");
    handover::MemoryDigest digest =
        readMemory(out, layout.memory, memory, request.guest.memory);
    made.result.memoryBytes = memory.bytes;
    manifest.memoryChunks = digest.chunks.size();
    manifest.memoryRoot = digest.root();
    made.digests = digest.encode();

    for (std::size_t i = 0; i < layout.deltas.size(); i++)
    {
        made.result.disks.emplace_back();
        if (layout.deltas[i])
        {
            RecordHead delta = require(out, *layout.deltas[i], "disk delta");
            made.result.disks.back() = readDelta(out, *layout.deltas[i], delta,
                                                 request.disks[i].bytes);
        }
    }
    made.manifest = manifest.toJson();
    return made;
}

} // namespace airlock::machine
