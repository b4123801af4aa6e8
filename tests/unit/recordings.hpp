#pragma once

#include "common/bytes.hpp"
#include "common/file.hpp"

#include <zstd.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

/** The recorded streams, for tests and fuzz targets. */
namespace airlock::test
{

/** A stream of tests/data/streams (record.sh), unpacked. */
inline Bytes loadStream(const std::string& name)
{
    Bytes packed = readFile(
        std::string(AIRLOCK_TEST_DATA "/streams/") + name + ".zst", 1U << 20);
    Bytes out(ZSTD_getFrameContentSize(packed.data(), packed.size()));
    std::size_t size =
        ZSTD_decompress(out.data(), out.size(), packed.data(), packed.size());
    if (ZSTD_isError(size) || size != out.size())
    {
        throw Error("cannot unpack " + name);
    }
    return out;
}

/** The names of all recorded streams of boot machines that start with a
 * prefix, sorted. */
inline std::vector<std::string> recordedStreams(const std::string& prefix = "")
{
    std::vector<std::string> names;
    for (const auto& entry :
         std::filesystem::directory_iterator(AIRLOCK_TEST_DATA "/streams"))
    {
        std::string name = entry.path().stem();
        if (entry.path().extension() == ".zst" && name.starts_with(prefix) &&
            !name.ends_with("-production") && !name.ends_with("-memory"))
        {
            names.push_back(name);
        }
    }
    std::sort(names.begin(), names.end());
    return names;
}

} // namespace airlock::test
