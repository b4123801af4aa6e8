#pragma once

#include <cstdint>
#include <span>

namespace airlock::handover
{

/** Reads guest memory by guest-physical address from the file that holds it:
 * RAM from address 0 first, then RAM from 4 GiB. Refers to the file, which
 * has to stay open. */
class GuestMemory
{
  public:
    /** `low` and `high` are bytes of RAM below and above 4 GiB; the file has
     * at least low + high. */
    GuestMemory(int fd, std::uint64_t low, std::uint64_t high)
        : fd_(fd), low_(low), high_(high)
    {}

    /** False, and nothing read, when the range is not wholly in one of the two
     * parts. Throws Error when the file cannot be read. */
    bool read(std::uint64_t address, std::span<std::uint8_t> out) const;

  private:
    int fd_;
    std::uint64_t low_;
    std::uint64_t high_;
};

} // namespace airlock::handover
