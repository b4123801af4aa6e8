#pragma once

#include "hostagent/hypervisor/domain.hpp"

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

struct _virConnect;
struct _virDomain;

/** libvirt, as far as the host agent needs it. */
namespace airlock::host
{

struct FreeLibvirt
{
    void operator()(_virConnect* connection) const;
    void operator()(_virDomain* domain) const;
};

/** Something may have happened to the domain with this UUID: it was started,
 * trapped, stopped, resumed. Called on the event thread; must return soon. Not
 * after the end of its Connection, which waits for a call that goes on: end
 * that without a lock that the call takes. */
using OnDomainEvent = std::function<void(const std::string& uuid)>;

/** A connection to libvirt, with its events. libvirt's calls block while
 * libvirtd is away; alive() turns false then, and a new connection is needed.
 */
class Connection
{
  public:
    /** Throws LibvirtError. */
    Connection(const std::string& uri, OnDomainEvent onEvent);
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;
    ~Connection();

    bool alive() const;
    std::vector<std::shared_ptr<Domain>> activeDomains() const;
    /** Nothing when there is no such domain (any more). */
    std::shared_ptr<Domain> find(const std::string& uuid) const;

  private:
    class Listener;

    void listen();

    /** Also libvirt's, until it calls back no more. */
    std::shared_ptr<Listener> listener_;
    std::unique_ptr<_virConnect, FreeLibvirt> connection_;
    int lifecycleEvents_ = -1;
    int trapEvents_ = -1;
};

/** Runs libvirt's event loop in a thread of its own. One per process, made
 * before the first Connection and ended after the last one. */
class LibvirtEventLoop
{
  public:
    LibvirtEventLoop();
    ~LibvirtEventLoop();

  private:
    std::jthread thread_;
    int wakeTimer_ = -1;
};

} // namespace airlock::host
