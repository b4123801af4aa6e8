#pragma once

#include "common/console.hpp"
#include "tools/rigs/domain_case.hpp"
#include "tools/rigs/private_libvirt.hpp"

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

namespace airlock::rig
{

/** One guest of a HostRig: its console, as a shell of root. */
class HostedGuest
{
  public:
    HostedGuest(const PrivateLibvirt& libvirt, DomainCase domain,
                const std::filesystem::path& directory,
                std::function<std::string()> logs);

    const std::string& name() const { return domain_.name; }
    const std::string& tenant() const { return domain_.tenant; }
    /** The one disk of a guest that has no others. */
    std::filesystem::path image() const;
    std::filesystem::path consolePath() const;

    void start();
    std::string state() const;

    /** Waits until virsh says "running" and the guest answers on its console;
     * then a shell of root is there. Error with the daemons' last words. */
    void waitAlive(Milliseconds timeout);
    /** Waits until the domain is seen trapped (paused). */
    void waitPaused(Milliseconds timeout);
    /** Waits until the domain is off. */
    void waitOff(Milliseconds timeout);
    /** After a reboot: forgets the former life's console, then as waitAlive().
     */
    void waitReborn(Milliseconds timeout);
    /** Waits until another life than that with this boot id answers; for when
     * it is not known how far the reboot is. Returns its boot id. A question
     * that is not answered in `patience` is asked again. */
    std::string waitOtherLife(const std::string& bootId, Milliseconds timeout,
                              Milliseconds patience = std::chrono::seconds(5));

    /** Output of a command in the guest; Error unless it ends with 0. */
    std::string run(const std::string& command,
                    Milliseconds timeout = std::chrono::minutes(1));
    void send(const std::string& line);
    std::string bootId(Milliseconds timeout = std::chrono::seconds(5));
    /** Between waitAlive() and the end of that life. */
    Console& console() { return *console_; }

  private:
    void waitState(const std::string& wanted, Milliseconds timeout) const;

    const PrivateLibvirt& libvirt_;
    DomainCase domain_;
    std::filesystem::path directory_;
    std::function<std::string()> logs_;
    std::optional<Console> console_;
};

} // namespace airlock::rig
