#include "devmodel/handover/vmdesc.hpp"
#include "error_of.hpp"
#include "tests/unit/test_streams.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace airlock::handover
{
namespace
{

using test::errorOf;
using ::testing::HasSubstr;

/** A device with an array, a struct that has a subsection, and an array of
 * structs, as QEMU describes it. */
const Json kDevice = Json::parse(R"({
    "name": "dev", "instance_id": 1, "vmsd_name": "dev", "version": 3,
    "fields": [
        {"name": "a", "type": "uint32", "size": 4},
        {"name": "b", "type": "uint16", "size": 2, "array_len": 3},
        {"name": "s", "type": "struct", "size": 14, "struct": {
            "vmsd_name": "s", "version": 1,
            "fields": [{"name": "x", "type": "uint8", "size": 1}],
            "subsections": [{
                "vmsd_name": "s/t", "version": 2,
                "fields": [{"name": "y", "type": "uint32", "size": 4}]}]}},
        {"name": "e", "type": "struct", "size": 1, "array_len": 2, "struct": {
            "vmsd_name": "e", "version": 1,
            "fields": [{"name": "z", "type": "bool", "size": 1}]}}]
})");

const Bytes kPayload = {1, 2, 3,   4,                    // a
                        0, 1, 0,   2,   0,   3,          // b
                        9,                               // s.x
                        5, 3, 's', '/', 't', 0, 0, 0, 2, // header of s/t
                        7, 7, 7,   42,                   // its y
                        1, 0};                           // e[].z

VmDesc parse(const Json& device)
{
    return parseVmDesc(Json{{"devices", Json::array({device})}}.dump());
}

/** What is said about kDevice with the member at a JSON pointer changed. */
std::string refusedWith(const std::string& pointer, const Json& value)
{
    Json device = kDevice;
    device[Json::json_pointer(pointer)] = value;
    return errorOf([&] { parse(device); });
}

std::string refusedPayload(std::size_t at, std::uint8_t value)
{
    Bytes payload = kPayload;
    payload.at(at) = value;
    DeviceDesc device = parse(kDevice).devices.at(0);
    return errorOf([&] { checkPayload(device, payload); });
}

TEST(VmDesc, ReadsADevice)
{
    DeviceDesc device = parse(kDevice).devices.at(0);
    EXPECT_EQ(device.idstr, "dev");
    EXPECT_EQ(device.instance, 1U);
    EXPECT_EQ(device.body.version, 3U);
    EXPECT_EQ(device.body.size, kPayload.size());
    EXPECT_EQ(device.body.fields.at(2).inner.at(0).subsections.at(0).name,
              "s/t");
    EXPECT_NO_THROW(checkPayload(device, kPayload));
}

TEST(VmDesc, NamesEveryByte)
{
    DeviceDesc device = parse(kDevice).devices.at(0);
    std::vector<std::string> spans;
    for (const FieldSpan& span : layOut(device, kPayload))
    {
        spans.push_back(span.path + "@" + std::to_string(span.offset) + "+" +
                        std::to_string(span.size));
    }
    EXPECT_THAT(spans, ::testing::ElementsAre("a@0+4", "b@4+6", "s.x@10+1",
                                              "s/t: header@11+9", "s/t: y@20+4",
                                              "e[0].z@24+1", "e[1].z@25+1"));
}

TEST(VmDesc, ReadsAnOldStyleDevice)
{
    Json old = Json::parse(R"({"name": "slirp", "instance_id": 0, "size": 9,
        "fields": [{"name": "data", "size": 9, "type": "buffer"}]})");
    DeviceDesc device = parse(old).devices.at(0);
    EXPECT_EQ(device.body.name, "");
    EXPECT_EQ(device.body.size, 9U);

    old["fields"].push_back(old["fields"][0]);
    EXPECT_THAT(errorOf([&] { parse(old); }), HasSubstr("neither a VMState"));
}

TEST(VmDesc, RefusesOtherTextThanADescription)
{
    for (const char* text : {"", "{", "[]", "{}", "null", R"({"devices": {}})",
                             R"({"devices": [1]})", R"({"devices": [{}]})",
                             "{\"devices\": [\xff]}"})
    {
        EXPECT_NE(errorOf([&] { parseVmDesc(text); }), "") << text;
    }
    EXPECT_EQ(errorOf([] { parseVmDesc(R"({"devices": []})"); }), "");
}

TEST(VmDesc, RefusesWrongTypesAndMissingMembers)
{
    for (const char* pointer :
         {"/name", "/instance_id", "/version", "/fields", "/fields/0/name",
          "/fields/0/size", "/fields/0/type", "/fields/2/struct/vmsd_name",
          "/fields/2/struct/subsections/0/version"})
    {
        EXPECT_NE(refusedWith(pointer, nullptr), "") << pointer;
        EXPECT_NE(refusedWith(pointer, true), "") << pointer;
        EXPECT_NE(refusedWith(pointer, -1), "") << pointer;
        EXPECT_NE(refusedWith(pointer, 1.5), "") << pointer;
    }
}

