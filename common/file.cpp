#include "common/file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace airlock
{

namespace
{

struct stat statOf(int fd)
{
    struct stat info = {};
    if (::fstat(fd, &info) != 0)
    {
        throwErrno("cannot look at an open file");
    }
    return info;
}

[[noreturn]] void refuseSize(std::string_view where, std::size_t max)
{
    throw Refused(where, "is longer than the " + std::to_string(max) +
                             " bytes that are allowed");
}

std::size_t sizeWithin(int fd, std::size_t max, std::string_view where)
{
    const std::uint64_t size = fileSize(fd);
    if (size > max)
    {
        refuseSize(where, max);
    }
    return size;
}

} // namespace

UniqueFd openFile(const std::filesystem::path& path, int flags, mode_t mode)
{
    UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC, mode));
    if (!fd)
    {
        throwErrno("cannot open " + path.string());
    }
    return fd;
}

UniqueFd openRegularAt(int directory, const std::string& name, int flags)
{
    UniqueFd fd(::openat(directory, name.c_str(),
                         flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
    if (!fd)
    {
        throw Refused(name, errno == ELOOP
                                ? "is a symbolic link"
                                : "cannot be opened: " +
                                      std::generic_category().message(errno));
    }
    if (!S_ISREG(statOf(fd.get()).st_mode))
    {
        throw Refused(name, "is no regular file");
    }
    return fd;
}

std::uint64_t fileSize(int fd)
{
    return static_cast<std::uint64_t>(statOf(fd).st_size);
}

Bytes readFile(int fd, std::size_t max, std::string_view where)
{
    Bytes out(sizeWithin(fd, max, where));
    readExactAt(fd, out, 0);
    return out;
}

Bytes readFile(const std::filesystem::path& path, std::size_t max)
{
    return readFile(openFile(path, O_RDONLY).get(), max, path.string());
}

std::string readTextFile(const std::filesystem::path& path, std::size_t max)
{
    UniqueFd fd = openFile(path, O_RDONLY);
    std::string out(sizeWithin(fd.get(), max, path.string()), '\0');
    readExactAt(fd.get(),
                {reinterpret_cast<std::uint8_t*>(out.data()), out.size()}, 0);
    return out;
}

Bytes readToEnd(int fd, std::size_t max, std::string_view where)
{
    constexpr std::size_t step = 64U << 10;
    Bytes out;
    for (;;)
    {
        std::size_t used = out.size();
        out.resize(used + step);
        ssize_t n = ::read(fd, out.data() + used, step);
        if (n < 0 && errno != EINTR)
        {
            throwErrno("cannot read " + std::string(where));
        }
        out.resize(used + static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
        if (n == 0)
        {
            return out;
        }
        if (out.size() > max)
        {
            refuseSize(where, max);
        }
    }
}

void writeAll(int fd, ByteView data)
{
    while (!data.empty())
    {
        ssize_t n = ::write(fd, data.data(), data.size());
        if (n < 0 && errno != EINTR)
        {
            throwErrno("cannot write");
        }
        data = data.subspan(static_cast<std::size_t>(std::max<ssize_t>(n, 0)));
    }
}

void readExactAt(int fd, std::span<std::uint8_t> out, std::uint64_t offset)
{
    while (!out.empty())
    {
        ssize_t n =
            ::pread(fd, out.data(), out.size(), static_cast<off_t>(offset));
        if (n < 0 && errno != EINTR)
        {
            throwErrno("cannot read at offset " + std::to_string(offset));
        }
        if (n == 0)
        {
            throw Error("a file ends at offset " + std::to_string(offset) +
                        ", " + std::to_string(out.size()) +
                        " bytes before what was expected");
        }
        auto done = static_cast<std::size_t>(std::max<ssize_t>(n, 0));
        out = out.subspan(done);
        offset += done;
    }
}

void writeAllAt(int fd, ByteView data, std::uint64_t offset)
{
    while (!data.empty())
    {
        ssize_t n =
            ::pwrite(fd, data.data(), data.size(), static_cast<off_t>(offset));
        if (n < 0 && errno != EINTR)
        {
            throwErrno("cannot write at offset " + std::to_string(offset));
        }
        auto done = static_cast<std::size_t>(std::max<ssize_t>(n, 0));
        data = data.subspan(done);
        offset += done;
    }
}

namespace
{

/** Some bytes at the same place of another file; a memfd's go to a file system
 * only through a pipe within the kernel. */
ssize_t copySome(int from, int to, off_t at, std::size_t length)
{
    off_t in = at;
    off_t out = at;
    ssize_t done = ::copy_file_range(from, &in, to, &out, length, 0);
    if (done < 0 && errno == EXDEV && ::lseek(to, at, SEEK_SET) == at)
    {
        done = ::sendfile(to, from, &in, length);
    }
    return done;
}

} // namespace

void copySparse(int from, int to, std::uint64_t size,
                const std::function<void()>& tick)
{
    constexpr off_t step = 32 << 20;
    auto end = static_cast<off_t>(size);
    for (off_t at = 0; at < end;)
    {
        off_t begin = ::lseek(from, at, SEEK_DATA);
        if (begin < 0 && errno == ENXIO)
        {
            return;
        }
        off_t hole = begin < 0 ? -1 : ::lseek(from, begin, SEEK_HOLE);
        if (hole < 0)
        {
            throwErrno("cannot look for data in a file");
        }
        at = std::min(hole, end);
        while (begin < at)
        {
            auto length = static_cast<std::size_t>(std::min(step, at - begin));
            ssize_t done = copySome(from, to, begin, length);
            if (done < 0)
            {
                throwErrno("cannot copy a file");
            }
            if (done == 0)
            {
                throw Error("cannot copy a file: it became shorter");
            }
            begin += done;
            if (tick)
            {
                tick();
            }
        }
    }
}

void syncDirectory(const std::filesystem::path& path)
{
    UniqueFd fd = openFile(path, O_RDONLY | O_DIRECTORY);
    if (::fsync(fd.get()) != 0)
    {
        throwErrno("cannot sync " + path.string());
    }
}

void writeFileAtomic(const std::filesystem::path& path, ByteView data,
                     mode_t mode)
{
    std::string temporary = path.string() + ".XXXXXX";
    UniqueFd fd(::mkostemp(temporary.data(), O_CLOEXEC));
    if (!fd)
    {
        throwErrno("cannot create a file beside " + path.string());
    }
    try
    {
        writeAll(fd.get(), data);
        if (::fchmod(fd.get(), mode) != 0 || ::fsync(fd.get()) != 0 ||
            ::rename(temporary.c_str(), path.c_str()) != 0)
        {
            throwErrno("cannot write " + path.string());
        }
    }
    catch (...)
    {
        ::unlink(temporary.c_str());
        throw;
    }
    auto parent = path.parent_path();
    syncDirectory(parent.empty() ? "." : parent);
}

void writeFileAtomic(const std::filesystem::path& path, std::string_view text,
                     mode_t mode)
{
    writeFileAtomic(path, asBytes(text), mode);
}

UniqueFd createMemfd(const std::string& name, std::uint64_t size)
{
    UniqueFd fd(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0)
    {
        throwErrno("cannot create a memory file of " + std::to_string(size) +
                   " bytes");
    }
    return fd;
}

void addSeals(int fd, int seals)
{
    if (::fcntl(fd, F_ADD_SEALS, seals) != 0)
    {
        throwErrno(
            "cannot seal a memory file (does a writable mapping exist?)");
    }
}

int seals(int fd)
{
    return std::max(::fcntl(fd, F_GET_SEALS), 0);
}

UniqueFd sealedMemfd(const std::string& name, ByteView data)
{
    UniqueFd fd = createMemfd(name, data.size());
    writeAllAt(fd.get(), data, 0);
    addSeals(fd.get(),
             F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    return fd;
}

Mapping::Mapping(int fd, std::uint64_t size, Access access) : size_(size)
{
    if (size == 0)
    {
        return; // mmap(2) refuses an empty range; an empty view serves
    }
    int protection =
        access == Access::read ? PROT_READ : PROT_READ | PROT_WRITE;
    void* start = ::mmap(nullptr, size, protection, MAP_SHARED, fd, 0);
    if (start == MAP_FAILED)
    {
        throwErrno("cannot map a file of " + std::to_string(size) + " bytes");
    }
    data_ = static_cast<std::uint8_t*>(start);
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0))
{}

Mapping& Mapping::operator=(Mapping&& other) noexcept
{
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

Mapping::~Mapping()
{
    if (data_ != nullptr)
    {
        ::munmap(data_, size_);
    }
}

TempDirectory::TempDirectory(const std::string& prefix)
{
    std::string name =
        (std::filesystem::temp_directory_path() / (prefix + "-XXXXXX"))
            .string();
    if (::mkdtemp(name.data()) == nullptr)
    {
        throwErrno("cannot create a directory " + name);
    }
    path_ = name;
}

TempDirectory::~TempDirectory()
{
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
}

} // namespace airlock
