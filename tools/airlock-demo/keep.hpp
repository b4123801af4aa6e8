#pragma once

#include "common/fd.hpp"
#include "story.hpp"

#include <filesystem>
#include <optional>

namespace airlock::demo
{

/** Keeps the demo's guest alive: passes its console on to a Unix socket and
 * boots it again whenever it reboots, until a signal ends the program or the
 * guest powers off. */
class Keeper
{
  public:
    Keeper(Story& story, const std::filesystem::path& socket);

    /** Returns when the guest has powered itself off. */
    void run();

  private:
    void acceptClient();
    void fromClient();
    void fromGuest();
    void tell(const std::string& text);
    bool serveOnce();
    void bootTrapped();

    Story& story_;
    UniqueFd listener_;
    std::optional<UniqueFd> client_;
};

} // namespace airlock::demo
