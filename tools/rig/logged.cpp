#include "tools/rig/logged.hpp"

#include "common/file.hpp"

#include <fcntl.h>

#include <algorithm>

namespace airlock::rig
{

std::string endOf(const std::filesystem::path& file)
{
    if (!std::filesystem::exists(file))
    {
        return {};
    }
    Bytes bytes = readFile(file, 64U << 20);
    std::size_t size = std::min<std::size_t>(bytes.size(), 3000);
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

} // namespace airlock::rig
