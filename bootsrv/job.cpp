#include "bootsrv/job.hpp"

#include "common/sha256.hpp"
#include "devmodel/handover/image_stream.hpp"
#include "devmodel/vm/boot_vm.hpp"
#include "devmodel/vm/hand_over.hpp"
#include "devmodel/vm/qemu_argv.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace airlock::boot
{

namespace
{

constexpr JsonLimits limits = {1U << 20, 16};
constexpr std::size_t maxText = vm::maxLabel;
constexpr std::size_t maxMessage = 1024;
constexpr std::size_t maxDevices = 64;
constexpr std::size_t maxStages = 64;
constexpr std::uint64_t maxTimeout = vm::maxBootTime.count();

constexpr std::array<const char*, 6> stateNames = {
    "receiving", "queued", "booting", "done", "failed", "gone"};

/** A text that is safe in a log: printable ASCII, not empty. */
std::string label(const JsonField& field, std::size_t max = maxText)
{
    std::string text = field.string(max);
    if (!vm::isLabel(text, max))
    {
        field.refuse("is empty or holds characters other than printable "
                     "ASCII");
    }
    return text;
}

handover::JobTicket parseTicket(const JsonField& field)
{
    field.onlyKeys({"vm", "generation", "nonce"});
    std::string vm = field.at("vm").string(maxText);
    try
    {
        // Checks the form of the UUID.
        handover::JobTicket ticket =
            handover::JobTicket::issue(vm, field.at("generation").u64());
        ticket.nonce = field.at("nonce").digest();
        return ticket;
    }
    catch (const Refused& refused)
    {
        if (refused.where() != "job")
        {
            throw;
        }
        field.at("vm").refuse("is no lower-case UUID");
    }
}

vm::Accelerator parseAccelerator(const JsonField& field)
{
    std::string text = field.string(maxText);
    if (text != "tcg" && text != "kvm")
    {
        field.refuse("is neither kvm nor tcg");
    }
    return text == "kvm" ? vm::Accelerator::kvm : vm::Accelerator::tcg;
}

vm::GuestSpec parseGuest(const JsonField& field)
{
    field.onlyKeys({"name", "vcpus", "memory-bytes", "cpu-model", "accelerator",
                    "nics", "console", "agent", "rng", "msix"});
    vm::GuestSpec spec;
    spec.name = field.at("name").string(maxText);
    spec.vcpus = static_cast<unsigned>(field.at("vcpus").u64(vm::maxVcpus));
    spec.memory = field.at("memory-bytes").u64(handover::memoryMaxBytes);
    spec.cpuModel = label(field.at("cpu-model"));
    spec.accelerator = parseAccelerator(field.at("accelerator"));
    std::size_t nics = field.at("nics").arraySize(vm::maxNics);
    for (std::size_t i = 0; i < nics; i++)
    {
        JsonField nic = field.at("nics").element(i);
        nic.onlyKeys({"mac"});
        spec.nics.push_back({nic.at("mac").string(maxText)});
    }
    spec.console = field.at("console").boolean();
    spec.agent = field.at("agent").boolean();
    spec.rng = field.at("rng").boolean();
    spec.msix = field.at("msix").boolean();
    return spec;
}

std::vector<DiskShape> parseDisks(const JsonField& field)
{
    std::vector<DiskShape> out;
    std::size_t count = field.arraySize(vm::maxDisks);
    for (std::size_t i = 0; i < count; i++)
    {
        JsonField disk = field.element(i);
        disk.onlyKeys({"bytes", "read-only"});
        DiskShape shape;
        shape.bytes = disk.at("bytes").u64();
        handover::requireImageSize(shape.bytes, disk.at("bytes").path());
        shape.readOnly = disk.at("read-only").boolean();
        out.push_back(shape);
    }
    return out;
}

/** Ids are option names of QEMU's machine type. */
vm::BootOptions parseDevices(const JsonField& field)
{
    vm::BootOptions out;
    if (!field.json().is_object() || field.json().size() > maxDevices)
    {
        field.refuse("is no object or has more than " +
                     std::to_string(maxDevices) + " members");
    }
    for (const auto& [key, value] : field.json().items())
    {
        if (key.empty() || key.size() > maxText ||
            key.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") !=
                std::string::npos)
        {
            field.refuse("has a name that is no device of the catalog: " +
                         printable(key));
        }
        out.devices[key] = JsonField(value, field.path() + "." + key).boolean();
    }
    return out;
}

/** What cannot be started is refused now and not after the upload. */
void requireStartable(const JobRequest& request)
{
    try
    {
        vm::validate(request.guest);
        vm::parseBootedPolicy(request.policy);
    }
    catch (const Refused&)
    {
        throw;
    }
    catch (const Error& error)
    {
        throw Refused("job request", error.what());
    }
}

Json guestJson(const vm::GuestSpec& spec)
{
    Json nics = Json::array();
    for (const vm::Nic& nic : spec.nics)
    {
        nics.push_back({{"mac", nic.mac}});
    }
    return {{"name", spec.name},
            {"vcpus", spec.vcpus},
            {"memory-bytes", spec.memory},
            {"cpu-model", spec.cpuModel},
            {"accelerator",
             spec.accelerator == vm::Accelerator::kvm ? "kvm" : "tcg"},
            {"nics", nics},
            {"console", spec.console},
            {"agent", spec.agent},
            {"rng", spec.rng},
            {"msix", spec.msix}};
}

Json resultJson(const JobResult& result)
{
    Json disks = Json::array();
    for (const std::optional<DeltaFile>& disk : result.disks)
    {
        disks.push_back(disk ? Json{{"stream-bytes", disk->bytes},
                                    {"sha256", toHex(disk->sha256)}}
                             : Json());
    }
    return {{"memory-stream-bytes", result.memoryBytes}, {"disks", disks}};
}

JobResult parseResult(const JsonField& field)
{
    JobResult out;
    out.memoryBytes = field.at("memory-stream-bytes").u64();
    std::size_t count = field.at("disks").arraySize(vm::maxDisks);
    for (std::size_t i = 0; i < count; i++)
    {
        JsonField disk = field.at("disks").element(i);
        std::optional<DeltaFile> delta;
        if (!disk.json().is_null())
        {
            delta.emplace();
            delta->bytes = disk.at("stream-bytes").u64();
            delta->sha256 = disk.at("sha256").digest();
        }
        out.disks.push_back(delta);
    }
    return out;
}

JobState parseState(const JsonField& field)
{
    std::string text = field.string(maxText);
    auto* found = std::find(stateNames.begin(), stateNames.end(), text);
    if (found == stateNames.end())
    {
        field.refuse("is no state of a job");
    }
    return static_cast<JobState>(found - stateNames.begin());
}

std::map<std::string, double> parseSeconds(const JsonField& field)
{
    std::map<std::string, double> out;
    if (!field.json().is_object() || field.json().size() > maxStages)
    {
        field.refuse("is no object or has too many members");
    }
    for (const auto& [key, value] : field.json().items())
    {
        double time = JsonField(value, field.path()).number();
        if (!std::isfinite(time) || time < 0)
        {
            field.refuse("has a time that is no time");
        }
        out[plainText(key)] = time;
    }
    return out;
}

} // namespace

Json JobRequest::toJson() const
{
    Json diskList = Json::array();
    for (const DiskShape& disk : disks)
    {
        diskList.push_back(
            {{"bytes", disk.bytes}, {"read-only", disk.readOnly}});
    }
    Json out = {{"job",
                 {{"vm", job.vm},
                  {"generation", job.generation},
                  {"nonce", toHex(job.nonce)}}},
                {"guest", guestJson(guest)},
                {"disks", diskList},
                {"policy", policy},
                {"timeout-seconds", timeout.count()},
                {"tenant", tenant}};
    if (!options.devices.empty())
    {
        out["devices"] = options.devices;
    }
    return out;
}

JobRequest JobRequest::parse(std::string_view text)
{
    Json document = parseJson(text, "job request", limits);
    JsonField root(document, "job request");
    root.onlyKeys({"job", "guest", "disks", "policy", "timeout-seconds",
                   "tenant", "devices"});
    JobRequest out;
    out.job = parseTicket(root.at("job"));
    out.guest = parseGuest(root.at("guest"));
    out.guest.uuid = out.job.vm;
    out.disks = parseDisks(root.at("disks"));
    if (auto devices = root.find("devices"))
    {
        out.options = parseDevices(*devices);
    }
    out.policy = label(root.at("policy"), vm::maxPolicy);
    out.timeout =
        std::chrono::seconds(root.at("timeout-seconds").u64(maxTimeout));
    out.tenant = label(root.at("tenant"));
    requireStartable(out);
    return out;
}

std::uint64_t JobRequest::bytes() const
{
    std::uint64_t out = guest.memory;
    for (const DiskShape& disk : disks)
    {
        out += disk.bytes;
    }
    return out;
}

const char* toText(JobState state)
{
    return stateNames.at(static_cast<std::size_t>(state));
}

Json JobStatus::toJson() const
{
    Json out = {{"id", id},       {"state", toText(state)},
                {"stage", stage}, {"uploaded", uploaded},
                {"tries", tries}, {"seconds", seconds}};
    if (error)
    {
        out["error"] = {{"code", error->code}, {"message", error->message}};
    }
    if (result)
    {
        out["result"] = resultJson(*result);
    }
    return out;
}

JobStatus JobStatus::parse(const JsonField& field)
{
    JobStatus out;
    out.id = label(field.at("id"));
    out.state = parseState(field.at("state"));
    out.stage = plainText(field.at("stage").string(maxText));
    std::size_t disks = field.at("uploaded").arraySize(vm::maxDisks);
    for (std::size_t i = 0; i < disks; i++)
    {
        out.uploaded.push_back(field.at("uploaded").element(i).boolean());
    }
    out.tries = static_cast<unsigned>(field.at("tries").u64(1U << 20));
    out.seconds = parseSeconds(field.at("seconds"));
    if (auto error = field.find("error"))
    {
        out.error = {
            plainText(error->at("code").string(maxText)),
            plainText(error->at("message").string(maxMessage), maxMessage)};
    }
    if (auto result = field.find("result"))
    {
        out.result = parseResult(*result);
    }
    return out;
}

Json Health::toJson() const
{
    Json out = {{"version", version},
                {"mode", mode},
                {"boots",
                 {{"running", bootsRunning},
                  {"max", bootsMax},
                  {"seconds", bootSeconds.count()}}},
                {"jobs", {{"held", jobs}, {"max", jobsMax}}},
                {"bytes", {{"held", bytes}, {"max", bytesMax}}}};
    if (qemu)
    {
        out["qemu"] = qemu->toJson();
    }
    return out;
}

Health Health::parse(const JsonField& field)
{
    Health out;
    out.version = label(field.at("version"));
    out.mode = label(field.at("mode"));
    out.bootsRunning = field.at("boots").at("running").u64();
    out.bootsMax = field.at("boots").at("max").u64();
    out.bootSeconds =
        std::chrono::seconds(field.at("boots").at("seconds").u64(maxTimeout));
    out.jobs = field.at("jobs").at("held").u64();
    out.jobsMax = field.at("jobs").at("max").u64();
    out.bytes = field.at("bytes").at("held").u64();
    out.bytesMax = field.at("bytes").at("max").u64();
    if (auto qemu = field.find("qemu"))
    {
        out.qemu = QemuFacts::parse(*qemu);
    }
    return out;
}

handover::GuestShape shapeOf(const JobRequest& request)
{
    // The disks' paths do not matter, their number does.
    vm::GuestSpec spec = request.guest;
    for (const DiskShape& disk : request.disks)
    {
        spec.disks.push_back({"", disk.readOnly});
    }
    return vm::shapeOf(spec);
}

std::string jobId(const Digest& nonce)
{
    constexpr std::size_t idBytes = 16;
    return toHex(ByteView(sha256(nonce)).first(idBytes));
}

} // namespace airlock::boot
