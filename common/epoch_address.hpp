#pragma once

#include "common/mac_address.hpp"
#include "common/secret.hpp"

#include <cstdint>
#include <string>

/** The addresses by which a boot host shows its switch that it is in clean
 * mode.
 *
 * Boot host and switch share a root secret; at the boot host it is sealed to
 * the clean mode. An *epoch* is a number that only grows (a TPM counter at the
 * boot host). Each epoch has two addresses of 46 random bits: the boot host's
 * own, and, for method mac96, one that stands for the switch. Knowing some of
 * them says nothing about others.
 *
 *     address = HKDF-SHA256(root, "airlock address v1\0" role "\0" epoch)[0..5]
 *
 * role is "host" or "switch", epoch eight big-endian bytes, no salt; then bit
 * 0 of the first byte is cleared (no group) and bit 1 set (locally
 * administered).
 */
namespace airlock::epoch
{

/** The source address of the boot host in this epoch. */
MacAddress hostAddress(const Secret& root, std::uint64_t epoch);

/** The address that a boot host's proof goes to in this epoch (mac96). */
MacAddress switchAddress(const Secret& root, std::uint64_t epoch);

/** What stands for a secret address in logs: 12 hexadecimal digits, the same
 * for the same address and root, and useless without the root. */
std::string tag(const Secret& root, const MacAddress& address);

} // namespace airlock::epoch
