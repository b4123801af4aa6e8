#include "tests/integration/bootd_rig.hpp"

#include "devmodel/vm/qemu_argv.hpp"
#include "tools/rigs/guest_case.hpp"
#include "tools/rigs/logged.hpp"

#include <fmt/format.h>

namespace airlock::test
{

BootdRig::BootdRig(const std::string& extra)
    : directory_(rig::roomyDirectory("airlock-bootd")),
      identity_(pki_.identity("boot1", tls::bootRole))
{
    std::filesystem::path qemu =
        std::filesystem::absolute(vm::defaultBuildDirectory()) / "qemu" /
        "boot" / "qemu-system-x86_64";
    writeFileAtomic(
        config(),
        fmt::format("listen = \"127.0.0.1\"\n"
                    "port = {}\n"
                    "state-directory = \"{}\"\n"
                    "[tls]\n"
                    "certificate = \"{}\"\n"
                    "key = \"{}\"\n"
                    "authorities = \"{}\"\n"
                    "[boot]\n"
                    "qemu = \"{}\"\n"
                    "bootrun = \"{}\"\n"
                    "{}",
                    0, state().string(), identity_.certificate.string(),
                    identity_.key.string(), identity_.authorities.string(),
                    qemu.string(), AIRLOCK_BOOTRUN, extra));
    start();
}

std::string BootdRig::log() const
{
    return readTextFile(logFile(), 64U << 20);
}

void BootdRig::start()
{
    std::filesystem::remove(logFile());
    process_.emplace(rig::spawnLogged(
        {AIRLOCK_BOOTD, "--config", config().string()}, logFile()));
    port_ = rig::waitPort(*process_, logFile());
}

void BootdRig::kill()
{
    process_->kill();
}

int BootdRig::stop()
{
    return process_->terminate(std::chrono::seconds(20)).code;
}

boot::Client BootdRig::client(const std::string& name)
{
    return {endpoint(), pki_.client(name)};
}

} // namespace airlock::test
