#include "tools/rigs/guest_case.hpp"

#include "common/error.hpp"
#include "common/process.hpp"
#include "devmodel/vm/qemu_argv.hpp"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cstdlib>

namespace airlock::rig
{

std::string GuestCase::name() const
{
    constexpr std::uint64_t gib = 1ULL << 30;
    return fmt::format("{}_{}cpu_{}GiB_{}", kernel, vcpus, memory / gib,
                       msix ? "msix" : "intx");
}

std::filesystem::path imageOf(const std::string& kernel)
{
    return vm::defaultBuildDirectory() / "images" /
           ("debian12-" + kernel + ".raw");
}

void copyImage(const std::filesystem::path& from,
               const std::filesystem::path& to)
{
    SpawnOptions options;
    options.argv = {"cp", "--reflink=auto", "--sparse=always", from.string(),
                    to.string()};
    ProcessOutput output = runProgram(options, std::chrono::minutes(30));
    if (!output.status.ok())
    {
        throw Error("cannot copy the guest's image (tools/build-image makes "
                    "it): " +
                    output.err);
    }
}

std::uint64_t allocatedBytes(const std::filesystem::path& file)
{
    struct stat info = {};
    if (::stat(file.c_str(), &info) != 0)
    {
        throwErrno("cannot look at " + file.string());
    }
    return static_cast<std::uint64_t>(info.st_blocks) * 512;
}

std::string digestOf(const std::filesystem::path& file)
{
    return runTool({"sha256sum", file.string()}, std::chrono::minutes(10))
        .substr(0, 64);
}

void preferVarTmp()
{
    ::setenv("TMPDIR", "/var/tmp", 0);
}

TempDirectory roomyDirectory(const std::string& prefix)
{
    preferVarTmp();
    return TempDirectory(prefix);
}

} // namespace airlock::rig
