#include "tools/airlockctl/matching.hpp"

#include <fmt/format.h>

namespace airlock::ctl
{

std::string bootMachineFor(std::string_view productionMachine)
{
    std::size_t dash = productionMachine.rfind('-');
    return fmt::format(
        "{}-boot{}", productionMachine.substr(0, dash),
        dash == std::string_view::npos ? "" : productionMachine.substr(dash));
}

std::vector<std::string> mismatches(const host::DomainSpec& domain,
                                    const boot::QemuFacts& home,
                                    const boot::QemuFacts& server)
{
    std::vector<std::string> out;
    if (home.version != server.version)
    {
        out.push_back(fmt::format("it has QEMU {}, the domain's emulator is "
                                  "QEMU {}: install the same version",
                                  server.version, home.version));
    }
    std::string machine = bootMachineFor(host::productionMachine);
    if (!server.machines.contains(machine))
    {
        out.push_back(fmt::format("its QEMU has no machine {}, which {} needs",
                                  machine, host::productionMachine));
    }
    if (!server.cpuModels.contains(domain.cpuModel))
    {
        out.push_back(fmt::format("its QEMU has no CPU model {}: choose one "
                                  "that both have",
                                  domain.cpuModel));
    }
    std::string accelerator =
        domain.accelerator == vm::Accelerator::kvm ? "kvm" : "tcg";
    if (!server.accelerators.contains(accelerator))
    {
        out.push_back(fmt::format("it cannot run guests with {}, as the domain "
                                  "is",
                                  accelerator));
    }
    return out;
}

} // namespace airlock::ctl
