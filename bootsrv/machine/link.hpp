#pragma once

#include "common/mac_address.hpp"

#include <string>

/** The network card, through the kernel's netlink. */
namespace airlock::machine
{

/** Another address; the link is taken down for it and stays down. */
void setAddress(const std::string& nic, const MacAddress& address);
void setUp(const std::string& nic, bool up);
MacAddress addressOf(const std::string& nic);

/** What a boot host has while nobody is to know it: the same for all. */
inline constexpr MacAddress genericAddress{{0x02, 0, 0, 0, 0, 0x01}};

} // namespace airlock::machine
