#include "tests/modes/capsule_files.hpp"

#include "common/file.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <functional>

namespace airlock::test
{

namespace
{

constexpr std::size_t shownConsole = 2000;
constexpr auto saveTime = std::chrono::minutes(5);

} // namespace

std::filesystem::path imagesOf(const char* variable, const char* suite)
{
    const char* path = std::getenv(variable);
    if (path == nullptr)
    {
        throw Error(
            fmt::format("{} is not set: run this with tools/check --suite {}",
                        variable, suite));
    }
    return path;
}

std::string said(const std::string& console, const std::string& what)
{
    const std::string mark = "probe " + what + ": ";
    const std::size_t at = console.rfind(mark);
    if (at == std::string::npos)
    {
        return "(nothing; the console ends with: " +
               console.substr(console.size() -
                              std::min(console.size(), shownConsole)) +
               ")";
    }
    const std::size_t begin = at + mark.size();
    return console.substr(begin, console.find_first_of("\r\n", begin) - begin);
}

std::size_t occurrences(const std::filesystem::path& file, ByteView needle)
{
    constexpr std::size_t chunk = 16U << 20;
    const std::boyer_moore_searcher searcher(needle.begin(), needle.end());
    UniqueFd fd = openFile(file, O_RDONLY);
    const std::uint64_t size = fileSize(fd.get());
    std::size_t found = 0;
    for (std::uint64_t at = 0; at < size; at += chunk)
    {
        Bytes data(
            std::min<std::uint64_t>(chunk + needle.size() - 1, size - at));
        readExactAt(fd.get(), data, at);
        for (auto from = data.begin();;)
        {
            from = std::search(from, data.end(), searcher);
            if (from == data.end())
            {
                break;
            }
            found++;
            ++from;
        }
    }
    return found;
}

std::vector<std::string> filesWith(const std::filesystem::path& directory,
                                   ByteView needle)
{
    std::vector<std::string> out;
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(directory))
    {
        const std::size_t found =
            entry.is_regular_file() ? occurrences(entry.path(), needle) : 0;
        if (found > 0)
        {
            out.push_back(
                fmt::format("{}: {}", entry.path().filename().string(), found));
        }
    }
    return out;
}

void saveMemory(const capsule::RunningMode& mode,
                const std::filesystem::path& file, unsigned megabytes)
{
    QmpClient qmp = mode.qmp();
    qmp.execute("stop");
    qmp.execute("pmemsave",
                {{"val", 0},
                 {"size", std::uint64_t{megabytes} << 20},
                 {"filename", file.string()}},
                saveTime);
}

} // namespace airlock::test
