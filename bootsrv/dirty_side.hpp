#pragma once

#include "bootsrv/job.hpp"
#include "common/error.hpp"

#include <atomic>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

/** Having airlock-bootrun boot a guest: what the clean side of one machine and
 * the dirty mode of a machine of its own have in common. */
namespace airlock::boot
{

/** How boots are done here. */
struct BootSettings
{
    std::filesystem::path bootrun; ///< the program airlock-bootrun
    std::filesystem::path qemu;
    std::filesystem::path firmwareDirectory; ///< empty: as built in
    std::string firmware;                    ///< empty: SeaBIOS
    std::string user;                        ///< empty: as this process
    std::filesystem::path hide;              ///< from the dirty side
};

/** A boot did not end well; `code` as in docs/protocol-boot.md. */
class BootFailed : public Error
{
  public:
    BootFailed(std::string code, const std::string& message)
        : Error(message), code_(std::move(code))
    {}
    const std::string& code() const { return code_; }

  private:
    std::string code_;
};

/** Nobody wants the result any more. */
class BootCancelled : public Error
{
  public:
    using Error::Error;
};

/** Who follows a boot; called in the thread of runBoot(). */
struct BootWatcher
{
    /** A stage begins; so many seconds took the one before. */
    std::function<void(const std::string& stage, double seconds)> stage;
    /** The kernel does not allow a part of the dirty side's fence here. */
    std::function<void(const std::string& missing)> weakFence;
};

/** Notes when stages begin and how long they took. */
class StageClock
{
  public:
    /** The watcher has to outlive it. */
    explicit StageClock(const BootWatcher& watcher) : watcher_(watcher) {}

    void enter(const std::string& stage);
    /** What airlock-bootrun says: its stages, each once and in their order. Who
     * says so may be a guest. */
    void enterNext(std::string_view stage);
    const BootWatcher& watcher() const { return watcher_; }

    /** Of the stages that are over. */
    std::map<std::string, double> seconds() const;

  private:
    using Clock = std::chrono::steady_clock;

    const BootWatcher& watcher_;
    Clock::time_point start_ = Clock::now();
    std::string stage_;
    std::map<std::string, double> seconds_;
    std::ptrdiff_t entered_ = 0; ///< stages of airlock-bootrun
};

/** Makes a run directory, with what is in it, the user's of the settings. */
void giveRunDirectory(const BootSettings& settings,
                      const std::filesystem::path& run);

/** Has airlock-bootrun do its work in a run directory (boot_run.hpp). On
 * return it is dead. BootCancelled when one of `ends` becomes true, BootFailed
 * when the boot did not end well.
 *
 * Call it from a thread that stays: the child dies with it. */
void runDirtySide(const BootSettings& settings, const JobRequest& request,
                  const std::filesystem::path& run,
                  const std::vector<const std::atomic<bool>*>& ends,
                  StageClock& clock);

} // namespace airlock::boot
