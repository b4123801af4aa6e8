#include "common/file.hpp"
#include "common/process.hpp"
#include "hostagent/adopt/diff.hpp"

#include <gtest/gtest.h>

#include <random>

namespace airlock::host
{
namespace
{

TEST(Diff, IsEmptyForEqualTexts)
{
    EXPECT_EQ(unifiedDiff("", "", "a", "b"), "");
    EXPECT_EQ(unifiedDiff("x\ny\n", "x\ny\n", "a", "b"), "");
}

TEST(Diff, LooksLikeDiffU)
{
    EXPECT_EQ(unifiedDiff("1\n2\n3\n4\n5\n6\n7\n8\n",
                          "1\n2\n3\n4\nfive\n6\n7\n8\n", "a", "b"),
              "--- a\n+++ b\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n "
              "8\n");
    EXPECT_EQ(unifiedDiff("", "new\n", "a", "b"),
              "--- a\n+++ b\n@@ -0,0 +1 @@\n+new\n");
    EXPECT_EQ(unifiedDiff("old\n", "", "a", "b"),
              "--- a\n+++ b\n@@ -1 +0,0 @@\n-old\n");
}

/** Lines of a small alphabet, so that many are the same. */
std::string randomText(std::mt19937& random)
{
    std::string out;
    for (std::size_t lines = 5 + random() % 60; lines > 0; lines--)
    {
        out += std::string(1, static_cast<char>('a' + random() % 6)) + "\n";
    }
    return out;
}

TEST(Diff, PatchMakesOneTextOfTheOther)
{
    TempDirectory directory("airlock-diff");
    std::mt19937 random(20261121);
    for (int round = 0; round < 40; round++)
    {
        std::string before = randomText(random);
        std::string after = randomText(random);
        writeFileAtomic(directory.path() / "text", before);
        writeFileAtomic(directory.path() / "patch",
                        unifiedDiff(before, after, "text", "text"));
        SpawnOptions options;
        options.argv = {"patch", "--fuzz=0", "text", "patch"};
        options.workingDirectory = directory.path();
        ProcessOutput output = runProgram(options);
        ASSERT_TRUE(output.status.ok()) << output.out << output.err;
        EXPECT_EQ(readTextFile(directory.path() / "text", 1U << 16), after);
        EXPECT_EQ(output.out.find("offset"), std::string::npos) << output.out;
    }
}

TEST(Diff, TextsWithoutAnythingInCommonAreNotTooMuch)
{
    std::string before;
    std::string after;
    for (int i = 0; i < 9000; i++)
    {
        before += "a" + std::to_string(i) + "\n";
        after += "b" + std::to_string(i) + "\n";
    }
    std::string diff = unifiedDiff(before, after, "a", "b");
    EXPECT_NE(diff.find("@@ -1,9000 +1,9000 @@"), std::string::npos);
    EXPECT_THROW(unifiedDiff(std::string(40002, '\n'), "", "a", "b"),
                 std::exception);
}

} // namespace
} // namespace airlock::host
