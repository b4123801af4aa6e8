#pragma once

#include "tests/machine/switch_net.hpp"
#include "tests/modes/capsule_files.hpp"

#include <functional>
#include <optional>
#include <string>

namespace airlock::test
{

/** A capsule with the clean image as it is shipped, at a port of a switch with
 * the real airlock-switchd, and a production host at another one.
 *
 * The thread that makes it lives in the switch's namespace until the end: that
 * is where the capsule's tap is.
 */
class SwitchedCapsule
{
  public:
    /** Under TCG on a busy machine. */
    static constexpr Milliseconds bootTime = std::chrono::minutes(8);

    /** Makes and enrols it. */
    SwitchedCapsule(const std::filesystem::path& images,
                    std::uint64_t stagingSize, unsigned cpus = 1);
    ~SwitchedCapsule();
    SwitchedCapsule(const SwitchedCapsule&) = delete;
    SwitchedCapsule& operator=(const SwitchedCapsule&) = delete;

    capsule::Capsule& capsule() { return *capsule_; }
    capsule::CapsuleOptions& options() { return options_; }
    MachineRig& rig() { return rig_; }
    SwitchNet& net() { return net_; }
    std::filesystem::path directory() const { return home_.path() / "capsule"; }

    using Meanwhile = std::function<void(capsule::RunningMode&)>;

    /** A mode from its start to its end; what there is to do meanwhile is done
     * in this thread. Throws when it does not end in time, with what it said.
     */
    capsule::ModeEnd run(bool dirty, Milliseconds limit,
                         const Meanwhile& meanwhile = {});
    /** The same until the power goes at the end of `meanwhile`. */
    void cut(bool dirty, const Meanwhile& meanwhile);

    /** The clean mode that runs has proved itself; throws with both sides' last
     * words when it does not. Returns how many frames of the boot host came out
     * at the production host since the capture was looked at last and before
     * the proof. */
    std::size_t waitOpen(capsule::RunningMode& mode);
    /** The switch has cut it off because it asked for that. Returns how many
     * frames of the boot host came out before. */
    std::size_t waitCutOff();

    /** A host agent at work, on the production host. */
    void asHost(const std::function<void(boot::Client&)>& action,
                const std::string& name = "host1");

  private:
    void makeCapsule(const std::filesystem::path& images,
                     std::uint64_t stagingSize);
    std::string lastWords() const;

    UniqueFd before_;
    MachineRig rig_;
    SwitchNet net_;
    TempDirectory home_;
    capsule::CapsuleOptions options_;
    std::optional<capsule::Capsule> capsule_;
    std::uint64_t opened_ = 0; ///< leases before the mode that runs
};

} // namespace airlock::test
