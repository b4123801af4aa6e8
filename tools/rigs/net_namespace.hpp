#pragma once

#include "common/fd.hpp"
#include "common/mac_address.hpp"

#include <functional>
#include <string>

namespace airlock::rig
{

/** A network namespace that exists as long as the object. */
class NetNamespace
{
  public:
    NetNamespace();
    /** The one that the calling thread is in. */
    static NetNamespace current();

    /** Runs it in a thread inside. What it throws comes out here. */
    void run(const std::function<void()>& action) const;
    /** Moves the calling thread into it. */
    void enter() const;
    /** A name for "ip link ... netns", good while this process lives. */
    std::string path() const;

  private:
    explicit NetNamespace(UniqueFd fd) : fd_(std::move(fd)) {}

    UniqueFd fd_;
};

/** The Ethernet address of an interface in the calling thread's namespace. */
MacAddress addressOf(const std::string& link);

} // namespace airlock::rig
