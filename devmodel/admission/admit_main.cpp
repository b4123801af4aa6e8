/** airlock-admit: the part of a hand-over that reads hostile input. Started by
 * admission::admit() only; see there. */
#include "common/error.hpp"
#include "common/file.hpp"
#include "devmodel/admission/report.hpp"
#include "devmodel/handover/guest_memory.hpp"
#include "devmodel/handover/stream.hpp"

#include <unistd.h>

#include <cstdio>
#include <string>

namespace airlock::admission
{

namespace
{

constexpr std::size_t streamMax = 64U << 20;
constexpr int argumentCount = 9;

struct Files
{
    int candidate;
    int reference;
    int memory;
    int state;
};

handover::Environment environmentFor(const Machine& machine,
                                     const handover::GuestMemory& memory)
{
    auto out = handover::Environment::forMemory(machine.memory);
    out.vcpus = machine.vcpus;
    out.accelerator = machine.accelerator;
    out.cpu =
        handover::CpuContract::forModel(machine.cpuModel, machine.accelerator);
    out.read = [&memory](std::uint64_t address, std::span<std::uint8_t> bytes) {
        return memory.read(address, bytes);
    };
    return out;
}

std::string admitFiles(const Machine& machine, const Files& files)
{
    auto layout = handover::Environment::forMemory(machine.memory);
    handover::GuestMemory memory(files.memory, layout.ramLow, layout.ramHigh);
    handover::ProductionStream local = handover::parseProductionStream(
        readFile(files.reference, streamMax, "reference"),
        handover::sectionSize);
    handover::BootStream boot = handover::parseBootStream(
        readFile(files.candidate, streamMax, "device state"));
    handover::Reduced reduced = handover::reduce(std::move(boot.sections));
    Admitted out;
    out.state = handover::writeProductionStream(
        local.machine, handover::admit(reduced.kept, local.sections,
                                       environmentFor(machine, memory)));
    for (const handover::Section& section : reduced.kept)
    {
        out.kept.push_back(section.id);
    }
    out.dropped = std::move(reduced.dropped);
    writeAll(files.state, out.state);
    return writeReport(out);
}

void say(const std::string& report)
{
    writeAll(STDOUT_FILENO, asBytes(report));
}

void run(char** argv)
{
    Machine machine;
    machine.memory = std::stoull(argv[1]);
    machine.vcpus = static_cast<unsigned>(std::stoul(argv[2]));
    machine.cpuModel = argv[3];
    machine.accelerator = std::string(argv[4]) == "kvm"
                              ? handover::Accelerator::Kvm
                              : handover::Accelerator::Tcg;
    Files files = {std::stoi(argv[5]), std::stoi(argv[6]), std::stoi(argv[7]),
                   std::stoi(argv[8])};
    confine();
    try
    {
        say(admitFiles(machine, files));
    }
    catch (const Refused& refused)
    {
        say(writeReport(refused));
    }
}

} // namespace

} // namespace airlock::admission

int main(int argc, char** argv)
{
    if (argc != airlock::admission::argumentCount)
    {
        std::fputs("airlock-admit is started by Airlock's programs only\n",
                   stderr);
        return 2;
    }
    try
    {
        airlock::admission::run(argv);
        return 0;
    }
    catch (const std::exception& error)
    {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
