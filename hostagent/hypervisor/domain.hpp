#pragma once

#include "common/error.hpp"
#include "common/qmp.hpp"

#include <chrono>
#include <string>
#include <string_view>

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

enum class RunState
{
    off,
    running,
    paused, ///< by whomever: the trap, an operator, an I/O error
    other,  ///< on its way down, crashed...
};

/** One domain of a hypervisor. QMP commands go through the hypervisor's
 * monitor. Functions may be called from any thread, one at a time. */
class Domain : public QmpCommands
{
  public:
    virtual const std::string& uuid() const = 0;
    virtual const std::string& name() const = 0;

    /** The XML of the running domain, without secrets. */
    virtual std::string xml() const = 0;
    virtual RunState state() const = 0;
    /** libvirt's number of this life of the domain; -1 when it is off. It
     * tells one QEMU process from the next. */
    virtual int id() const = 0;
    virtual void resume() = 0;

    /** A command to the guest's agent; its answer is the guest's. Throws
     * LibvirtError, also when no agent is connected. */
    virtual Json
    executeInGuest(std::string_view command, const Json& arguments = {},
                   std::chrono::seconds timeout = std::chrono::seconds(5)) = 0;
};

} // namespace airlock::host
