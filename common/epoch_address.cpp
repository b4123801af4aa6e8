#include "common/epoch_address.hpp"

#include "common/sha256.hpp"

#include <string_view>

namespace airlock::epoch
{

namespace
{

MacAddress derive(const Secret& root, std::string_view role,
                  std::uint64_t epoch)
{
    ByteWriter info;
    info.text("airlock address v1");
    info.u8(0);
    info.text(role);
    info.u8(0);
    info.be64(epoch);
    MacAddress out;
    hkdf(root, info.data(), out.bytes);
    constexpr unsigned group = 1;
    constexpr unsigned local = 2;
    out.bytes[0] =
        static_cast<std::uint8_t>((out.bytes[0] & ~group & 0xFFU) | local);
    return out;
}

} // namespace

MacAddress hostAddress(const Secret& root, std::uint64_t epoch)
{
    return derive(root, "host", epoch);
}

MacAddress switchAddress(const Secret& root, std::uint64_t epoch)
{
    return derive(root, "switch", epoch);
}

std::string tag(const Secret& root, const MacAddress& address)
{
    ByteWriter info;
    info.text("airlock address tag v1");
    info.u8(0);
    info.bytes(address.view());
    std::array<std::uint8_t, 6> out{};
    hkdf(root, info.data(), out);
    return toHex(out);
}

} // namespace airlock::epoch
