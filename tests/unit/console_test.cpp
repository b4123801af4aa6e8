#include "common/console.hpp"
#include "common/file.hpp"
#include "common/process.hpp"
#include "common/progress.hpp"
#include "common/socket.hpp"
#include "common/table.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

using namespace std::chrono_literals;

namespace airlock
{
namespace
{

void say(const UniqueFd& end, std::string_view text)
{
    sendAll(end.get(), text, Deadline(5s));
}

TEST(Console, WaitForConsumesUpToTheText)
{
    auto [ours, guest] = socketPair();
    Console console(std::move(ours));
    say(guest, "boot...\r\nlogin: rest");
    EXPECT_EQ(console.waitFor("login:", 5s), "boot...\r\nlogin:");
    EXPECT_EQ(console.unread(), " rest");
}

TEST(Console, RegexMatchesAtLineEndsAndAcrossZeroBytes)
{
    auto [ours, guest] = socketPair();
    Console console(std::move(ours));
    say(guest, std::string_view("a\0b\ndebian login: ", 18));
    EXPECT_EQ(console.waitForRegex("^[a-z]+ login:", 5s).size(), 17U);
    EXPECT_THROW(console.waitForRegex("(", 1s), Error);
}

TEST(Console, TimesOutQuotingTheLastWords)
{
    auto [ours, guest] = socketPair();
    Console console(std::move(ours));
    say(guest, "Kernel panic\x1b[0m");
    try
    {
        console.waitFor("login:", 50ms);
        FAIL() << "found what was not there";
    }
    catch (const TimedOut& error)
    {
        EXPECT_THAT(error.what(), testing::HasSubstr("Kernel panic?[0m"));
    }
}

TEST(Console, KeepsABoundedBufferAndAWholeTranscript)
{
    TempDirectory dir;
    auto [ours, guest] = socketPair();
    Console console(std::move(ours), dir.path() / "log");
    std::string block(64U << 10, 'x');
    for (int i = 0; i < 32; ++i)
    {
        say(guest, block);
        console.drain();
    }
    EXPECT_EQ(console.unread().size(), 1U << 20);
    EXPECT_EQ(readFile(dir.path() / "log", 4U << 20).size(), 2U << 20);
}

/** A real shell at the other end, without a terminal in between. */
class ConsoleShell : public testing::Test
{
  protected:
    ConsoleShell()
    {
        auto [ours, theirs] = socketPair();
        SpawnOptions options;
        options.argv = {"sh"};
        options.stdinFd = theirs.get();
        options.stdoutFd = theirs.get();
        options.stderrFd = theirs.get();
        shell_.emplace(options);
        console_.emplace(std::move(ours));
    }

    std::optional<Process> shell_;
    std::optional<Console> console_;
};

TEST_F(ConsoleShell, RunsCommandsAndTellsTheirStatus)
{
    auto result = console_->runCommand("echo one; echo two >&2", 5s);
    EXPECT_EQ(result.status, 0);
    EXPECT_EQ(result.output, "one\ntwo\n");
    EXPECT_EQ(console_->runCommand("(exit 42)", 5s).status, 42);
}

TEST_F(ConsoleShell, TakesQuotesAndCommandsThatRead)
{
    EXPECT_EQ(console_->runCommand("printf '%s' \"it's\" # end", 5s).output,
              "it's");
    EXPECT_EQ(console_->runCommand("cat", 5s).output, "");
}

TEST_F(ConsoleShell, AnEchoingTerminalDoesNotConfuseIt)
{
    console_->sendLine("exec script -qc sh /dev/null");
    console_->waitForRegex("[#$] $", 10s);
    EXPECT_EQ(console_->runCommand("stty echo <&1; echo hello", 10s).output,
              "hello\n");
    EXPECT_EQ(console_->runCommand("false", 10s).status, 1);
}

TEST_F(ConsoleShell, ACommandThatHangsTimesOut)
{
    EXPECT_THROW(console_->runCommand("sleep 60", 100ms), TimedOut);
    EXPECT_THROW(console_->runCommand(std::string(5000, 'x'), 1s), Error);
}

TEST_F(ConsoleShell, AShellThatExitsIsAnError)
{
    EXPECT_THROW(
        {
            console_->sendLine("exit");
            shell_->wait(5s);
            console_->waitFor("x", 5s);
        },
        Error);
}

TEST(Table, AlignsAndStaysAscii)
{
    Table table({{"device", Table::Align::left},
                 {"before", Table::Align::right},
                 {"after", Table::Align::right}});
    table.row({"sections", "34", "17"});
    table.row({"caf\xc3\xa9\n", "1"});
    EXPECT_EQ(table.render(2), "  device    before  after\n"
                               "  --------  ------  -----\n"
                               "  sections      34     17\n"
                               "  caf???         1\n");
    EXPECT_THROW(table.row({"1", "2", "3", "4"}), Error);
}

/** What a step printed to a file that is no terminal. */
std::string printed(const std::function<void(const ProgressStyle&)>& work,
                    bool live)
{
    std::FILE* file = std::tmpfile();
    ProgressStyle style = ProgressStyle::detect(file);
    EXPECT_FALSE(style.live);
    style.live = live;
    work(style);
    std::string out(asText(readFile(::fileno(file), 1U << 20, "progress")));
    std::fclose(file);
    return out;
}

TEST(Progress, PlainLinesWhenThereIsNoTerminal)
{
    std::string text = printed(
        [](const ProgressStyle& style) {
            StepCounter counter(12);
            Step step(style, counter.next() + " Building");
            for (unsigned i = 0; i <= 1000; ++i)
            {
                step.update(i, 1000);
            }
            step.done("cached");
        },
        false);
    EXPECT_THAT(text, testing::StartsWith("[ 1/12] Building\n"));
    EXPECT_THAT(text, testing::HasSubstr("[############............]  50%"));
    EXPECT_THAT(text, testing::HasSubstr("ok"));
    EXPECT_THAT(text, testing::EndsWith(", cached\n"));
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 12);
}

TEST(Progress, AStepLeftByAnExceptionIsShownAsFailed)
{
    std::string text = printed(
        [](const ProgressStyle& style) {
            try
            {
                Step step(style, "Copy");
                throw Error("no space");
            }
            catch (const Error&)
            {}
        },
        true);
    EXPECT_THAT(text, testing::HasSubstr("Copy  FAILED"));
}

TEST(Progress, FormatsDurationsAndSizes)
{
    EXPECT_EQ(formatDuration(45ms), "45 ms");
    EXPECT_EQ(formatDuration(12300ms), "12.3 s");
    EXPECT_EQ(formatDuration(65s), "1 min 05 s");
    EXPECT_EQ(formatBytes(512), "512 B");
    EXPECT_EQ(formatBytes(71782), "70.1 KiB");
    EXPECT_EQ(formatBytes(1U << 30), "1.0 GiB");
}

} // namespace
} // namespace airlock
