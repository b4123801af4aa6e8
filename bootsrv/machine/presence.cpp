#include "bootsrv/machine/presence.hpp"

#include "common/error.hpp"
#include "common/log.hpp"

#include <thread>

namespace airlock::machine
{

namespace
{

/** The agent is one cable away. */
constexpr Milliseconds connectTime = std::chrono::seconds(2);
constexpr Milliseconds callTime = std::chrono::seconds(3);
/** How long an epoch is tried. */
constexpr Milliseconds showTime = std::chrono::seconds(12);
constexpr Milliseconds showStep = std::chrono::milliseconds(700);
constexpr Milliseconds carrierTime = std::chrono::seconds(10);
/** Between a first hello and the first packet: the agent opens the port. */
constexpr Milliseconds openTime{100};

http::ClientLimits limitsForSwitch()
{
    http::ClientLimits out;
    out.connect = connectTime;
    out.call = callTime;
    out.bodyBytes = 64U << 10;
    return out;
}

bool isOver(std::optional<Deadline>& timer)
{
    return timer && timer->passed();
}

} // namespace

SwitchCalls::SwitchCalls(const Site::Switch& site,
                         std::shared_ptr<const tls::Context> context)
    : http_({site.host, site.port, tls::switchRole}, std::move(context),
            limitsForSwitch())
{}

bool SwitchCalls::isOpen()
{
    try
    {
        Json answer = http_.call("GET", "/v1/port").json();
        const std::string state =
            JsonField(answer, "switch").at("state").string(64);
        if (state != "open")
        {
            return shut("it says that the port is " + printable(state));
        }
        reason_.clear();
        return true;
    }
    catch (const Error& error)
    {
        http_.close();
        return shut(error.what());
    }
}

bool SwitchCalls::shut(std::string why)
{
    reason_ = std::move(why);
    return false;
}

std::string SwitchCalls::news()
{
    if (reason_ == told_)
    {
        return "";
    }
    told_ = reason_;
    return told_;
}

bool SwitchCalls::cut()
{
    Bytes nonce(32);
    fillRandom(nonce);
    std::string text = toHex(nonce);
    // The connection may be one from before the last lease.
    http_.close();
    Json answer = http_.call("POST", "/v1/cut", Json{{"nonce", text}}).json();
    http_.close();
    JsonField root(answer, "switch");
    return root.at("nonce").string(64) == text &&
           root.at("state").string(64) == "cut-off";
}

void SwitchCalls::rotate(const Secret& root)
{
    http_.close();
    const WipedJson body(Json{{"root", toHex(root.view())}});
    try
    {
        http_.call("POST", "/v1/rotate", body.json);
    }
    catch (const http::Problem& problem)
    {
        if (problem.code() != "no-root")
        {
            throw;
        }
    }
    http_.close();
}

Presence::Presence(const std::string& nic, const Secret& root,
                   const Secret& previous, Kept& kept,
                   std::shared_ptr<const tls::Context> context, MakeProof prove)
    : site_(kept.get().site), roots_(root, previous, kept),
      prove_(std::move(prove)), nic_(nic),
      calls_(site_.switchTo.value(), std::move(context))
{
    if (!site_.network)
    {
        throw Error("the machine was not told its IP address");
    }
    nic_.leave();
}

void Presence::begin()
{
    const Site::Switch& site = site_.switchTo.value();
    const Roots::Shown shown = roots_.take(site.window);
    epoch_ = shown.epoch;
    nic_.come(PortClient::addressFor(site, shown.root, epoch_));
    for (Deadline deadline(carrierTime); !nic_.carrier() && !deadline.passed();)
    {
        std::this_thread::sleep_for(Milliseconds(20));
    }
    port_.emplace(nic_.index(), site, shown.root, epoch_, prove_);
    state_ = State::showing;
    giveUp_ = Deadline(showTime);
    renewal_ = Deadline(Milliseconds(0));
    log::info("The boot host shows itself to the switch",
              {{"EPOCH", std::to_string(epoch_)}});
}

void Presence::show()
{
    if (isOver(giveUp_))
    {
        roots_.failed();
        away("the switch does not open the port" +
             (calls_.reason().empty() ? "" : ": " + calls_.reason()));
        return;
    }
    if (!isOver(renewal_))
    {
        return;
    }
    renewal_ = Deadline(showStep);
    bool said = port_->show() == PortClient::Said::open;
    std::this_thread::sleep_for(openTime);
    nic_.addIp(site_.network->address);
    if (!site_.network->gateway.empty())
    {
        nic_.addRoute(site_.network->gateway);
    }
    if (said || confirmed())
    {
        opened();
    }
}

void Presence::opened()
{
    const bool untold = roots_.untold() != nullptr;
    roots_.opened();
    if (untold && roots_.untold() == nullptr)
    {
        // It was told, and we did not know.
        log::notice("The switch has the new root");
    }
    state_ = State::open;
    nic_.announce(site_.network->address, port_->address());
    Milliseconds lease = std::chrono::seconds(site_.switchTo->leaseSeconds);
    renewal_ = Deadline(lease / 3);
    check_ = Deadline(lease / 2);
    lost_ = Deadline(lease);
    log::notice("The switch has opened the port",
                {{"EPOCH", std::to_string(epoch_)}});
    tellRoot();
}

/** It opened for the root before. */
void Presence::tellRoot()
try
{
    const Secret* root = roots_.untold();
    if (root == nullptr)
    {
        return;
    }
    calls_.rotate(*root);
    roots_.told();
    log::notice("The switch has the new root");
    leave();
    state_ = State::away;
}
catch (const Error& error)
{
    log::warning("The switch may not have the new root",
                 {{"REASON", error.what()}});
}

void Presence::renew()
{
    Milliseconds lease = std::chrono::seconds(site_.switchTo->leaseSeconds);
    if (isOver(renewal_))
    {
        renewal_ = Deadline(lease / 3);
        nic_.announce(site_.network->address, port_->address());
        if (port_->show() == PortClient::Said::open)
        {
            lost_ = Deadline(lease);
        }
    }
    if (isOver(check_))
    {
        check_ = Deadline(lease / 2);
        if (confirmed())
        {
            lost_ = Deadline(lease);
            tellRoot();
        }
    }
    if (state_ == State::open && isOver(lost_))
    {
        away("the lease has ended");
    }
}

/** A clock that is wrong, an address, a certificate: all of them look like a
 * port that is shut, unless the reason is told. */
bool Presence::confirmed()
{
    const bool open = calls_.isOpen();
    if (const std::string why = calls_.news(); !why.empty())
    {
        log::notice("The switch does not confirm that the port is open",
                    {{"EPOCH", std::to_string(epoch_)}, {"REASON", why}});
    }
    return open;
}

void Presence::away(const std::string& why)
{
    log::warning("The boot host is not on the network",
                 {{"EPOCH", std::to_string(epoch_)}, {"REASON", why}});
    leave();
    state_ = State::away;
}

void Presence::tick()
try
{
    switch (state_)
    {
    case State::away:
        begin();
        break;
    case State::showing:
        show();
        break;
    case State::open:
        renew();
        break;
    case State::cut:
        break;
    }
}
catch (const Error& error)
{
    away(error.what());
}

bool Presence::cutOff()
{
    if (state_ != State::open)
    {
        return false;
    }
    try
    {
        if (calls_.cut())
        {
            state_ = State::cut;
            log::notice("The switch has cut the boot host off",
                        {{"EPOCH", std::to_string(epoch_)}});
            return true;
        }
        log::warning("The switch did not cut the boot host off");
    }
    catch (const Error& error)
    {
        log::warning("The switch did not answer", {{"REASON", error.what()}});
        check_ = Deadline(Milliseconds(0));
    }
    return false;
}

void Presence::leave()
{
    calls_.close();
    port_.reset();
    nic_.leave();
}

void Presence::comeBack()
{
    state_ = State::away;
}

} // namespace airlock::machine
