#pragma once

#include "common/json.hpp"

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>

/** What is known of a rig outside of it: files in a directory. */
namespace airlock::rig
{

/** A process that is still the one that it was. */
struct KnownProcess
{
    pid_t pid = -1;
    std::uint64_t start = 0; ///< of its life, see proc(5)

    /** Of this process id; nothing when there is none. `proc`: a descriptor of
     * /proc, for who may have another one mounted by now. */
    static std::optional<KnownProcess> of(pid_t pid, int proc);
    bool alive() const;
    /** To this process, and to none that has got its number since. */
    void signal(int number) const;
};

/** Where a rig of this build has its files. */
class RigState
{
  public:
    explicit RigState(const std::filesystem::path& build);

    const std::filesystem::path& directory() const { return directory_; }
    std::filesystem::path site() const { return directory_ / "site"; }
    std::filesystem::path log() const { return directory_ / "log"; }
    /** Programs for a host's shell. */
    std::filesystem::path programs(const std::string& host) const;

    /** Whether a rig has left files. */
    bool exists() const;
    /** The processes that hold it: ours outside, and the init inside. */
    void noteKeeper(const KnownProcess& keeper, const KnownProcess& init);
    std::optional<KnownProcess> keeper() const { return process("keeper"); }
    std::optional<KnownProcess> init() const { return process("init"); }

    /** "starting", "up" or "failed", and what is being done. */
    void note(const std::string& state, const std::string& step);
    Json status() const;

    /** Ends it and removes its files: afterwards nothing is left. False when
     * there was none. */
    bool takeDown();

  private:
    std::optional<KnownProcess> process(const std::string& which) const;

    std::filesystem::path directory_;
};

} // namespace airlock::rig
