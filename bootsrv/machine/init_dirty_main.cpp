// First process of the dirty image.
#include "bootsrv/machine/init.hpp"
#include "bootsrv/machine/scratch.hpp"
#include "common/log.hpp"

using namespace airlock;

namespace
{

/** However long a guest wants to boot: the host agents have given up before. */
constexpr auto longest = std::chrono::hours(1);

void work(const std::filesystem::path& staging)
{
    machine::DirtySetup setup;
    setup.staging = staging;
    setup.mountScratch = machine::mountScratch;
    setup.boot.bootrun = "/usr/bin/airlock-bootrun";
    setup.boot.qemu = "/usr/bin/qemu-system-x86_64";
    setup.boot.firmwareDirectory = "/usr/share/qemu";
    setup.boot.user = "guest";
    if (machine::runDirtyMode(setup) != 0)
    {
        log::warning("Dirty mode leaves no result");
    }
}

} // namespace

int main()
{
    machine::dirtyInit(longest, work);
}
