#include "boot_request.hpp"
#include "bootsrv/dirty_side.hpp"
#include "common/file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

// What the clean side does with an airlock-bootrun that a guest has taken over:
// a script has its place.

namespace airlock::boot
{
namespace
{

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

class DirtySide : public testing::Test
{
  protected:
    /** Has this script run as airlock-bootrun. */
    void run(const std::string& script)
    {
        const std::filesystem::path program = directory_.path() / "bootrun";
        writeFileAtomic(program, "#!/bin/sh\n" + script, 0700);
        BootSettings settings;
        settings.bootrun = program;
        settings.qemu = "/nonexistent";
        const BootWatcher watcher = {
            [this](const std::string& stage, double) {
                stages_.push_back(stage);
                cancelled_ = stage == cancelAt_;
            },
            [this](const std::string& part) { missing_.push_back(part); }};
        StageClock clock(watcher);
        runDirtySide(settings, test::smallRequest(), directory_.path(),
                     {&cancelled_}, clock);
    }

    struct Failure
    {
        std::string code; ///< empty: none
        std::string words;
    };

    Failure failureOf(const std::string& script)
    {
        try
        {
            run(script);
        }
        catch (const BootFailed& error)
        {
            return {error.code(), error.what()};
        }
        return {};
    }

    std::string codeOf(const std::string& script)
    {
        return failureOf(script).code;
    }

    TempDirectory directory_{"dirty-side"};
    std::atomic<bool> cancelled_ = false;
    std::string cancelAt_ = "nothing";
    std::vector<std::string> stages_;
    std::vector<std::string> missing_;
};

TEST_F(DirtySide, StagesCountOnceAndInTheirOrder)
{
    run("echo stage boot; echo stage start; echo stage boot; echo stage won\n"
        "echo stage memory; echo stage save; echo without hope\n");
    EXPECT_THAT(stages_, ElementsAre("boot", "memory"));
    EXPECT_THAT(missing_, ElementsAre());
}

TEST_F(DirtySide, OneThatWritesWithoutEndIsFollowedAndEnded)
{
    cancelAt_ = "start";
    for (const char* where : {"", " >&2"})
    {
        SCOPED_TRACE(where);
        cancelled_ = false;
        EXPECT_THROW(run(std::string("echo stage start; exec yes") + where),
                     BootCancelled);
    }
}

TEST_F(DirtySide, LinesThatNeverEndAreNotKept)
{
    cancelAt_ = "boot";
    // More than is kept without an end of the line, then a word that counts.
    EXPECT_THROW(run("head -c 1000000 /dev/zero; echo; echo stage boot\n"
                     "exec sleep 100"),
                 BootCancelled);
}

TEST_F(DirtySide, LastWordsAreHarmless)
{
    const Failure failure = failureOf(
        "echo first >&2; printf 'bad \\033[2Jdisk\\n\\n' >&2; exit 1");
    EXPECT_THAT(failure.words,
                AllOf(HasSubstr("bad"), HasSubstr("disk"),
                      Not(HasSubstr("\033")), Not(HasSubstr("first"))));
}

TEST_F(DirtySide, EndsHaveTheirCodes)
{
    EXPECT_EQ(codeOf("exit 0"), "");
    EXPECT_EQ(codeOf("exit 1"), "boot-failed");
    EXPECT_EQ(codeOf("exit 3"), "timeout");
    EXPECT_EQ(codeOf("exit 4"), "no-space");
    EXPECT_EQ(codeOf("kill -9 $$"), "boot-failed");
}

} // namespace
} // namespace airlock::boot
