#include "tools/airlock-rig/pcapng.hpp"

namespace airlock::rig::pcapng
{

namespace
{

enum Block : std::uint32_t
{
    sectionHeader = 0x0A0D0D0A,
    interfaceDescription = 1,
    enhancedPacket = 6,
};

enum Option : std::uint16_t
{
    endOfOptions = 0,
    comment = 1,
    interfaceName = 2,
    packetFlags = 2,
    timeResolution = 9,
};

constexpr std::uint32_t byteOrder = 0x1A2B3C4D;
constexpr std::uint64_t unknownLength = ~0ULL;
constexpr std::uint16_t ethernet = 1;
constexpr std::uint8_t nanoseconds = 9; // ten to the minus
constexpr std::uint32_t inbound = 1;
constexpr std::uint32_t outbound = 2;
/** For local experiments; quarantine frames have the other one. */
constexpr std::uint16_t markType = 0x88B6;
constexpr std::size_t addresses = 12;

void pad(ByteWriter& out)
{
    while (out.data().size() % 4 != 0)
    {
        out.u8(0);
    }
}

void option(ByteWriter& out, Option code, ByteView value)
{
    out.be16(code);
    out.be16(static_cast<std::uint16_t>(value.size()));
    out.bytes(value);
    pad(out);
}

/** Both lengths around the content; what is in the section is big-endian. */
Bytes block(Block type, ByteView content)
{
    constexpr std::uint32_t around = 12;
    const auto length = static_cast<std::uint32_t>(content.size()) + around;
    ByteWriter out;
    out.be32(type);
    out.be32(length);
    out.bytes(content);
    out.be32(length);
    return out.release();
}

Bytes packet(std::uint32_t interface,
             std::chrono::system_clock::time_point time, ByteView bytes,
             std::uint32_t direction, const std::string& text)
{
    const auto stamp = static_cast<std::uint64_t>(
        std::chrono::nanoseconds(time.time_since_epoch()).count());
    ByteWriter out;
    out.be32(interface);
    out.be32(static_cast<std::uint32_t>(stamp >> 32));
    out.be32(static_cast<std::uint32_t>(stamp));
    out.be32(static_cast<std::uint32_t>(bytes.size()));
    out.be32(static_cast<std::uint32_t>(bytes.size()));
    out.bytes(bytes);
    pad(out);
    if (direction != 0)
    {
        ByteWriter flags;
        flags.be32(direction);
        option(out, packetFlags, flags.data());
    }
    if (!text.empty())
    {
        option(out, comment, asBytes(text));
    }
    option(out, endOfOptions, {});
    return block(enhancedPacket, out.data());
}

} // namespace

Bytes header()
{
    ByteWriter out;
    out.be32(byteOrder);
    out.be16(1); // version 1.0
    out.be16(0);
    out.be64(unknownLength);
    return block(sectionHeader, out.data());
}

Bytes interface(const std::string& name)
{
    ByteWriter out;
    out.be16(ethernet);
    out.be16(0);
    out.be32(0); // no limit for frames
    option(out, interfaceName, asBytes(name));
    const std::uint8_t resolution[] = {nanoseconds};
    option(out, timeResolution, resolution);
    option(out, endOfOptions, {});
    return block(interfaceDescription, out.data());
}

Bytes frame(std::uint32_t interface, const Caught& caught)
{
    const std::uint32_t direction = caught.outgoing ? outbound : inbound;
    if (!caught.vlan || caught.bytes.size() < addresses)
    {
        return packet(interface, caught.time, caught.bytes, direction, {});
    }
    ByteWriter tagged;
    const ByteView bytes(caught.bytes);
    tagged.bytes(bytes.first(addresses));
    tagged.be16(caught.vlanType);
    tagged.be16(*caught.vlan);
    tagged.bytes(bytes.subspan(addresses));
    return packet(interface, caught.time, tagged.data(), direction, {});
}

Bytes mark(std::uint32_t interface, std::chrono::system_clock::time_point time,
           const std::string& text)
{
    ByteWriter out;
    out.bytes(Bytes(addresses, 0));
    out.be16(markType);
    out.text(text);
    return packet(interface, time, out.data(), 0, text);
}

} // namespace airlock::rig::pcapng
