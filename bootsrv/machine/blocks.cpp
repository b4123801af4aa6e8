#include "bootsrv/machine/blocks.hpp"

#include "common/error.hpp"
#include "common/file.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>

namespace airlock::machine
{

DeviceBlocks::DeviceBlocks(const std::filesystem::path& path)
    : name_(path.string()), fd_(openFile(path, O_RDWR))
{
    struct stat info = {};
    if (::fstat(fd_.get(), &info) != 0)
    {
        throwErrno("cannot look at " + name_);
    }
    device_ = S_ISBLK(info.st_mode);
    if (!device_)
    {
        bytes_ = fileSize(fd_.get());
    }
    else if (::ioctl(fd_.get(), BLKGETSIZE64, &bytes_) != 0)
    {
        throwErrno("cannot find out the size of " + name_);
    }
}

void DeviceBlocks::requireInside(std::uint64_t offset, std::uint64_t size) const
{
    if (offset > bytes_ || size > bytes_ - offset)
    {
        throw Refused(name_, "ends before what is to be read or written");
    }
}

void DeviceBlocks::read(std::span<std::uint8_t> out, std::uint64_t offset)
{
    requireInside(offset, out.size());
    readExactAt(fd_.get(), out, offset);
}

void DeviceBlocks::write(ByteView data, std::uint64_t offset)
{
    requireInside(offset, data.size());
    writeAllAt(fd_.get(), data, offset);
}

void DeviceBlocks::sync()
{
    if (::fdatasync(fd_.get()) != 0)
    {
        throwErrno("cannot sync " + name_);
    }
}

void DeviceBlocks::discard(std::uint64_t offset, std::uint64_t bytes)
{
    requireInside(offset, bytes);
    if (device_)
    {
        std::array<std::uint64_t, 2> range = {offset, bytes};
        static_cast<void>(::ioctl(fd_.get(), BLKDISCARD, range.data()));
        return;
    }
    static_cast<void>(
        ::fallocate(fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    static_cast<off_t>(offset), static_cast<off_t>(bytes)));
}

} // namespace airlock::machine
