#pragma once

#include "common/json.hpp"
#include "tools/switchd/enrolment.hpp"
#include "tools/switchd/port.hpp"

#include <filesystem>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

namespace airlock::sw
{

struct PortOptions
{
    std::string name; ///< of the interface
    /** Whether broadcasts go out of the port while it is open: without them,
     * nobody finds the boot host by ARP. */
    bool broadcast = true;
    bool plain = true; ///< see PortSettings
};

struct AgentSettings
{
    std::string bridge = "br0";
    std::filesystem::path state = "/var/lib/airlock/switchd";
    std::uint16_t etherType = quarantine::defaultEtherType;
    std::chrono::seconds lease{10};
    std::uint64_t window = 16;
    unsigned guesses = 100;
    unsigned challenges = 5;
    /** How often the kernel's state is compared with what it should be. */
    std::chrono::milliseconds checkEvery{2000};
    std::vector<PortOptions> ports;
};

/** Shuts all boot ports by the nftables rules alone, which go by the ports'
 * names: neither bridge nor ports have to be there yet. */
void fenceOff(const AgentSettings& settings);

/** There is no such boot port, or none of this boot host. */
class NoSuchPort : public Error
{
  public:
    using Error::Error;
};

/** What happened, for those who follow; see docs/protocol-switch.md. */
using EventSink = std::function<void(const Json&)>;

/** The agent of one bridge: sets it up, watches its boot ports, opens and
 * shuts them. From the constructor on everything is cut off; run() opens.
 *
 * The calls may come from any thread. */
class SwitchAgent
{
  public:
    /** Throws Error when the bridge is not there or cannot be set up. Ports
     * that are missing may come later. */
    SwitchAgent(const AgentSettings& settings, EventSink events);
    /** Cuts all ports off. */
    ~SwitchAgent();
    SwitchAgent(const SwitchAgent&) = delete;
    SwitchAgent& operator=(const SwitchAgent&) = delete;

    /** Works until stop is requested; calls `alive` every now and then. */
    void run(const std::stop_token& stop, const std::function<void()>& alive);

    /** What it does, with all ports. */
    Json status();
    /** One port; this and all below throw NoSuchPort. */
    Json status(const std::string& port);

    /** Cuts a port off; on return the kernel has done it. */
    void cut(const std::string& port, const std::string& why);
    /** The same for the port of a boot host, which gets to see the answer. */
    Json cutByHost(const std::string& host);
    Json statusOfHost(const std::string& host);
    /** See PortAgent::rotate(). */
    Json rotateByHost(const std::string& host, const Secret& root);

    void enroll(const std::string& port, const Enrolment& enrolment);
    /** A new root, counted from epoch 0, for a port that has one. */
    void rotate(const std::string& port, const Secret& root);

  private:
    class Impl;
    std::unique_ptr<Impl> impl_;
};

} // namespace airlock::sw
