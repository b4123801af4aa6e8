#pragma once

#include "bootsrv/capsule/disk.hpp"
#include "bootsrv/capsule/varstore.hpp"
#include "common/process.hpp"
#include "common/qmp.hpp"

#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

/** A boot host that is a virtual machine: firmware with Secure Boot, a TPM of
 * its own, and a new QEMU process for each mode, so that nothing in memory
 * outlives a mode. */
namespace airlock::capsule
{

/** What a new capsule is made from. */
struct CapsuleParts
{
    BootImages images;
    SecureBootKeys keys;
    std::uint64_t stagingSize = 0;
    /** Debian's package ovmf. */
    std::filesystem::path emptyVariables = "/usr/share/OVMF/OVMF_VARS_4M.fd";
};

/** How it runs. */
struct CapsuleOptions
{
    std::filesystem::path qemu = "qemu-system-x86_64";
    std::filesystem::path firmware = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";
    std::string accelerator = "tcg";
    std::string cpu = "max";
    unsigned memoryMiB = 1024;
    unsigned cpus = 1;
    /** A tap device that is there already; empty: no network card. Dirty mode
     * has none in any case but keepCard. */
    std::string tap;
    /** As a real machine: variables and partition tables stay as dirty mode
     * has left them, and the images are on a disk that it can write. */
    bool keepAll = false;
    /** For tests: as a machine whose card nobody can take away, dirty mode has
     * it too. Then the switch is all that is between it and the network. */
    bool keepCard = false;
};

/** How the life of one mode ended. */
struct ModeEnd
{
    bool timedOut = false; ///< it was killed
    ExitStatus status;     ///< of QEMU
    /** Clean mode asked for dirty mode. */
    bool dirtyNext = false;
    std::string console; ///< what it said last, at most 256 KiB
};

/** A mode that is at work. At the end of the object the power is pulled. */
class RunningMode
{
  public:
    /** Starts the software TPM and QEMU. */
    RunningMode(std::filesystem::path directory, CapsuleOptions options);
    RunningMode(const RunningMode&) = delete;
    RunningMode& operator=(const RunningMode&) = delete;
    ~RunningMode();

    /** Whether the machine powered off within this time. */
    bool ended(Milliseconds time) { return qemu_->wait(time).has_value(); }
    /** Waits for the machine to power off; kills it after the time. */
    ModeEnd finish(Milliseconds limit);
    /** Waits until the console has said this; TimedOut with its last words. */
    void waitForConsole(const std::string& text, Milliseconds limit);
    /** As if the plug was pulled, of the machine and its TPM. */
    void kill();

    /** Everything of QEMU's that a test wants. */
    QmpClient qmp() const;

  private:
    void startTpm();
    void startQemu();
    void readConsole(UniqueFd from);
    std::string console() const;

    std::filesystem::path directory_;
    CapsuleOptions options_;
    std::optional<Process> tpm_;
    std::optional<Process> qemu_;
    mutable std::mutex mutex_;
    std::string console_;
    std::jthread reader_;
};

/** The files of a capsule in a directory. */
class Capsule
{
  public:
    /** Makes a new one: directory, disks, flash, TPM with a certificate of its
     * own authority. Refused when something is there. */
    static Capsule create(const std::filesystem::path& directory,
                          const CapsuleParts& parts);
    explicit Capsule(std::filesystem::path directory);

    /** Makes the next mode's machine: flash and partition tables are as they
     * were made, whatever the mode before left there, but for a choice of dirty
     * mode when `dirty` says so. */
    RunningMode start(const CapsuleOptions& options, bool dirty = false);
    /** start(), and waits for the end of it. */
    ModeEnd run(const CapsuleOptions& options, bool dirty, Milliseconds limit);

    /** New images; only while no mode runs. */
    void replaceImages(const BootImages& images);

    const DiskLayout& layout() const { return layout_; }
    std::filesystem::path dataDisk() const { return directory_ / "data.img"; }
    std::filesystem::path imageDisk() const { return directory_ / "boot.img"; }
    /** Flash of the mode that ran last. */
    std::filesystem::path variables() const { return directory_ / "vars.run"; }

  private:
    void restoreTables() const;

    std::filesystem::path directory_;
    DiskLayout layout_;
};

/** Files in a capsule's directory that do not change between modes. */
inline constexpr const char* pristineVariables = "vars.fd";

} // namespace airlock::capsule
