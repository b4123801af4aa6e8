#pragma once

#include "bootsrv/machine/kept.hpp"
#include "bootsrv/machine/nic.hpp"
#include "bootsrv/machine/port_client.hpp"
#include "bootsrv/machine/roots.hpp"
#include "common/http_client.hpp"
#include "common/tls.hpp"

#include <memory>
#include <optional>

namespace airlock::machine
{

/** What a boot host asks its switch's agent over the network, through its own
 * port. */
class SwitchCalls
{
  public:
    SwitchCalls(const Site::Switch& site,
                std::shared_ptr<const tls::Context> context);

    /** Whether the agent can be reached and says that our port is open. */
    bool isOpen();
    /** Why it was not, the last time; "" when it was. */
    const std::string& reason() const { return reason_; }
    /** The same once, until it is another reason: for the log. */
    std::string news();
    /** Has us cut off (step 604). True only for the agent's own answer to this
     * very question that it is done. */
    bool cut();
    /** Tells it of a new root, which ends the lease; also when it wants none.
     * Error when there was no answer: then it may have it or not. */
    void rotate(const Secret& root);
    void close() { http_.close(); }

  private:
    bool shut(std::string why);

    http::Client http_;
    std::string reason_;
    std::string told_;
};

/** The boot host on its network: in each epoch with a new address, which opens
 * one lease of the switch's port (steps 620 and 622 of FIG. 6). As long as the
 * switch has only the root before, that one opens the port, and the first thing
 * is to tell it of the new one.
 *
 * Not shared between threads. */
class Presence
{
  public:
    /** `previous`: the root before, may be empty. */
    Presence(const std::string& nic, const Secret& root, const Secret& previous,
             Kept& kept, std::shared_ptr<const tls::Context> context,
             MakeProof prove);

    /** Does what falls due; to be called several times a second. May take a
     * few seconds when the switch does not answer. */
    void tick();
    bool isOpen() const { return state_ == State::open; }

    /** One attempt; true when the switch has said that it is done: then nothing
     * of ours gets out any more, and tick() does nothing until comeBack(). */
    bool cutOff();
    /** Steps 606 and 608: no address, no link. */
    void leave();
    void comeBack();

  private:
    enum class State
    {
        away,    ///< link down
        showing, ///< address set, the port may be open
        open,
        cut, ///< by ourselves
    };

    void begin();
    void show();
    void opened();
    void renew();
    bool confirmed();
    void away(const std::string& why);
    void tellRoot();

    Site site_;
    Roots roots_;
    MakeProof prove_;
    Nic nic_;
    SwitchCalls calls_;
    State state_ = State::away;
    std::uint64_t epoch_ = 0;
    std::optional<PortClient> port_;
    std::optional<Deadline> giveUp_; ///< showing: then the next epoch
    std::optional<Deadline> renewal_;
    std::optional<Deadline> check_;
    std::optional<Deadline> lost_; ///< open: not confirmed for so long
};

} // namespace airlock::machine
