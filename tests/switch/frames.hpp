#pragma once

#include "common/bytes.hpp"
#include "common/mac_address.hpp"

#include <string>
#include <string_view>
#include <vector>

/** Ethernet frames that a boot host may try: for tests at the cable, and for
 * the dirty image that sends them itself. */
namespace airlock::test
{

inline const MacAddress everybody{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};

/** Not IP: with br_netfilter, a bridge drops what is no good IP. */
inline constexpr std::uint16_t dataType = 0x6003;

MacAddress mac(std::string_view text);

/** An Ethernet frame, 60 bytes at least. */
Bytes frame(const MacAddress& to, const MacAddress& from, std::uint16_t type,
            std::string_view text = "airlock");
/** The same with a VLAN tag. */
Bytes taggedFrame(const MacAddress& to, const MacAddress& from,
                  std::uint16_t vlan, std::uint16_t type,
                  std::uint16_t tagType = 0x8100,
                  std::string_view text = "tagged");

/** Groups that bridges and their daemons treat as their own, and others. */
const std::vector<std::string>& groups();
/** IP, ARP, EAPOL, LLDP, PAUSE, loop detection, ours, and an LLC length. */
const std::vector<std::uint16_t>& frameTypes();

/** Every kind of frame from one source address, to these and to all groups,
 * each with the text in it. */
std::vector<Bytes> framesFrom(const MacAddress& source,
                              const std::vector<MacAddress>& unicast,
                              std::string_view text = "");

/** Who asks for the address of 10.9.0.1 (ARP), and of fe80::1 (IPv6), with the
 * text behind the question. */
Bytes arpQuestion(const MacAddress& source, std::string_view text);
Bytes neighbourQuestion(const MacAddress& source, std::string_view text);

} // namespace airlock::test
