#include "tests/integration/bootd_rig.hpp"

#include "common/error.hpp"
#include "devmodel/vm/qemu_argv.hpp"

#include <fcntl.h>
#include <fmt/format.h>

#include <charconv>
#include <cstdlib>
#include <thread>

namespace airlock::test
{

namespace
{

constexpr std::size_t logMax = 64U << 20;
constexpr Milliseconds startTime = std::chrono::seconds(30);

/** Disks of a gigabyte are nothing for a /tmp in memory. */
std::string preferVarTmp()
{
    ::setenv("TMPDIR", "/var/tmp", 0);
    return "airlock-bootd";
}

} // namespace

BootdRig::BootdRig(const std::string& extra)
    : directory_(preferVarTmp()),
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
    return readTextFile(directory_.path() / "log", logMax);
}

void BootdRig::start()
{
    UniqueFd log =
        openFile(directory_.path() / "log", O_WRONLY | O_CREAT | O_TRUNC);
    SpawnOptions options;
    options.argv = {AIRLOCK_BOOTD, "--config", config().string()};
    options.stdoutFd = log.get();
    options.stderrFd = log.get();
    process_.emplace(options);
    Deadline deadline(startTime);
    constexpr std::string_view mark = "PORT=";
    for (;;)
    {
        std::string text = this->log();
        std::size_t at = text.find(mark);
        if (at != std::string::npos && text.find('\n', at) != std::string::npos)
        {
            const char* digits = text.c_str() + at + mark.size();
            std::from_chars(digits, digits + 5, port_);
            return;
        }
        if (!process_->running() || deadline.passed())
        {
            throw Error("airlock-bootd does not start: " + text);
        }
        std::this_thread::sleep_for(Milliseconds(20));
    }
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

boot::JobStatus BootdRig::waitFinished(boot::Client& client,
                                       const std::string& id,
                                       Milliseconds timeout)
{
    Deadline deadline(timeout);
    for (;;)
    {
        boot::JobStatus status = client.status(id);
        if (status.state != boot::JobState::queued &&
            status.state != boot::JobState::booting)
        {
            return status;
        }
        if (deadline.passed())
        {
            throw TimedOut("the job is still " + dumpJson(status.toJson()));
        }
        std::this_thread::sleep_for(Milliseconds(50));
    }
}

boot::JobRequest smallRequest(std::uint64_t diskBytes,
                              const std::string& tenant)
{
    boot::JobRequest out;
    out.job =
        handover::JobTicket::issue("9d1f6a52-7c0e-4a39-8f10-5b7d2c34e601", 1);
    out.guest.name = "test";
    out.guest.uuid = out.job.vm;
    out.guest.vcpus = 1;
    out.guest.memory = 64U << 20;
    out.disks = {{diskBytes, false}};
    out.policy = "after:1";
    out.timeout = std::chrono::seconds(120);
    out.tenant = tenant;
    return out;
}

} // namespace airlock::test