TEST(VmDesc, RefusesNamesThatNoTerminalShouldSee)
{
    EXPECT_THAT(refusedWith("/name", "\033[2J"), HasSubstr("printable name"));
    EXPECT_THAT(refusedWith("/fields/0/name", ""), HasSubstr("printable"));
    EXPECT_THAT(refusedWith("/name", std::string(256, 'x')),
                HasSubstr("longer than 255"));
}

TEST(VmDesc, RefusesSizesThatDoNotAddUp)
{
    EXPECT_THAT(refusedWith("/fields/2/size", 15),
                HasSubstr("devices[0].fields[2]: says 15 bytes, its parts add "
                          "up to 14"));
    EXPECT_NE(refusedWith("/fields/2/struct/subsections/0/vmsd_name", "s/tt"),
              "");
}

TEST(VmDesc, RefusesSizesBeyondAStream)
{
    constexpr std::uint64_t most = std::uint64_t{64} << 20;
    for (std::uint64_t value : {most + 1, std::uint64_t{1} << 32,
                                std::uint64_t{1} << 63, ~std::uint64_t{0}})
    {
        EXPECT_NE(refusedWith("/fields/0/size", value), "") << value;
        EXPECT_NE(refusedWith("/fields/1/array_len", value), "") << value;
    }
    // Products and sums that would wrap around to something small.
    EXPECT_THAT(refusedWith("/fields/1/array_len", most / 2),
                HasSubstr("more bytes than a stream"));
    Json device = kDevice;
    device["fields"] = Json::array();
    for (int i = 0; i < 4096; ++i)
    {
        device["fields"].push_back({{"name", "n"},
                                    {"type", "buffer"},
                                    {"size", most},
                                    {"array_len", most}});
    }
    EXPECT_THAT(errorOf([&] { parse(device); }),
                HasSubstr("fields[0]: describes more bytes than a stream"));
}

TEST(VmDesc, RefusesArraysOfStructsWithSubsections)
{
    EXPECT_THAT(refusedWith("/fields/2/array_len", 2),
                HasSubstr("array of structs with subsections"));
}

TEST(VmDesc, RefusesTooMuchText)
{
    std::string deep =
        R"({"devices": )" + std::string(100, '[') + std::string(100, ']') + "}";
    EXPECT_THAT(errorOf([&] { parseVmDesc(deep); }), HasSubstr("deeper"));

    std::string wide = R"({"devices": [0)";
    for (int i = 0; i < 600000; ++i)
    {
        wide += ",0";
    }
    EXPECT_THAT(errorOf([&] { parseVmDesc(wide + "]}"); }),
                HasSubstr("too many values"));

    Json devices = Json::array();
    for (int i = 0; i < 4097; ++i)
    {
        devices.push_back(0);
    }
    EXPECT_THAT(errorOf([&] {
                    parseVmDesc(Json{{"devices", devices}}.dump());
                }),
                HasSubstr("4096 are allowed"));

    std::string longText =
        R"({"devices": [], "x": ")" + std::string(5U << 20, 'x') + "\"}";
    EXPECT_NE(errorOf([&] { parseVmDesc(longText); }), "");
}

/** Ten levels of arrays of empty structs: small to write, endless to list. */
TEST(VmDesc, ListingIsBounded)
{
    Json inner = {
        {"vmsd_name", "s"}, {"version", 1}, {"fields", Json::array()}};
    for (int level = 0; level < 10; ++level)
    {
        Json field = {{"name", "f"},
                      {"type", "struct"},
                      {"size", 0},
                      {"array_len", 1000},
                      {"struct", inner}};
        inner["fields"] = Json::array({field});
    }
    inner["name"] = "dev";
    inner["instance_id"] = 0;
    DeviceDesc device = parse(inner).devices.at(0);
    EXPECT_NO_THROW(checkPayload(device, {}));
    EXPECT_THAT(errorOf([&] { layOut(device, {}); }),
                HasSubstr("dev/0: has too many fields to list"));
}

TEST(CheckPayload, RefusesAnotherSize)
{
    DeviceDesc device = parse(kDevice).devices.at(0);
    for (std::size_t size = 0; size < kPayload.size(); ++size)
    {
        EXPECT_NE(errorOf([&] {
                      checkPayload(device, ByteView(kPayload).first(size));
                  }),
                  "")
            << size;
    }
    Bytes longer = kPayload;
    longer.push_back(0);
    EXPECT_EQ(errorOf([&] { checkPayload(device, longer); }),
              "dev/1: has 1 bytes more than its description");
}

TEST(CheckPayload, RefusesOtherSubsectionHeaders)
{
    for (std::size_t at = 11; at < 20; ++at)
    {
        std::uint8_t wrong = kPayload[at] ^ 1U;
        EXPECT_NE(refusedPayload(at, wrong), "") << at;
    }
    EXPECT_THAT(refusedPayload(19, 3),
                HasSubstr("dev/1: no subsection \"s/t\" at offset 11"));
    EXPECT_EQ(refusedPayload(20, 1), "");
}

} // namespace
} // namespace airlock::handover
