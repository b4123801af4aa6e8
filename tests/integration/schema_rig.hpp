#pragma once

#include "common/bytes.hpp"
#include "devmodel/handover/section.hpp"
#include "devmodel/vm/production_vm.hpp"

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

/** Production machines that are started to see what they save. */
namespace airlock::test
{

/** What a production machine is started with. */
struct Case
{
    std::string name;
    vm::GuestSpec spec;
    std::vector<std::string> arguments = {};
    std::vector<int> taps = {};
};

/** How long a trap may take. */
inline constexpr Milliseconds schemaTrapTime = std::chrono::minutes(1);

/** Images of one MiB, the same ones for each call, every second one read-only;
 * cards with addresses of ours. */
std::vector<vm::Disk> disks(std::size_t count);
std::vector<vm::Nic> nics(std::size_t count);

/** A guest with one of each device. */
Case plain(vm::Accelerator accelerator = vm::Accelerator::tcg);

/** Starts it and waits until it is trapped. One at a time: they share their
 * disks and the log. */
std::unique_ptr<vm::ProductionVm> start(const Case& setup);

/** The log of the machine that was started last. */
std::filesystem::path schemaLog();

/** The sections of a state that the tables describe. Throws Refused. */
std::vector<handover::Section> parseSaved(ByteView state);

/** The machine saves what the tables describe, all of it and nothing else, and
 * all devices that it was given. */
void expectDescribed(const vm::GuestSpec& spec, ByteView state);
void expectDescribed(const Case& setup);

} // namespace airlock::test
