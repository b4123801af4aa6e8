#include "common/error.hpp"
#include "common/file.hpp"
#include "devmodel/admission/admission.hpp"
#include "devmodel/admission/report.hpp"
#include "error_of.hpp"
#include "tests/unit/recorded_guest.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

namespace airlock::admission
{
namespace
{

constexpr std::uint64_t ram = 512ULL << 20;
constexpr const char* recorded = "guest-2cpu";

class Confined : public testing::Test
{
  protected:
    Confined() : memory_(createMemfd("guest-memory", ram))
    {
        guest_.memory.writeTo(memory_.get());
        machine_.memory = ram;
        machine_.vcpus = 2;
        machine_.cpuModel = "qemu64-v1";
    }

    Admitted admit(ByteView candidate)
    {
        return admission::admit(machine_, candidate, reference_, memory_.get());
    }

    test::Guest guest_;
    Bytes candidate_ = test::loadStream(std::string(recorded) + "-boot");
    Bytes reference_ = test::loadStream(std::string(recorded) + "-production");
    UniqueFd memory_;
    Machine machine_;
};

TEST_F(Confined, AdmitsWhatIsAdmittedHere)
{
    Admitted admitted = admit(candidate_);
    auto stream =
        handover::parseProductionStream(admitted.state, handover::sectionSize);
    std::vector<handover::Section> expected = guest_.admit();
    ASSERT_EQ(stream.sections.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); i++)
    {
        EXPECT_EQ(stream.sections[i].id, expected[i].id);
        EXPECT_EQ(stream.sections[i].payload, expected[i].payload);
    }
    EXPECT_EQ(admitted.kept.size(), expected.size());
    EXPECT_FALSE(admitted.dropped.empty());
}

TEST_F(Confined, RefusesWithSectionAndReason)
{
    machine_.vcpus = 2;
    Bytes truncated(candidate_.begin(), candidate_.end() - 100);
    EXPECT_NE(test::errorOf([&] { admit(truncated); }), "");
    EXPECT_NE(test::errorOf([&] { admit(Bytes(64, 0x5a)); }), "");
    // A ring that is nowhere in memory any more.
    machine_.memory = ram / 2;
    EXPECT_THAT(test::errorOf([&] { admit(candidate_); }),
                testing::HasSubstr("/virtio-"));
}

TEST_F(Confined, AnUnknownCpuModelIsAnError)
{
    machine_.cpuModel = "host";
    EXPECT_THAT(test::errorOf<Error>([&] { admit(candidate_); }),
                testing::HasSubstr("the CPU model 'host'"));
}

/** Does something in a confined process; how that ended. */
template <typename Action>
int statusOf(const Action& action)
{
    pid_t child = ::fork();
    if (child == 0)
    {
        confine();
        action();
        ::_exit(0);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    return status;
}

template <typename Action>
void expectKilled(const Action& action)
{
    int status = statusOf(action);
    ASSERT_TRUE(WIFSIGNALED(status)) << status;
    EXPECT_EQ(WTERMSIG(status), SIGSYS);
}

TEST(Confine, LeavesArithmeticAndOpenFiles)
{
    UniqueFd file = createMemfd("open", 4096);
    EXPECT_EQ(statusOf([&] {
                  Bytes bytes(1U << 20, 1);
                  writeAllAt(file.get(), {bytes.data(), 16}, 0);
                  readExactAt(file.get(), {bytes.data(), 16}, 0);
                  try
                  {
                      throw Refused("here", "exceptions work");
                  }
                  catch (const Error&)
                  {}
              }),
              0);
}

TEST(Confine, TakesTheRest)
{
    expectKilled([] { ::open("/etc/passwd", O_RDONLY); });
    expectKilled([] { ::socket(AF_UNIX, SOCK_STREAM, 0); });
    expectKilled([] { ::fork(); });
    expectKilled([] { ::execl("/bin/true", "true", nullptr); });
    expectKilled([] { ::kill(::getppid(), 0); });
    expectKilled([] {
        ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    });
}

TEST(Report, ComesBackAsItWas)
{
    Admitted admitted;
    admitted.kept = {{"cpu", 1, 12}};
    admitted.dropped = {{{"i8042", 0, 3}, "LEGACY", "i8042", 7}};
    Admitted read = readReport(writeReport(admitted));
    EXPECT_EQ(read.kept, admitted.kept);
    ASSERT_EQ(read.dropped.size(), 1U);
    EXPECT_EQ(read.dropped[0].id, admitted.dropped[0].id);
    EXPECT_EQ(read.dropped[0].why, "LEGACY");
    EXPECT_EQ(read.dropped[0].device, "i8042");
    EXPECT_EQ(read.dropped[0].bytes, 7U);
    EXPECT_EQ(test::errorOf([] {
                  readReport(writeReport(Refused("cpu/1", "is wrong")));
              }),
              "cpu/1: is wrong");
}

TEST(Report, NothingElseIsOne)
{
    for (const char* text :
         {"", "{}", "[]", R"({"kept": []})", R"({"kept": 1, "dropped": []})",
          R"({"kept": [{"name": "cpu"}], "dropped": []})",
          R"({"kept": [{"name": "cpu", "instance": -1, "version": 1}],
              "dropped": []})"})
    {
        EXPECT_THROW(readReport(text), Refused) << text;
    }
}

} // namespace
} // namespace airlock::admission
