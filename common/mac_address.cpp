#include "common/mac_address.hpp"

#include "common/sha256.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace airlock
{

std::optional<MacAddress> MacAddress::parse(std::string_view text)
{
    constexpr std::size_t length = 17;
    if (text.size() != length)
    {
        return std::nullopt;
    }
    MacAddress out;
    for (std::size_t i = 0; i < out.bytes.size(); i++)
    {
        auto byte = fromHex(text.substr(3 * i, 2));
        bool separated = 3 * i + 2 == length || text[3 * i + 2] == ':';
        if (!byte || !separated)
        {
            return std::nullopt;
        }
        out.bytes[i] = byte->front();
    }
    return out;
}

MacAddress MacAddress::from(ByteView data, std::string_view where)
{
    MacAddress out;
    ByteView taken = ByteReader(data, where).take(out.bytes.size());
    std::copy(taken.begin(), taken.end(), out.bytes.begin());
    return out;
}

std::string MacAddress::text() const
{
    return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", bytes[0],
                       bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]);
}

} // namespace airlock
