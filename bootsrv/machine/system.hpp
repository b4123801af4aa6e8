#pragma once

#include "common/deadline.hpp"

#include <filesystem>
#include <string>

/** What the first process of a boot image has to do with the kernel: the
 * system has no other program to do it. */
namespace airlock::machine
{

/** Mounts what the kernel offers (/proc, /sys, /dev, /run, TPM log, firmware
 * variables) and makes the console standard input and output. */
void mountKernelFiles();

/** Loads each module of a directory in the order of their names. */
void loadModules(const std::filesystem::path& directory);

/** From here on the kernel takes no new code: no modules, no other kernel. The
 * root file system is read-only, core dumps and magic keys are off. */
void lockDown();

/** The device of the partition with this label: what the kernel found, in
 * whatever disk. Waits for it; Error when there is none, or more than one:
 * then somebody tries to pass one off as ours. */
std::filesystem::path findPartition(const std::string& label,
                                    Milliseconds timeout);

/** The only network interface that is hardware; empty when there is none,
 * Error when there are several. */
std::string findNic();

/** How a machine loses its memory when it changes its mode. */
enum class PowerCycle
{
    powerOff, ///< a capsule: its supervisor starts a new VM
    reboot,   ///< a machine: firmware starts it again
};

/** Syncs the disks and ends. Does not return. */
[[noreturn]] void endMachine(PowerCycle how);

/** Ends the machine from a timer of the kernel, whatever this process does
 * then. */
void endMachineAfter(std::chrono::seconds limit, PowerCycle how);

} // namespace airlock::machine
