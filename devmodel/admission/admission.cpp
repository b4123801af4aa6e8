#include "devmodel/admission/admission.hpp"

#include "common/error.hpp"
#include "common/file.hpp"
#include "common/json.hpp"
#include "common/process.hpp"
#include "devmodel/admission/report.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <filesystem>

namespace airlock::admission
{

namespace
{

namespace fs = std::filesystem;

constexpr std::size_t stateMax = 64U << 20;
constexpr std::size_t reportMax = 1U << 20;
constexpr Milliseconds admissionTime = std::chrono::minutes(2);
constexpr const char* program = "airlock-admit";
constexpr const char* inBuildTree = "devmodel/admission/airlock-admit";

/** Beside this program, where both are installed, or in the build tree that
 * this program is in. */
fs::path findProgram()
{
    fs::path self = fs::read_symlink("/proc/self/exe").parent_path();
    if (fs::exists(self / program))
    {
        return self / program;
    }
    for (fs::path up = self; up.has_relative_path(); up = up.parent_path())
    {
        if (fs::exists(up / inBuildTree))
        {
            return up / inBuildTree;
        }
    }
    throw Error(fmt::format("there is no {} beside this program in {}", program,
                            self.string()));
}

/** The same file behind a descriptor that can only read. */
UniqueFd readOnly(int fd)
{
    return openFile("/proc/self/fd/" + std::to_string(fd), O_RDONLY);
}

Bytes takeState(int fd)
{
    addSeals(fd, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK);
    return readFile(fd, stateMax, "admitted state");
}

} // namespace

Admitted admit(const Machine& machine, ByteView candidate, ByteView reference,
               int memory)
{
    UniqueFd candidateFile = sealedMemfd("candidate", candidate);
    UniqueFd referenceFile = sealedMemfd("reference", reference);
    UniqueFd memoryFile = readOnly(memory);
    UniqueFd state = createMemfd("admitted-state", 0);
    SpawnOptions options;
    options.argv = {findProgram().string(), std::to_string(machine.memory),
                    std::to_string(machine.vcpus), machine.cpuModel,
                    machine.accelerator == handover::Accelerator::Kvm ? "kvm"
                                                                      : "tcg"};
    for (int fd : {candidateFile.get(), referenceFile.get(), memoryFile.get(),
                   state.get()})
    {
        options.argv.push_back(std::to_string(fd));
        options.inheritFds.push_back(fd);
    }
    options.env = std::vector<std::string>{};
    ProcessOutput output = runProgram(options, admissionTime, reportMax);
    if (!output.status.ok())
    {
        throw Error(fmt::format("the admission did not end well: {}: {}",
                                output.status.describe(),
                                printable(output.err, 300)));
    }
    Admitted out = readReport(output.out);
    out.state = takeState(state.get());
    return out;
}

} // namespace airlock::admission
