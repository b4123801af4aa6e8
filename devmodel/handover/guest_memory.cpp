#include "devmodel/handover/guest_memory.hpp"

#include "common/file.hpp"

namespace airlock::handover
{

namespace
{

constexpr std::uint64_t kHighBase = std::uint64_t{1} << 32;

/** Whether [offset, offset + size) lies in [0, limit). */
bool fits(std::uint64_t offset, std::uint64_t size, std::uint64_t limit)
{
    return offset < limit && size <= limit - offset;
}

} // namespace

bool GuestMemory::read(std::uint64_t address, std::span<std::uint8_t> out) const
{
    if (fits(address, out.size(), low_))
    {
        readExactAt(fd_, out, address);
        return true;
    }
    if (address >= kHighBase && fits(address - kHighBase, out.size(), high_))
    {
        readExactAt(fd_, out, low_ + (address - kHighBase));
        return true;
    }
    return false;
}

} // namespace airlock::handover
