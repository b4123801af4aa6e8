#pragma once

#include "common/bytes.hpp"

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace airlock
{

/** An Ethernet address. The operators are for addresses that anybody may know;
 * a secret one is compared with equalConstantTime(). */
struct MacAddress
{
    std::array<std::uint8_t, 6> bytes{};

    /** "02:00:5e:00:53:01", in lower or upper case; nothing for another text.
     */
    static std::optional<MacAddress> parse(std::string_view text);
    /** The first six bytes; Refused when there are fewer. */
    static MacAddress from(ByteView data, std::string_view where);

    std::string text() const;
    ByteView view() const { return bytes; }

    bool isGroup() const { return (bytes[0] & 1U) != 0; }
    bool isLocal() const { return (bytes[0] & 2U) != 0; }
    bool isZero() const { return *this == MacAddress{}; }

    auto operator<=>(const MacAddress&) const = default;
};

} // namespace airlock
