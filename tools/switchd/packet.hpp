#pragma once

#include "common/bytes.hpp"
#include "common/fd.hpp"
#include "common/mac_address.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

struct sock_filter;

namespace airlock::sw
{

/** A frame as a packet socket gives it. */
struct Packet
{
    int link = 0;   ///< index of the interface that it came in at
    ByteView bytes; ///< may be cut short; valid during the call
    bool tagged = false;
};

/** Sees frames before the bridge, nftables and everything else does. What it
 * is to see is decided by a filter in the kernel. */
class PacketSocket
{
  public:
    using Sink = std::function<void(const Packet&)>;

    int fd() const { return fd_.get(); }

    /** Takes what has come, but not more than `max` frames at a time. False
     * when the interface has gone. */
    bool receive(std::size_t max, const Sink& sink);

    void send(ByteView frame);

  protected:
    PacketSocket();
    using Program = std::vector<sock_filter>;
    void setFilter(const Program& program);
    /** To an interface, or to all of them (0). */
    void bindTo(int link);

  private:
    UniqueFd fd_;
};

/** What comes in at one boot port: quarantine frames as a whole, of others the
 * beginning. */
class PortSocket : public PacketSocket
{
  public:
    PortSocket(int link, std::uint16_t etherType);

    /** Leaves out frames from this address, but for quarantine frames. */
    void ignore(const std::optional<MacAddress>& address);

  private:
    std::uint16_t etherType_;
    std::optional<MacAddress> ignored_;
    bool filtered_ = false;
};

/** What comes in at other interfaces from certain addresses. */
class WatchSocket : public PacketSocket
{
  public:
    WatchSocket();

    /** Frames from these addresses, unless they come in at one of these
     * interfaces. The comparison is of four bytes: there may be others. */
    void watch(const std::vector<MacAddress>& addresses,
               const std::vector<int>& exceptLinks);

    /** Throws Error that says what to do unless the kernel lets so many
     * addresses be watched. None is then. */
    void requireRoom(std::size_t addresses);
};

} // namespace airlock::sw
