#pragma once

#include "common/bytes.hpp"
#include "tools/rigs/cable.hpp"

#include <cstdint>
#include <string>

/** Captured frames as files that tcpdump and Wireshark read (pcapng). */
namespace airlock::rig::pcapng
{

/** The beginning of a file. */
Bytes header();
/** An Ethernet interface; they are numbered from 0 on, as they come. */
Bytes interface(const std::string& name);
/** A frame at an interface, with its VLAN tag in its place. */
Bytes frame(std::uint32_t interface, const Caught& caught);
/** Something that happened, as a frame that was on no cable: EtherType 0x88B6,
 * the text as its content and as its comment. */
Bytes mark(std::uint32_t interface, std::chrono::system_clock::time_point time,
           const std::string& text);

} // namespace airlock::rig::pcapng
