#include "devmodel/handover/bundle.hpp"

#include "common/file.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

namespace airlock::handover
{

namespace
{

constexpr const char* manifestName = "manifest.json";
constexpr const char* stateName = "device-state";
constexpr const char* digestsName = "memory.digests";
constexpr const char* memoryName = "memory.img";
constexpr std::size_t manifestMax = 1U << 20;
constexpr std::uint64_t digestEntryBytes = 40;

Bytes readMember(int directory, const std::string& name, std::uint64_t max)
{
    UniqueFd fd = openRegularAt(directory, name, O_RDONLY);
    return readFile(fd.get(), max, name);
}

void requireSize(std::string_view name, std::uint64_t actual,
                 std::uint64_t expected)
{
    if (actual != expected)
    {
        throw Refused(name, fmt::format("has {} bytes, the manifest says {}",
                                        actual, expected));
    }
}

UniqueFd openDirectory(const std::filesystem::path& path)
{
    UniqueFd fd(
        ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!fd)
    {
        throw Refused(path.string(),
                      "cannot be opened as a directory: " +
                          std::generic_category().message(errno));
    }
    return fd;
}

/** memory.img, with the holes of the source, synced. */
void saveMemory(const std::filesystem::path& path, const Bundle& bundle)
{
    UniqueFd fd = openFile(path, O_RDWR | O_CREAT | O_EXCL);
    auto size = static_cast<off_t>(bundle.memoryDigest().bytes);
    if (::ftruncate(fd.get(), size) != 0)
    {
        throwErrno("cannot write " + path.string());
    }
    bundle.copyMemoryTo(fd.get());
    if (::fsync(fd.get()) != 0)
    {
        throwErrno("cannot write " + path.string());
    }
}

} // namespace

Bundle::Bundle(Manifest manifest, Bytes deviceState, MemoryDigest digest,
               UniqueFd memory)
    : manifest_(std::move(manifest)), deviceState_(std::move(deviceState)),
      digest_(std::move(digest)), memory_(std::move(memory))
{
    if (deviceState_.size() > deviceStateMaxBytes)
    {
        throw Refused(stateName,
                      fmt::format("has {} bytes, at most {} are "
                                  "allowed",
                                  deviceState_.size(), deviceStateMaxBytes));
    }
    requireSize("memory", digest_.bytes, manifest_.guest.memoryBytes);
    requireSize("memory", fileSize(memory_.get()), digest_.bytes);
    manifest_.deviceStateBytes = deviceState_.size();
    manifest_.deviceStateSha256 = sha256(deviceState_);
    manifest_.memoryChunks = digest_.chunks.size();
    manifest_.memoryRoot = digest_.root();
}

Bundle Bundle::open(const std::filesystem::path& directory)
{
    UniqueFd dir = openDirectory(directory);
    Bytes text = readMember(dir.get(), manifestName, manifestMax);
    Bundle out;
    out.manifest_ = Manifest::parse(asText(text));
    const Manifest& manifest = out.manifest_;

    out.deviceState_ =
        readMember(dir.get(), stateName, manifest.deviceStateBytes);
    requireSize(stateName, out.deviceState_.size(), manifest.deviceStateBytes);
    if (!equalConstantTime(sha256(out.deviceState_),
                           manifest.deviceStateSha256))
    {
        throw Refused(stateName, "does not match its digest");
    }

    std::uint64_t listBytes = manifest.memoryChunks * digestEntryBytes;
    Bytes list = readMember(dir.get(), digestsName, listBytes);
    requireSize(digestsName, list.size(), listBytes);
    out.digest_ = MemoryDigest::decode(list, manifest.guest.memoryBytes);
    if (!equalConstantTime(out.digest_.root(), manifest.memoryRoot))
    {
        throw Refused(digestsName, "does not match the manifest's root");
    }

    out.memory_ = openRegularAt(dir.get(), memoryName, O_RDONLY);
    requireSize(memoryName, fileSize(out.memory_.get()),
                manifest.guest.memoryBytes);
    return out;
}

void Bundle::save(const std::filesystem::path& directory) const
{
    namespace fs = std::filesystem;
    if (fs::exists(fs::symlink_status(directory)))
    {
        throw Error(directory.string() +
                    " exists already; name a new directory for the bundle");
    }
    fs::path part = directory.string() + ".part";
    fs::remove_all(part); // left by a try that was cut short
    if (::mkdir(part.c_str(), 0700) != 0)
    {
        throwErrno("cannot create " + part.string());
    }
    try
    {
        saveMemory(part / memoryName, *this);
        writeFileAtomic(part / stateName, deviceState_, 0600);
        writeFileAtomic(part / digestsName, digest_.encode(), 0600);
        writeFileAtomic(part / manifestName, manifest_.toJson(), 0600);
        if (::rename(part.c_str(), directory.c_str()) != 0)
        {
            throwErrno("cannot create " + directory.string());
        }
    }
    catch (...)
    {
        std::error_code ignored;
        fs::remove_all(part, ignored);
        throw;
    }
    fs::path parent = directory.parent_path();
    syncDirectory(parent.empty() ? "." : parent);
}

MemoryFigures Bundle::copyMemoryTo(int destination, unsigned threads) const
{
    return copyMemory(memory_.get(), destination, digest_.bytes, &digest_,
                      threads)
        .figures;
}

} // namespace airlock::handover
