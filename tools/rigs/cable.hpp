#pragma once

#include "common/bytes.hpp"
#include "common/fd.hpp"
#include "common/mac_address.hpp"

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace airlock::rig
{

/** A frame at the end of a cable. */
struct Caught
{
    Bytes bytes;
    std::optional<std::uint16_t> vlan; ///< of the tag, which is not in `bytes`
    std::uint16_t vlanType = 0;
    bool outgoing = false; ///< sent at this end
    /** When the kernel had it. */
    std::chrono::system_clock::time_point time;

    MacAddress destination() const;
    MacAddress source() const;
    std::uint16_t type() const;
};

/** One end of a cable: sends any frame, sees all that come. */
class CableEnd
{
  public:
    enum class Sees
    {
        incoming,
        both, ///< what is sent here, too
    };

    /** At this interface, in the calling thread's network namespace. `room`:
     * bytes that may wait to be taken. */
    explicit CableEnd(const std::string& name, Sees sees = Sees::incoming,
                      int room = 8 << 20);

    void send(ByteView frame);
    /** What has come and was not taken yet. Throws Error when some of it was
     * lost: else "nothing came" could mean that nobody looked. */
    std::vector<Caught> take();
    /** Readable when there is something to be taken. */
    int fd() const { return fd_.get(); }

  private:
    void requireNoneLost() const;

    std::string name_;
    UniqueFd fd_;
    Bytes buffer_;
};

} // namespace airlock::rig
