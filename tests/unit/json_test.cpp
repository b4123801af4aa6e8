#include "common/json.hpp"
#include "error_of.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace airlock
{
namespace
{

using test::errorOf;

TEST(ParseJson, RefusesWhatIsNoJsonNamingTheDocument)
{
    for (const char* text :
         {"", "{", "{} {}", "nul", "[1,]", "\"\xff\"", "1e999", "{\"a\":1"})
    {
        EXPECT_THAT(errorOf([&] { parseJson(text, "manifest"); }),
                    testing::StartsWith("manifest: is not valid JSON"))
            << text;
    }
}

TEST(ParseJson, BoundsSizeAndDepth)
{
    JsonLimits limits = {20, 3};
    EXPECT_NO_THROW(parseJson("[[[1]]]", "x", limits));
    EXPECT_THROW(parseJson("[[[[1]]]]", "x", limits), Refused);
    EXPECT_THROW(parseJson("[{\"a\":[[]]}]", "x", limits), Refused);
    EXPECT_THROW(parseJson("\"" + std::string(20, 'a') + "\"", "x", limits),
                 Refused);
    // Brackets in strings are no nesting, whatever is escaped before them.
    EXPECT_NO_THROW(parseJson("\"\\\"[[[[[\\\\\"", "x", limits));
    EXPECT_THROW(parseJson(std::string(1000000, '['), "x"), Refused);
}

TEST(JsonField, ErrorsCarryThePath)
{
    Json doc = parseJson(R"({"job":{"nonce":7,"list":[1,"x"]}})", "manifest");
    JsonField root(doc, "manifest");
    JsonField job = root.at("job");
    EXPECT_EQ(errorOf([&] { job.at("nonce").string(); }),
              "manifest: job.nonce: is no string");
    EXPECT_EQ(errorOf([&] { job.at("list").element(1).u64(); }),
              "manifest: job.list[1]: is no non-negative whole number");
    EXPECT_EQ(errorOf([&] { job.at("list").element(2); }),
              "manifest: job.list: has no element 2");
    EXPECT_EQ(errorOf([&] { root.at("vm"); }),
              "manifest: member \"vm\" is missing");
    EXPECT_EQ(errorOf([&] { job.at("nonce").at("x"); }),
              "manifest: job.nonce: is no object");
    EXPECT_EQ(errorOf([&] { root.onlyKeys({"vm"}); }),
              "manifest: unknown member \"job\"");
}

TEST(JsonField, ChecksTypesAndRanges)
{
    Json doc = parseJson(
        R"({"n":5,"neg":-1,"big":18446744073709551615,"f":1.5,
            "b":true,"s":"text","null":null})",
        "doc");
    JsonField root(doc, "doc");
    EXPECT_EQ(root.at("n").u64(), 5U);
    EXPECT_EQ(root.at("n").u64(5), 5U);
    EXPECT_THROW(root.at("n").u64(4), Refused);
    EXPECT_THROW(root.at("neg").u64(), Refused);
    EXPECT_EQ(root.at("neg").i64(), -1);
    EXPECT_EQ(root.at("big").u64(), UINT64_MAX);
    EXPECT_THROW(root.at("big").i64(), Refused);
    EXPECT_THROW(root.at("f").u64(), Refused);
    EXPECT_DOUBLE_EQ(root.at("f").number(), 1.5);
    EXPECT_TRUE(root.at("b").boolean());
    EXPECT_THROW(root.at("n").boolean(), Refused);
    EXPECT_THROW(root.at("s").string(3), Refused);
    EXPECT_FALSE(root.find("null").has_value());
    EXPECT_FALSE(root.find("absent").has_value());
    EXPECT_THROW(root.at("s").arraySize(), Refused);
}

TEST(JsonField, TakesNumbersThatWereBuiltHere)
{
    Json doc = {{"n", 5}};
    EXPECT_EQ(JsonField(doc, "doc").at("n").u64(), 5U);
}

TEST(Printable, IsBoundedAsciiWhateverComes)
{
    EXPECT_EQ(printable("a\x1b[31m\n\xff"), "\"a?[31m??\"");
    EXPECT_EQ(printable("abcdef", 3), "\"abc...\"");
}

TEST(DumpJson, DoesNotFailOnTextThatIsNotUtf8)
{
    Json doc = {{"a", "\xff"}};
    EXPECT_NO_THROW(dumpJson(doc));
}

} // namespace
} // namespace airlock
