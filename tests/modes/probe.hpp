#pragma once

#include "common/file.hpp"
#include "common/sha256.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <filesystem>
#include <string>

/** What test images and the test share: lines on the console, and one order in
 * the first sector of the staging area. */
namespace airlock::probe
{

inline constexpr std::size_t orderSize = 512;

inline void say(const std::string& what, const std::string& value)
{
    fmt::print("probe {}: {}\n", what, value);
    std::fflush(stdout);
}

inline std::string textOf(const std::filesystem::path& file)
{
    UniqueFd fd = openFile(file, O_RDONLY);
    const Bytes data = readToEnd(fd.get(), 64U << 10, file.string());
    std::string out(data.begin(), data.end());
    while (!out.empty() && (out.back() == '\n' || out.back() == '\0'))
    {
        out.pop_back();
    }
    return out;
}

inline std::string order(const std::filesystem::path& staging)
{
    UniqueFd fd = openFile(staging, O_RDONLY);
    Bytes sector(orderSize);
    readExactAt(fd.get(), sector, 0);
    return std::string(sector.begin(), sector.end()).c_str();
}

template <typename Call>
std::string errorOf(Call&& call)
{
    try
    {
        call();
        return "it worked";
    }
    catch (const std::exception& error)
    {
        return error.what();
    }
}

} // namespace airlock::probe
