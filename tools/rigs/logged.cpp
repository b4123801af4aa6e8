#include "tools/rigs/logged.hpp"

#include "common/file.hpp"

#include <fcntl.h>

#include <algorithm>
#include <charconv>
#include <thread>

namespace airlock::rig
{

namespace
{

constexpr std::size_t logMax = 64U << 20;
constexpr std::size_t quoteMax = 3000;
constexpr Milliseconds startTime = std::chrono::seconds(30);

} // namespace

std::string endOf(const std::filesystem::path& file)
{
    if (!std::filesystem::exists(file))
    {
        return {};
    }
    Bytes bytes = readFile(file, logMax);
    std::size_t size = std::min(bytes.size(), quoteMax);
    return {bytes.end() - static_cast<std::ptrdiff_t>(size), bytes.end()};
}

Process spawnLogged(std::vector<std::string> argv,
                    const std::filesystem::path& log)
{
    UniqueFd file = openFile(log, O_WRONLY | O_CREAT | O_APPEND);
    SpawnOptions options;
    options.argv = std::move(argv);
    options.stdoutFd = file.get();
    options.stderrFd = file.get();
    return Process(options);
}

std::uint16_t waitPort(Process& daemon, const std::filesystem::path& log)
{
    constexpr std::string_view mark = "PORT=";
    for (Deadline deadline(startTime);;)
    {
        const std::string text = readTextFile(log, logMax);
        const std::size_t at = text.find(mark);
        if (at != std::string::npos && text.find('\n', at) != std::string::npos)
        {
            std::uint16_t port = 0;
            std::from_chars(text.data() + at + mark.size(),
                            text.data() + text.size(), port);
            return port;
        }
        if (!daemon.running() || deadline.passed())
        {
            throw Error("a daemon does not start: " + endOf(log));
        }
        std::this_thread::sleep_for(Milliseconds(20));
    }
}

} // namespace airlock::rig
