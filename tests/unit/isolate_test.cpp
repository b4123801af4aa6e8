#include "bootsrv/isolate.hpp"
#include "common/error.hpp"
#include "common/file.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <functional>

namespace airlock::boot
{
namespace
{

namespace fs = std::filesystem;

/** Runs checks behind the fence, in a process of their own; the number of the
 * first that failed, 0 when all is well. */
class IsolateTest : public testing::Test
{
  protected:
    IsolateTest()
    {
        fs::create_directories(run());
        fs::create_directories(directory_.path() / "state" / "secret");
        std::ofstream(run() / "file") << "mine";
    }

    fs::path run() const { return directory_.path() / "state/jobs/1/run"; }

    int behindTheFence(const std::function<int()>& check)
    {
        pid_t child = ::fork();
        if (child == 0)
        {
            try
            {
                Isolation isolation;
                isolation.runDirectory = run();
                isolation.hidden = directory_.path() / "state";
                isolation.fileBytes = 1U << 20;
                missing_ = isolate(isolation).size();
                ::_exit(check());
            }
            catch (const std::exception& error)
            {
                std::fprintf(stderr, "%s\n", error.what());
                ::_exit(100);
            }
        }
        int status = 0;
        ::waitpid(child, &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    }

    TempDirectory directory_;
    std::size_t missing_ = 0;
};

TEST_F(IsolateTest, thereIsNoNetwork)
{
    UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in here = {};
    here.sin_family = AF_INET;
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(here);
    ASSERT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&here), size),
              0);
    ASSERT_EQ(::listen(listener.get(), 1), 0);
    ASSERT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&here),
                            &size),
              0);
    EXPECT_EQ(behindTheFence([&] {
                  UniqueFd fd(::socket(AF_INET, SOCK_STREAM, 0));
                  int result =
                      ::connect(fd.get(), reinterpret_cast<sockaddr*>(&here),
                                sizeof(here));
                  return result != 0 && errno == ENETUNREACH ? 0 : 1;
              }),
              0);
}

TEST_F(IsolateTest, onlyTheRunDirectoryIsThere)
{
    EXPECT_EQ(behindTheFence([&] {
                  if (missing_ > 0)
                  {
                      return 50;
                  }
                  if (fs::exists(directory_.path() / "state/secret"))
                  {
                      return 1;
                  }
                  if (!fs::exists(run() / "file"))
                  {
                      return 2;
                  }
                  std::ofstream(run() / "made") << "behind";
                  return 0;
              }),
              0);
    EXPECT_TRUE(fs::exists(run() / "made"));
    EXPECT_TRUE(fs::exists(directory_.path() / "state/secret"));
}

TEST_F(IsolateTest, otherProcessesAreOutOfReach)
{
    pid_t tester = ::getpid();
    EXPECT_EQ(behindTheFence([&] {
                  if (::getpid() != 1)
                  {
                      return 1;
                  }
                  if (tester != 1 && ::kill(tester, 0) == 0)
                  {
                      return 2;
                  }
                  return ::getppid() == 0 ? 0 : 3;
              }),
              0);
}

TEST_F(IsolateTest, thereIsNoWayToMorePrivileges)
{
    EXPECT_EQ(behindTheFence([&] {
                  std::ifstream file("/proc/self/status");
                  int found = 0;
                  for (std::string line; std::getline(file, line);)
                  {
                      for (const char* name :
                           {"CapEff:", "CapPrm:", "CapInh:", "CapAmb:"})
                      {
                          if (line.rfind(name, 0) == 0)
                          {
                              found++;
                              if (line.find_first_not_of("0\t ", 7) !=
                                  std::string::npos)
                              {
                                  return 1;
                              }
                          }
                      }
                  }
                  if (found != 4)
                  {
                      return 2;
                  }
                  return ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 ? 0 : 3;
              }),
              0);
}

TEST_F(IsolateTest, filesAreLimited)
{
    EXPECT_EQ(behindTheFence([&] {
                  ::signal(SIGXFSZ, SIG_IGN);
                  UniqueFd fd = openFile(run() / "big", O_RDWR | O_CREAT, 0600);
                  if (::ftruncate(fd.get(), 2U << 20) == 0)
                  {
                      return 1;
                  }
                  return ::ftruncate(fd.get(), 1U << 20) == 0 ? 0 : 2;
              }),
              0);
}

TEST_F(IsolateTest, allThatItStartsDiesWithIt)
{
    // The pipe's end is seen when nobody has the other one any more.
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    EXPECT_EQ(behindTheFence([&] {
                  if (::fork() == 0)
                  {
                      ::setsid();
                      ::pause();
                  }
                  return 0;
              }),
              0);
    ::close(ends[1]);
    char byte = 0;
    ::alarm(20);
    EXPECT_EQ(::read(ends[0], &byte, 1), 0);
    ::alarm(0);
    ::close(ends[0]);
}

} // namespace
} // namespace airlock::boot
