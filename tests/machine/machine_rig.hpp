#pragma once

#include "bootsrv/client.hpp"
#include "bootsrv/machine/kept.hpp"
#include "common/file.hpp"
#include "common/process.hpp"
#include "tests/tpm/swtpm.hpp"
#include "tests/unit/test_pki.hpp"
#include "trust/machine.hpp"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace airlock::test
{

/** A machine whose lives are processes: its partitions are files, its TPM is
 * an swtpm that is enrolled, its memory goes with the process. */
class MachineRig
{
  public:
    /** Installs it. */
    explicit MachineRig(std::uint64_t stagingBytes);

    /** The site that it is installed with, to be changed before install(). */
    machine::Site site;
    std::string nic;
    /** Put before the command line of each life: "nsenter". */
    std::vector<std::string> launcher;
    void install();

    /** The secrets are sealed anew, with another root beside the one so far. */
    void rotate();

    /** Begins a life; a clean one takes jobs on return. */
    void startClean();
    void startDirty();
    /** Its exit code. */
    int waitEnd(Milliseconds timeout);
    /** The power goes. */
    void pullThePlug();
    /** SIGTERM. */
    int stop();
    bool running() { return process_ && process_->running(); }

    boot::Client client(const std::string& name = "host1");
    boot::Client clientAt(const std::string& address, const std::string& name);
    /** A certificate for these addresses, as PEM texts. */
    machine::Site::Tls identityFor(const std::string& name,
                                   const std::string& role,
                                   const std::string& address);
    TestPki& pki() { return pki_; }
    const std::filesystem::path& directory() const { return directory_.path(); }
    const Secret& root() const { return root_; }
    Swtpm& swtpm() { return swtpm_; }
    /** From now on the machine has this TPM, which has to outlive its lives. */
    void exchangeTpm(Swtpm& other) { tcti_ = other.tcti(); }
    std::filesystem::path kept() const { return directory_.path() / "kept"; }
    std::filesystem::path staging() const
    {
        return directory_.path() / "staging";
    }
    std::filesystem::path work() const { return directory_.path() / "work"; }
    const Secret& keptKey() const { return keptKey_; }
    /** The TPM's keys, and its PCRs before a life caps them. */
    const trust::Machine& identity() const { return identity_; }
    const trust::PcrValues& pcrs() const { return pcrs_; }
    static trust::PcrSelection quoted() { return {4, 7, 11}; }
    /** What the present life has said. */
    std::string log() const;

  private:
    void start(const char* mode);
    std::filesystem::path logFile() const { return directory_.path() / "log"; }

    TempDirectory directory_;
    TestPki pki_;
    Swtpm swtpm_;
    std::string tcti_ = swtpm_.tcti();
    Secret keptKey_ = Secret::random();
    Secret root_ = Secret::random();
    Secret previousRoot_;
    trust::Machine identity_;
    trust::PcrValues pcrs_;
    std::optional<Process> process_;
    std::uint16_t port_ = 0;
};

} // namespace airlock::test
