#pragma once

#include "common/mac_address.hpp"
#include "common/sha256.hpp"

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

/** The frames between a boot host and its switch's agent while the switch lets
 * nothing else through.
 *
 *     destination 6, source 6, EtherType 2,
 *     "ALQ1", type 1, length 2, body (length bytes), zeros up to 60 bytes
 *
 * Numbers are big-endian. Untagged Ethernet only. What the types mean and in
 * which order they go is in docs/protocol-switch.md.
 */
namespace airlock::quarantine
{

/** The first of the two EtherTypes that IEEE 802 leaves to local use. */
inline constexpr std::uint16_t defaultEtherType = 0x88B5;

/** Where frames to the agent go: a group address that no bridge forwards
 * (IEEE 802.1Q, nearest non-TPMR bridge). In mac96 a hello goes to the epoch's
 * switch address instead. */
inline constexpr MacAddress agentAddress{{0x01, 0x80, 0xC2, 0x00, 0x00, 0x03}};

/** Where frames from the agent come from. */
inline constexpr MacAddress agentSource{{0x02, 0x80, 0xC2, 0x00, 0x00, 0x03}};

inline constexpr std::size_t headerBytes = 14;
/** Without the frame check sequence. */
inline constexpr std::size_t maxFrame = 1514;
inline constexpr std::size_t maxProof = 1400;
inline constexpr std::size_t maxPortName = 15;

using Nonce = std::array<std::uint8_t, 32>;

/** "I am here": with the right addresses it opens or renews a lease. */
struct Hello
{};

/** "Give me a challenge." */
struct Ask
{};

/** From the agent: a fresh number, for one proof. */
struct Challenge
{
    Nonce nonce{};
    std::string port; ///< the switch's name of the port
};

/** An answer to a challenge; what it consists of is the method's business. */
struct Proof
{
    Nonce nonce{};
    Bytes bytes;
};

/** From the agent: what became of a proof. */
struct Verdict
{
    Nonce nonce{};
    bool open = false;
};

using Message = std::variant<Hello, Ask, Challenge, Proof, Verdict>;

struct Frame
{
    MacAddress destination;
    MacAddress source;
    Message message;
};

/** The frame's bytes, at least 60. Throws Error when something is too long. */
Bytes write(const Frame& frame, std::uint16_t etherType = defaultEtherType);

/** Reads a frame of this EtherType. Throws Refused for one that is cut, too
 * long, of another version or type, or has anything but zeros at its end. */
Frame parse(ByteView bytes, std::uint16_t etherType = defaultEtherType);

/** What a proof has to sign or quote: SHA-256 over a label, the port's name,
 * the boot host's address and the nonce. */
Digest statement(std::string_view port, const MacAddress& address,
                 const Nonce& nonce);

} // namespace airlock::quarantine
