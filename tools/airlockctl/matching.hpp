#pragma once

#include "bootsrv/qemu_facts.hpp"
#include "hostagent/domain/domain_spec.hpp"

#include <string>
#include <vector>

namespace airlock::ctl
{

/** Why a guest that a boot server booted could not go on at home: what of the
 * domain's machine and its QEMU the boot server's QEMU does not match, a
 * sentence each. Nothing: it fits. */
std::vector<std::string> mismatches(const host::DomainSpec& domain,
                                    const boot::QemuFacts& home,
                                    const boot::QemuFacts& server);

/** The machine type of boot servers for domains with this one: "airlock-1.0"
 * has "airlock-boot-1.0". */
std::string bootMachineFor(std::string_view productionMachine);

} // namespace airlock::ctl
