#include "common/json.hpp"
#include "devmodel/handover/manifest.hpp"
#include "error_of.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

namespace airlock::handover
{
namespace
{

using test::errorOf;

constexpr const char* vm = "0f8fad5b-d9cb-469f-a165-70867728950e";

Manifest sample()
{
    Manifest out;
    out.job = JobTicket::issue(vm, 7);
    out.guest.bootMachine = "airlock-boot-1.0";
    out.guest.productionMachine = "airlock-1.0";
    out.guest.accelerator = "tcg";
    out.guest.cpuModel = "qemu64";
    out.guest.vcpus = 2;
    out.guest.memoryBytes = std::uint64_t{5} << 30;
    out.guest.lowMemoryBytes = std::uint64_t{2} << 30;
    out.guest.devices = {"virtio-blk-pci@00:01.0", "virtio-net-pci@00:02.0"};
    out.deviceStateBytes = 70000;
    out.deviceStateSha256[0] = 1;
    out.memoryChunks = 1000;
    out.memoryRoot[31] = 2;
    out.droppedSections = {"0000:00:1f.0/ICH9LPC", "i8259#1"};
    out.seconds = {{"boot", 22.5}, {"save", 0.004}};
    return out;
}

/** The refusal of the sample after `change`. */
std::string refusalAfter(const std::function<void(Json&)>& change)
{
    Json document = Json::parse(sample().toJson());
    change(document);
    return errorOf([&] { Manifest::parse(document.dump()); });
}

TEST(Manifest, ReadsWhatItWrote)
{
    Manifest manifest = sample();
    EXPECT_EQ(Manifest::parse(manifest.toJson()), manifest);
    manifest.job.generation = UINT64_MAX;
    EXPECT_EQ(Manifest::parse(manifest.toJson()), manifest);
}

TEST(Manifest, EveryMemberIsRequired)
{
    Json document = Json::parse(sample().toJson());
    for (auto member = document.begin(); member != document.end(); ++member)
    {
        const std::string& key = member.key();
        EXPECT_THAT(refusalAfter([&](Json& doc) { doc.erase(key); }),
                    testing::HasSubstr("\"" + key + "\" is missing"));
        if (!member->is_object() || key == "seconds")
        {
            continue;
        }
        for (auto inner = member->begin(); inner != member->end(); ++inner)
        {
            auto change = [&](Json& doc) { doc[key].erase(inner.key()); };
            EXPECT_EQ(refusalAfter(change), "manifest: " + key + ": member \"" +
                                                inner.key() + "\" is missing");
        }
    }
}

TEST(Manifest, EveryMemberHasItsType)
{
    Json document = Json::parse(sample().toJson()).flatten();
    for (auto member = document.begin(); member != document.end(); ++member)
    {
        auto change = [&](Json& doc) {
            doc[Json::json_pointer(member.key())] = {{"odd", {1, -2.5}}};
        };
        EXPECT_NE(refusalAfter(change), "") << member.key();
    }
}

struct Case
{
    const char* pointer;
    Json value;
    const char* refusal;
};

TEST(Manifest, RefusesValuesThatCannotBe)
{
    const std::vector<Case> cases = {
        {"/version", 2, "manifest: version: is not 1"},
        {"/job/vm", "7", "manifest: job.vm: is no lower-case UUID"},
        {"/job/nonce", "00", "manifest: job.nonce: is not 64 hex"},
        {"/job/generation", -1, "manifest: job.generation: is no non-neg"},
        {"/job/more", 1, "manifest: job: unknown member \"more\""},
        {"/more", 1, "manifest: unknown member \"more\""},
        {"/guest/accelerator", "hax", "manifest: guest.accelerator: is nei"},
        {"/guest/cpu-model", "", "manifest: guest.cpu-model: is empty"},
        {"/guest/cpu-model", "a\nb", "manifest: guest.cpu-model: is empty"},
        {"/guest/vcpus", 0, "manifest: guest.vcpus: is 0"},
        {"/guest/vcpus", 256, "manifest: guest.vcpus: is 256, at most 255"},
        {"/guest/memory-bytes", 4097, "manifest: guest.memory-bytes: 4097"},
        {"/guest/memory-bytes", UINT64_MAX - 4095, "manifest: guest.memory"},
        {"/guest/low-memory-bytes", 0, "manifest: guest.low-memory-bytes"},
        {"/guest/low-memory-bytes", 4097, "manifest: guest.low-memory"},
        {"/guest/devices/0", 5, "manifest: guest.devices[0]: is no string"},
        {"/device-state/bytes", 17 << 20, "manifest: device-state.bytes: is"},
        {"/memory/chunk-bytes", 4096, "manifest: memory.chunk-bytes: is not"},
        {"/memory/chunks", 20481, "manifest: memory.chunks: is 20481, at mo"},
        {"/seconds/boot", -1, "manifest: seconds: has a time that is no time"},
    };
    for (const Case& c : cases)
    {
        auto change = [&](Json& doc) {
            doc[Json::json_pointer(c.pointer)] = c.value;
        };
        EXPECT_THAT(refusalAfter(change), testing::StartsWith(c.refusal))
            << c.pointer;
    }
}

TEST(Manifest, RefusesListsWithoutEnd)
{
    EXPECT_THAT(refusalAfter([](Json& doc) {
                    doc["dropped-sections"] = Json(4097, "x");
                }),
                testing::HasSubstr("dropped-sections: has 4097 elements"));
    EXPECT_THAT(refusalAfter([](Json& doc) {
                    doc["guest"]["devices"] = Json(257, "x");
                }),
                testing::HasSubstr("guest.devices: has 257 elements"));
    EXPECT_THROW(Manifest::parse(std::string(2U << 20, ' ')), Refused);
    EXPECT_THROW(Manifest::parse("[]"), Refused);
    EXPECT_THROW(Manifest::parse(""), Refused);
}

TEST(JobTicket, IsFreshEachTimeAndForAUuidOnly)
{
    EXPECT_NE(JobTicket::issue(vm, 1).nonce, JobTicket::issue(vm, 1).nonce);
    for (const char* text : {"", "debian",
                             "0F8FAD5B-D9CB-469F-A165-"
                             "70867728950E"})
    {
        EXPECT_THROW(JobTicket::issue(text, 1), Refused) << text;
    }
}

TEST(Manifest, FitsItsOwnJobOnlyAndNamesWhatDiffers)
{
    Manifest manifest = sample();
    auto refusal = [&](const JobTicket& expected) -> std::string {
        try
        {
            manifest.requireJob(expected);
        }
        catch (const Refused& error)
        {
            return error.where();
        }
        return "not refused";
    };
    JobTicket job = manifest.job;
    EXPECT_EQ(refusal(job), "not refused");
    job.vm = "1f8fad5b-d9cb-469f-a165-70867728950e";
    EXPECT_EQ(refusal(job), "manifest: job.vm");
    job = manifest.job;
    job.generation = 6;
    EXPECT_EQ(refusal(job), "manifest: job.generation");
    EXPECT_EQ(refusal(JobTicket::issue(vm, 7)), "manifest: job.nonce");
}

} // namespace
} // namespace airlock::handover
