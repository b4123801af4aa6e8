#include "tests/machine/machine_rig.hpp"

#include "bootsrv/machine/tpm_anchor.hpp"
#include "common/error.hpp"
#include "devmodel/vm/qemu_argv.hpp"
#include "tools/rigs/guest_case.hpp"
#include "tools/rigs/logged.hpp"
#include "trust/keys.hpp"

#include <fcntl.h>
#include <unistd.h>

namespace airlock::test
{

namespace fs = std::filesystem;

namespace
{

constexpr std::uint64_t keptBytes = 1U << 20;
void makePartition(const fs::path& path, std::uint64_t bytes)
{
    UniqueFd fd = openFile(path, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0)
    {
        throwErrno("cannot make " + path.string());
    }
}

} // namespace

MachineRig::MachineRig(std::uint64_t stagingBytes)
    : directory_(rig::roomyDirectory("airlock-machine"))
{
    makePartition(kept(), keptBytes);
    makePartition(staging(), stagingBytes);
    site.tls = identityFor("boot1", tls::bootRole, "127.0.0.1");
    site.port = 0;
}

machine::Site::Tls MachineRig::identityFor(const std::string& name,
                                           const std::string& role,
                                           const std::string& address)
{
    pki::Credential made =
        pki::issue(pki_.authority(), {name, role, {address}});
    return {made.certificate, made.key, pki_.authority().certificate};
}

void MachineRig::install()
{
    auto tpm = std::make_shared<machine::MachineTpm>(swtpm_.tcti());
    tpm->use([this](const trust::Tpm& it) {
        identity_ =
            trust::createKeys(it, trust::EndorsementType::eccP256, nullptr);
        machine::TpmAnchor::define(it, {}, keptKey_);
        pcrs_ = it.readPcrs(quoted());
    });
    machine::DeviceBlocks blocks(kept());
    machine::installKept(blocks, keptKey_,
                         std::make_shared<machine::TpmAnchor>(tpm, keptKey_),
                         site);
}

void MachineRig::start(const char* mode)
{
    fs::path qemu = fs::absolute(vm::defaultBuildDirectory()) / "qemu" /
                    "boot" / "qemu-system-x86_64";
    // Memory goes with each life.
    for (const char* name : {"runtime", "work"})
    {
        fs::remove_all(directory_.path() / name);
        fs::create_directory(directory_.path() / name);
    }
    Json setup = {{"kept", kept().string()},
                  {"staging", staging().string()},
                  {"kept-key", toHex(keptKey_.view())},
                  {"root", toHex(root_.view())},
                  {"tcti", tcti_},
                  {"nic", nic},
                  {"pcrs", quoted().text()},
                  {"runtime", (directory_.path() / "runtime").string()},
                  {"work", work().string()},
                  {"bootrun", AIRLOCK_BOOTRUN},
                  {"qemu", qemu.string()}};
    if (!previousRoot_.empty())
    {
        setup["previous-root"] = toHex(previousRoot_.view());
    }
    writeFileAtomic(directory_.path() / "setup.json", dumpJson(setup), 0600);
    std::vector<std::string> argv = launcher;
    argv.insert(argv.end(), {AIRLOCK_MACHINE_LIFE, mode,
                             (directory_.path() / "setup.json").string()});
    fs::remove(logFile());
    process_.emplace(rig::spawnLogged(argv, logFile()));
}

void MachineRig::rotate()
{
    previousRoot_ = std::exchange(root_, Secret::random());
}

std::string MachineRig::log() const
{
    return readTextFile(logFile(), 64U << 20);
}

void MachineRig::startClean()
{
    start("clean");
    port_ = rig::waitPort(*process_, logFile());
}

void MachineRig::startDirty()
{
    start("dirty");
}

int MachineRig::waitEnd(Milliseconds timeout)
{
    std::optional<ExitStatus> status = process_->wait(timeout);
    if (!status)
    {
        throw TimedOut("a life does not end: " + log());
    }
    swtpm_.restart();
    return status->code;
}

void MachineRig::pullThePlug()
{
    process_->kill();
    swtpm_.pullThePlug();
}

int MachineRig::stop()
{
    int code = process_->terminate(std::chrono::seconds(20)).code;
    swtpm_.restart();
    return code;
}

boot::Client MachineRig::client(const std::string& name)
{
    return clientAt("127.0.0.1", name);
}

boot::Client MachineRig::clientAt(const std::string& address,
                                  const std::string& name)
{
    return {{address, port_, tls::bootRole}, pki_.client(name)};
}

} // namespace airlock::test
