#pragma once

#include "bootsrv/client.hpp"
#include "common/file.hpp"
#include "common/process.hpp"
#include "tests/unit/test_pki.hpp"

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

namespace airlock::test
{

/** An airlock-bootd of its own on loopback: state, certificates and
 * configuration in a directory that goes away with the object. */
class BootdRig
{
  public:
    /** `extra` is TOML that is put behind the configuration. Starts it. */
    explicit BootdRig(const std::string& extra = "");

    /** Starts the daemon (again) and waits until it listens. */
    void start();
    /** SIGKILL. */
    void kill();
    /** SIGTERM; its exit code. */
    int stop();

    Process& process() { return *process_; }
    TestPki& pki() { return pki_; }
    http::Endpoint endpoint() const
    {
        return {"127.0.0.1", port_, "airlock-bootd"};
    }
    boot::Client client(const std::string& name = "host1");
    std::filesystem::path state() const { return directory_.path() / "state"; }
    std::filesystem::path config() const
    {
        return directory_.path() / "bootd.toml";
    }
    /** What it has logged since it was started. */
    std::string log() const;

  private:
    std::filesystem::path logFile() const { return directory_.path() / "log"; }

    TempDirectory directory_;
    TestPki pki_;
    tls::Identity identity_;
    std::optional<Process> process_;
    std::uint16_t port_ = 0;
};

} // namespace airlock::test
