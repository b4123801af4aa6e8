#pragma once

#include "common/error.hpp"
#include "common/qmp.hpp"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

struct _virConnect;
struct _virDomain;

/** libvirt, as far as the host agent needs it. */
namespace airlock::host
{

/** libvirt refused or failed; the text is libvirt's own. */
class LibvirtError : public Error
{
  public:
    LibvirtError(const std::string& what, int code) : Error(what), code_(code)
    {}

    /** virErrorNumber. */
    int code() const { return code_; }

  private:
    int code_;
};

struct FreeLibvirt
{
    void operator()(_virConnect* connection) const;
    void operator()(_virDomain* domain) const;
};

enum class RunState
{
    off,
    running,
    paused, ///< by whomever: the trap, an operator, an I/O error
    other,  ///< on its way down, crashed...
};

/** One domain of a connection. QMP commands go through libvirt's monitor.
 * Functions may be called from any thread, one at a time. */
class Domain : public QmpCommands
{
  public:
    explicit Domain(std::unique_ptr<_virDomain, FreeLibvirt> domain);

    const std::string& uuid() const { return uuid_; }
    const std::string& name() const { return name_; }

    /** The XML of the running domain, without secrets. */
    std::string xml() const;
    RunState state() const;
    /** libvirt's number of this life of the domain; -1 when it is off. It
     * tells one QEMU process from the next. */
    int id() const;
    void resume();
    void suspend();

    Json execute(std::string_view command, const Json& arguments = {},
                 Milliseconds timeout = std::chrono::seconds(30)) override;
    Json
    executeWithFd(std::string_view command, const Json& arguments, int fd,
                  Milliseconds timeout = std::chrono::seconds(30)) override;

    /** A command to the guest's agent; its answer is the guest's. Throws
     * LibvirtError, also when no agent is connected. */
    Json executeInGuest(std::string_view command, const Json& arguments = {},
                        std::chrono::seconds timeout = std::chrono::seconds(5));

  private:
    std::unique_ptr<_virDomain, FreeLibvirt> domain_;
    std::string uuid_;
    std::string name_;
};

/** Something may have happened to the domain with this UUID: it was started,
 * trapped, stopped, resumed. Called on the event thread; must return soon. */
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

    /** For the callbacks. */
    void notify(const std::string& uuid) const { onEvent_(uuid); }

  private:
    void listen();

    OnDomainEvent onEvent_;
    std::unique_ptr<_virConnect, FreeLibvirt> connection_;
    std::vector<int> lifecycleEvents_;
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
