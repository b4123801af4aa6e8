#pragma once

#include "bootsrv/capsule/disk.hpp"
#include "bootsrv/capsule/fence.hpp"
#include "bootsrv/capsule/varstore.hpp"
#include "bootsrv/machine/rotation_request.hpp"
#include "common/process.hpp"
#include "common/qmp.hpp"

#include <filesystem>
#include <functional>
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
    /** Around QEMU and TPM; nothing: they are as this process is. */
    std::optional<Fence> fence;
    /** Dirty mode gets the TPM and what clean mode keeps, as on a real machine;
     * else staging alone. */
    bool dirtyHasAll = false;
    /** As a real machine in all things: variables and partition tables stay as
     * dirty mode has left them too, and the images are on a disk that it can
     * write. */
    bool keepAll = false;
    /** For tests: as a machine whose card nobody can take away, dirty mode has
     * it too. Then the switch is all that is between it and the network. */
    bool keepCard = false;
};

/** What of a capsule a mode is given. */
struct ModeParts
{
    bool dirty = false;
    bool network = true;
    bool tpm = true;
    bool data = true; ///< the disk with what clean mode keeps
    bool writesImages = false;
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
    /** Starts the software TPM and QEMU. `lock`: of the capsule, to be held as
     * long as they run. */
    RunningMode(std::filesystem::path directory, CapsuleOptions options,
                ModeParts parts, UniqueFd lock);
    RunningMode(const RunningMode&) = delete;
    RunningMode& operator=(const RunningMode&) = delete;
    ~RunningMode();

    /** Whether the machine powered off within this time. */
    bool ended(Milliseconds time) { return qemu_->wait(time).has_value(); }
    /** Waits for the machine to power off; kills it after the time. */
    ModeEnd finish(Milliseconds limit);
    /** Waits until the console has said this; TimedOut with its last words. */
    void waitForConsole(const std::string& text, Milliseconds limit);
    /** As if the plug was pulled, of the machine and its TPM. On return nothing
     * of them is left; when the kernel cannot end them, there is none. */
    void kill();

    /** Everything of QEMU's that a test wants. */
    QmpClient qmp() const;

  private:
    ExitStatus end(Process& process) const;
    void startTpm(UniqueFd control);
    void startQemu(UniqueFd tpm);
    void readConsole(UniqueFd from, UniqueFd file);
    std::string console() const;
    std::filesystem::path qmpSocket() const;
    void addFence(SpawnOptions& to, const Fence::Room& room) const;

    std::filesystem::path directory_;
    CapsuleOptions options_;
    ModeParts parts_;
    UniqueFd lock_;
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
     * mode when `dirty` says so. Refused while another one runs. */
    RunningMode start(const CapsuleOptions& options, bool dirty = false);
    /** start(), and waits for the end of it. */
    ModeEnd run(const CapsuleOptions& options, bool dirty, Milliseconds limit);

    /** Leaves the site's request for a new root where the next start of clean
     * mode finds it; also while a mode runs. */
    void leave(const machine::RotationRequest& request) const;

    /** New images; Refused while a mode runs. `prepare` is done first, and no
     * mode starts between. */
    void replaceImages(const BootImages& images,
                       const std::function<void()>& prepare = {});

    /** Seal and kept are on dataDisk(), staging is on stagingDisk(). */
    const DiskLayout& layout() const { return layout_; }
    const std::filesystem::path& directory() const { return directory_; }
    std::filesystem::path dataDisk() const { return directory_ / "data.img"; }
    std::filesystem::path stagingDisk() const
    {
        return directory_ / "staging.img";
    }
    std::filesystem::path imageDisk() const { return directory_ / "boot.img"; }
    /** Flash of the mode that ran last. */
    std::filesystem::path variables() const { return directory_ / "vars.run"; }

  private:
    UniqueFd lock() const;
    void deliver() const;
    void restoreTables() const;

    std::filesystem::path directory_;
    DiskLayout layout_;
};

/** Files in a capsule's directory that do not change between modes. */
inline constexpr const char* pristineVariables = "vars.fd";

/** Has a file belong to a user; nothing happens without a name, or when we are
 * not root. */
void giveFile(const std::filesystem::path& file, const std::string& user);
/** The same for a capsule and the user that keeps it at work, but for images
 * and first variables: they stay ours, and nobody is to write them. */
void giveCapsule(const std::filesystem::path& directory,
                 const std::string& user);

} // namespace airlock::capsule
