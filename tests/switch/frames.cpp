#include "tests/switch/frames.hpp"

#include "common/error.hpp"

#include <algorithm>
#include <array>

namespace airlock::test
{

namespace
{

constexpr std::uint16_t arpType = 0x0806;
constexpr std::uint16_t ipv6Type = 0x86DD;

std::string textOf(ByteWriter& out)
{
    const Bytes bytes = out.release();
    return {bytes.begin(), bytes.end()};
}

} // namespace

MacAddress mac(std::string_view text)
{
    auto out = MacAddress::parse(text);
    if (!out)
    {
        throw Error(std::string(text) + " is no address");
    }
    return *out;
}

Bytes frame(const MacAddress& to, const MacAddress& from, std::uint16_t type,
            std::string_view text)
{
    constexpr std::size_t least = 60;
    ByteWriter out;
    out.bytes(to.view());
    out.bytes(from.view());
    out.be16(type);
    out.text(text);
    Bytes bytes = out.release();
    bytes.resize(std::max(bytes.size(), least));
    return bytes;
}

Bytes taggedFrame(const MacAddress& to, const MacAddress& from,
                  std::uint16_t vlan, std::uint16_t type, std::uint16_t tagType,
                  std::string_view text)
{
    ByteWriter out;
    out.be16(vlan);
    out.be16(type);
    out.text(text);
    return frame(to, from, tagType, textOf(out));
}

const std::vector<std::string>& groups()
{
    static const std::vector<std::string> out = {
        "01:80:c2:00:00:00", // STP
        "01:80:c2:00:00:01", // pause
        "01:80:c2:00:00:02", // LACP
        "01:80:c2:00:00:03", // 802.1X
        "01:80:c2:00:00:08", // provider STP
        "01:80:c2:00:00:0e", // LLDP
        "01:80:c2:00:00:21", // GVRP
        "01:00:0c:cc:cc:cc", // CDP
        "01:00:5e:00:00:01", // IPv4, all hosts
        "33:33:00:00:00:01", // IPv6, all hosts
        "ff:ff:ff:ff:ff:ff",
    };
    return out;
}

const std::vector<std::uint16_t>& frameTypes()
{
    static const std::vector<std::uint16_t> out = {
        0x0800, arpType, ipv6Type, 0x888E, 0x88CC,
        0x8808, 0x9000,  0x88B5,   0x0026, dataType};
    return out;
}

std::vector<Bytes> framesFrom(const MacAddress& source,
                              const std::vector<MacAddress>& unicast,
                              std::string_view text)
{
    const std::string body = "\x42\x42\x03" + std::string(text);
    std::vector<MacAddress> destinations = unicast;
    for (const std::string& group : groups())
    {
        destinations.push_back(mac(group));
    }
    std::vector<Bytes> out;
    for (const MacAddress& to : destinations)
    {
        for (std::uint16_t type : frameTypes())
        {
            out.push_back(frame(to, source, type, body));
        }
        for (std::uint16_t vlan : std::array<std::uint16_t, 4>{0, 1, 100, 4095})
        {
            for (std::uint16_t tag :
                 std::array<std::uint16_t, 2>{0x8100, 0x88A8})
            {
                out.push_back(
                    taggedFrame(to, source, vlan, dataType, tag, body));
            }
        }
        // Two tags.
        out.push_back(taggedFrame(to, source, 1, 0x8100, 0x8100, body));
    }
    return out;
}

Bytes arpQuestion(const MacAddress& source, std::string_view text)
{
    ByteWriter out;
    out.be16(1); // Ethernet, IPv4, a question
    out.be16(0x0800);
    out.u8(6);
    out.u8(4);
    out.be16(1);
    out.bytes(source.view());
    out.bytes(Bytes{10, 9, 0, 2});
    out.bytes(Bytes(6));
    out.bytes(Bytes{10, 9, 0, 1});
    out.text(text);
    return frame(everybody, source, arpType, textOf(out));
}

Bytes neighbourQuestion(const MacAddress& source, std::string_view text)
{
    constexpr std::uint8_t icmpv6 = 58;
    constexpr std::uint8_t solicitation = 135;
    constexpr std::size_t length = 24;
    Bytes asked(16);
    asked[0] = 0xfe;
    asked[1] = 0x80;
    asked[15] = 1;
    Bytes group(16);
    group[0] = 0xff;
    group[1] = 2;
    group[15] = 1;
    ByteWriter out;
    out.be32(6U << 28);
    out.be16(length);
    out.u8(icmpv6);
    out.u8(255);
    out.bytes(Bytes(16)); // nobody yet
    out.bytes(group);
    out.u8(solicitation);
    out.u8(0);
    out.be16(0); // a checksum that nobody looks at on the way
    out.be32(0);
    out.bytes(asked);
    out.text(text);
    return frame(mac("33:33:00:00:00:01"), source, ipv6Type, textOf(out));
}

} // namespace airlock::test
