#pragma once

#include "common/bytes.hpp"
#include "common/fd.hpp"

#include <sys/types.h>

#include <filesystem>
#include <functional>
#include <string>

namespace airlock
{

/** open(2) with O_CLOEXEC; SystemError names the path. */
UniqueFd openFile(const std::filesystem::path& path, int flags,
                  mode_t mode = 0644);

/** Opens `name` (one component) in a directory that somebody else may have
 * written: no symbolic link, regular files only, never blocks on a FIFO.
 * Throws Refused naming the file. */
UniqueFd openRegularAt(int directory, const std::string& name, int flags);

std::uint64_t fileSize(int fd);

/** The whole of a file, from its start; Refused (naming `where`) when it is
 * longer than max bytes. Does not move the file offset; regular files and
 * memfds only. */
Bytes readFile(int fd, std::size_t max, std::string_view where);
Bytes readFile(const std::filesystem::path& path, std::size_t max);
/** The same as a text. */
std::string readTextFile(const std::filesystem::path& path, std::size_t max);

/** Reads until the writer of a pipe or socket is done. */
Bytes readToEnd(int fd, std::size_t max, std::string_view where);

/** Writes all of it at the current offset; retries short writes. */
void writeAll(int fd, ByteView data);

/** Reads or writes exactly these bytes at an offset; the offset of the file
 * does not move. A file that ends early is an Error. */
void readExactAt(int fd, std::span<std::uint8_t> out, std::uint64_t offset);
void writeAllAt(int fd, ByteView data, std::uint64_t offset);

/** Copies the data of a sparse file to an empty file of that size, in the
 * kernel where it can; holes stay holes. Calls `tick` every now and then, which
 * may throw. */
void copySparse(int from, int to, std::uint64_t size,
                const std::function<void()>& tick = {});

/** fsync of a directory, so that names created in it survive a crash. */
void syncDirectory(const std::filesystem::path& path);

/** Replaces a file: readers see the old or the new content, and the new one
 * is on the disk on return. A missing parent directory is an error. */
void writeFileAtomic(const std::filesystem::path& path, ByteView data,
                     mode_t mode = 0644);
void writeFileAtomic(const std::filesystem::path& path, std::string_view text,
                     mode_t mode = 0644);

/** An anonymous memory file of this size (zeros), sealable, O_CLOEXEC. The
 * name is only seen in /proc. */
UniqueFd createMemfd(const std::string& name, std::uint64_t size);

/** Adds F_SEAL_* bits. F_SEAL_WRITE fails while a writable mapping exists. */
void addSeals(int fd, int seals);
/** The seals of a memfd; 0 for a file that has none (or cannot have any). */
int seals(int fd);

/** Copies data into a memfd sealed against writing, shrinking and growing:
 * what a parser reads from it can no longer change under it. */
UniqueFd sealedMemfd(const std::string& name, ByteView data);

/** A mapping of a whole file, unmapped at the end. Move only. */
class Mapping
{
  public:
    enum class Access
    {
        read,
        readWrite, ///< shared: what is written reaches the file
    };

    Mapping() = default;
    Mapping(int fd, std::uint64_t size, Access access);
    Mapping(Mapping&& other) noexcept;
    Mapping& operator=(Mapping&& other) noexcept;
    ~Mapping();

    std::size_t size() const { return size_; }
    ByteView view() const { return {data_, size_}; }
    /** Only for readWrite mappings. */
    std::span<std::uint8_t> bytes() const { return {data_, size_}; }

  private:
    std::uint8_t* data_ = nullptr;
    std::size_t size_ = 0;
};

/** A private directory that is removed with all that is in it. */
class TempDirectory
{
  public:
    /** Made below $TMPDIR or /tmp; `prefix` tells a human whose it is. */
    explicit TempDirectory(const std::string& prefix = "airlock");
    TempDirectory(const TempDirectory&) = delete;
    TempDirectory& operator=(const TempDirectory&) = delete;
    ~TempDirectory();

    const std::filesystem::path& path() const { return path_; }

  private:
    std::filesystem::path path_;
};

} // namespace airlock
