#include "devmodel/handover/manifest.hpp"

#include "common/json.hpp"

#include <algorithm>
#include <cmath>

namespace airlock::handover
{

namespace
{

constexpr JsonLimits limits = {1U << 20, 8};
constexpr std::size_t maxName = 255;
constexpr std::size_t maxDevices = 256;
constexpr std::size_t maxDropped = 4096;
constexpr std::size_t maxStages = 64;
constexpr std::uint64_t maxVcpus = 255;
constexpr std::uint64_t fourGiB = std::uint64_t{1} << 32;

bool isUuid(std::string_view text)
{
    constexpr std::string_view shape = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    return text.size() == shape.size() &&
           std::equal(text.begin(), text.end(), shape.begin(),
                      [](char c, char expected) {
                          bool digit =
                              (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
                          return expected == 'x' ? digit : c == '-';
                      });
}

/** A text that is safe in a log and an error message. */
std::string name(const JsonField& field)
{
    std::string text = field.string(maxName);
    if (text.empty() || !std::all_of(text.begin(), text.end(), [](char c) {
            return c >= ' ' && c <= '~';
        }))
    {
        field.refuse("is empty or holds characters other than printable "
                     "ASCII");
    }
    return text;
}

std::vector<std::string> names(const JsonField& field, std::size_t max)
{
    std::vector<std::string> out;
    std::size_t count = field.arraySize(max);
    for (std::size_t i = 0; i < count; ++i)
    {
        out.push_back(name(field.element(i)));
    }
    return out;
}

JobTicket parseJob(const JsonField& field)
{
    field.onlyKeys({"vm", "generation", "nonce"});
    JobTicket job;
    job.vm = field.at("vm").string();
    if (!isUuid(job.vm))
    {
        field.at("vm").refuse("is no lower-case UUID");
    }
    job.generation = field.at("generation").u64();
    job.nonce = field.at("nonce").digest();
    return job;
}

GuestShape parseGuest(const JsonField& field)
{
    field.onlyKeys({"boot-machine", "production-machine", "accelerator",
                    "cpu-model", "vcpus", "memory-bytes", "low-memory-bytes",
                    "devices"});
    GuestShape guest;
    guest.bootMachine = name(field.at("boot-machine"));
    guest.productionMachine = name(field.at("production-machine"));
    guest.accelerator = name(field.at("accelerator"));
    if (guest.accelerator != "kvm" && guest.accelerator != "tcg")
    {
        field.at("accelerator").refuse("is neither kvm nor tcg");
    }
    guest.cpuModel = name(field.at("cpu-model"));
    guest.vcpus = static_cast<std::uint32_t>(field.at("vcpus").u64(maxVcpus));
    if (guest.vcpus == 0)
    {
        field.at("vcpus").refuse("is 0");
    }
    guest.memoryBytes = field.at("memory-bytes").u64();
    requireMemorySize(guest.memoryBytes, field.at("memory-bytes").path());
    guest.lowMemoryBytes = field.at("low-memory-bytes").u64(fourGiB);
    if (guest.lowMemoryBytes == 0 || guest.lowMemoryBytes > guest.memoryBytes ||
        guest.lowMemoryBytes % memoryPageBytes != 0)
    {
        field.at("low-memory-bytes").refuse("does not fit the memory size");
    }
    guest.devices = names(field.at("devices"), maxDevices);
    return guest;
}

void parseDeviceState(const JsonField& field, Manifest& manifest)
{
    field.onlyKeys({"bytes", "sha256"});
    manifest.deviceStateBytes = field.at("bytes").u64(deviceStateMaxBytes);
    manifest.deviceStateSha256 = field.at("sha256").digest();
}

void parseMemory(const JsonField& field, Manifest& manifest)
{
    field.onlyKeys({"chunk-bytes", "chunks", "root"});
    if (field.at("chunk-bytes").u64() != memoryChunkBytes)
    {
        field.at("chunk-bytes")
            .refuse("is not " + std::to_string(memoryChunkBytes));
    }
    std::uint64_t most =
        (manifest.guest.memoryBytes + memoryChunkBytes - 1) / memoryChunkBytes;
    manifest.memoryChunks = field.at("chunks").u64(most);
    manifest.memoryRoot = field.at("root").digest();
}

std::map<std::string, double> parseSeconds(const JsonField& field)
{
    if (!field.json().is_object() || field.json().size() > maxStages)
    {
        field.refuse("is no object or has more than " +
                     std::to_string(maxStages) + " members");
    }
    std::map<std::string, double> out;
    for (const auto& [key, unused] : field.json().items())
    {
        Json stage = key;
        double value = field.at(key).number();
        if (!std::isfinite(value) || value < 0)
        {
            field.refuse("has a time that is no time");
        }
        out[name(JsonField(stage, field.path()))] = value;
    }
    return out;
}

Json jobJson(const JobTicket& job)
{
    return {{"vm", job.vm},
            {"generation", job.generation},
            {"nonce", toHex(job.nonce)}};
}

Json guestJson(const GuestShape& guest)
{
    return {{"boot-machine", guest.bootMachine},
            {"production-machine", guest.productionMachine},
            {"accelerator", guest.accelerator},
            {"cpu-model", guest.cpuModel},
            {"vcpus", guest.vcpus},
            {"memory-bytes", guest.memoryBytes},
            {"low-memory-bytes", guest.lowMemoryBytes},
            {"devices", guest.devices}};
}

} // namespace

JobTicket JobTicket::issue(std::string_view vm, std::uint64_t generation)
{
    if (!isUuid(vm))
    {
        throw Refused("job", printable(vm) + " is no lower-case UUID");
    }
    JobTicket ticket{std::string(vm), generation, {}};
    fillRandom(ticket.nonce);
    return ticket;
}

std::string Manifest::toJson() const
{
    Json out = {
        {"version", version},
        {"job", jobJson(job)},
        {"guest", guestJson(guest)},
        {"device-state",
         {{"bytes", deviceStateBytes}, {"sha256", toHex(deviceStateSha256)}}},
        {"memory",
         {{"chunk-bytes", memoryChunkBytes},
          {"chunks", memoryChunks},
          {"root", toHex(memoryRoot)}}},
        {"dropped-sections", droppedSections},
        {"seconds", seconds},
    };
    return out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Manifest Manifest::parse(std::string_view text)
{
    Json document = parseJson(text, "manifest", limits);
    JsonField root(document, "manifest");
    if (root.at("version").u64() != version)
    {
        root.at("version").refuse("is not " + std::to_string(version));
    }
    root.onlyKeys({"version", "job", "guest", "device-state", "memory",
                   "dropped-sections", "seconds"});
    Manifest out;
    out.job = parseJob(root.at("job"));
    out.guest = parseGuest(root.at("guest"));
    parseDeviceState(root.at("device-state"), out);
    parseMemory(root.at("memory"), out);
    out.droppedSections = names(root.at("dropped-sections"), maxDropped);
    out.seconds = parseSeconds(root.at("seconds"));
    return out;
}

void Manifest::requireJob(const JobTicket& expected) const
{
    if (job.vm != expected.vm)
    {
        throw Refused("manifest: job.vm",
                      "is " + job.vm + ", the job is for " + expected.vm);
    }
    if (job.generation != expected.generation)
    {
        throw Refused("manifest: job.generation",
                      "is " + std::to_string(job.generation) +
                          ", the job has " +
                          std::to_string(expected.generation));
    }
    if (!equalConstantTime(job.nonce, expected.nonce))
    {
        throw Refused("manifest: job.nonce",
                      "is that of another try of this job");
    }
}

} // namespace airlock::handover
